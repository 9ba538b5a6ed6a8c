"""The way from picture to picture and along dimensions, drawn from a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from vae_jax import run as run_lib
from vae_jax.commands import abilities, interpolations, samples, traversals
from vae_jax.commands.samples import sample
from vae_jax.errors import UserError
from vae_jax.experiment import assemble
from vae_jax.exploration import interpolation, sampling
from vae_jax.report import grids, plots


def draw_interpolation(run, **given):
    found = interpolations.interpolate(run, **given)
    return interpolations.draw_interpolation(run, found)


def draw_traversal(run, *given, **named):
    return traversals.draw_traversal(run, traversals.traverse(run, *given, **named))


@pytest.fixture
def make_run(tiny_config, faces, tmp_path):
    """Returns a function that makes a run of new parameters, without training.

    Its raw parameters are zeros: whoever draws by them draws gray.
    """

    def make(**settings):
        tiny_config.model.update(settings)
        assembled = assemble(tiny_config, len(faces.splits["train"].images))
        rng = np.random.default_rng(0)
        variables = jax.tree.map(
            lambda a: jnp.float32(rng.normal(size=a.shape) / np.sqrt(a.shape[0])),
            assembled.shapes,
        )
        zeros = jax.tree.map(jnp.zeros_like, variables)
        return run_lib.Run(
            workdir=tmp_path,
            experiment=assembled,
            step=0,
            variables={"ema": variables, "raw": zeros},
            recipe={**faces.recipe, "attribute_names": faces.attribute_names},
            open_dataset=lambda: faces,
        )

    return make


def read_grid(path, rows, columns, headings=False):
    """Returns the images of a grid, [rows,columns,16,16] in [0, 1].

    Below headings of the columns, beside names of the rows and over a caption.
    """
    scale = grids._fitting_scale(rows, columns, 16, 16)
    cell, top = 16 * scale + grids.MARGIN, grids.MARGIN + headings * grids.LINE
    with Image.open(path) as picture:
        pixels = np.asarray(picture, np.float32) / 255
    left = pixels.shape[1] - columns * cell
    pixels = pixels[top : top + rows * cell, left:]
    cells = pixels.reshape(rows, cell, columns, cell).swapaxes(1, 2)
    return cells[:, :, : 16 * scale : scale, : 16 * scale : scale]


def read_animation(path):
    """Returns the frames of a gray animation in [0, 1], each as often as it is due."""
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0
        frames = []
        for frame in ImageSequence.Iterator(picture):
            pixels = np.asarray(frame.convert("L"), np.float32)[::2, ::2] / 255
            frames += [pixels] * round(frame.info["duration"] / 100)
    return np.stack(frames)


def assert_drawn(images, expected):
    np.testing.assert_allclose(images, np.squeeze(expected, -1), atol=0.51 / 255)


def encode(run, split, indices):
    labels = run.labels(split)
    labels = None if labels is None else labels[np.asarray(indices)]
    images = run.dataset.splits[split].images[list(indices)]
    return sampling.encode_images(run.model(), images, labels)


def test_a_trained_run_is_drawn(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path / "run")
    paths = draw_interpolation(run) + draw_traversal(run)
    images = tmp_path / "run" / "images"
    assert paths == [
        images / f"{name}.{suffix}"
        for name in ("interpolation", "traversal")
        for suffix in ("png", "gif", "json")
    ]
    # Six test pictures: three pairs, ten frames between two originals.
    row = read_grid(paths[0], 3, 12, headings=True)[0]
    assert_drawn(row[[0, 11]], run.dataset.splits["test"].images[:2] / np.float32(255))
    codes = encode(run, "test", [0, 1])
    assert_drawn(row[[1, 10]], sampling.decode_codes(run.model(), codes))
    assert read_animation(paths[1]).shape == (6 * 9, 16, 16)
    read_grid(paths[3], 4, 9)
    assert read_animation(paths[4]).shape == (16, 2 * 18, 2 * 18)
    assert json.loads(paths[5].read_text())["ordered_by"] == "kl"


@pytest.mark.parametrize("name, spherical", [("ae", False), ("vae", True)])
def test_rows_are_decoded_ways_between_test_pictures(make_run, name, spherical):
    run = make_run(name=name)
    png, gif, said = draw_interpolation(
        run, indices=[4, 0, 3], num_steps=5, spherical=spherical
    )
    codes = encode(run, "test", [4, 0, 3])
    rows = read_grid(png, 2, 7, headings=True)
    originals = run.dataset.splits["test"].images[[4, 0, 3]] / np.float32(255)
    report = json.loads(said.read_text())
    assert report["way_points"] == {"indices": [4, 0, 3]}
    assert report["interpolation"] == ("spherical" if spherical else "linear")
    assert report["num_steps"] == 5
    ends = [(figures["from"], figures["to"]) for figures in report["rows"]]
    assert ends == [(4, 0), (0, 3)]
    for row, first, figures in zip(rows, (0, 1), report["rows"], strict=True):
        a, b = codes[first], codes[first + 1]
        middle = (a + b) / 2
        if spherical:
            norms = np.linalg.norm([a, b], axis=1)
            middle = a / norms[0] + b / norms[1]
            middle *= norms.mean() / np.linalg.norm(middle)
        decoded = sampling.decode_codes(run.model(), np.stack([a, middle, b]))
        assert_drawn(row[[1, 3, 5]], decoded)
        assert_drawn(row[[0, 6]], originals[[first, first + 1]])
        named = {"first": a, "middle": middle, "last": b}
        for place, code in named.items():
            expected = pytest.approx(np.linalg.norm(code), rel=1e-5)
            assert figures[f"norm_{place}"] == expected
        way = interpolation.interpolate(a, b, 5, spherical)
        frames = sampling.decode_codes(run.model(), way)[..., 0]
        steps = np.square(np.diff(frames, axis=0)).mean((1, 2))
        assert figures["mean_squared_step"] == pytest.approx(steps.mean(), rel=1e-3)
        ratio = pytest.approx(steps.max() / steps.mean(), rel=1e-3)
        assert figures["largest_over_mean"] == ratio
    # From 4 by 0 and 3 to just before 4 again.
    frames = read_animation(gif)
    assert len(frames) == 3 * 4
    np.testing.assert_array_equal(frames[:5], rows[0, 1:6])
    np.testing.assert_array_equal(frames[4:9], rows[1, 1:6])
    home = sampling.decode_codes(run.model(), (codes[[2]] + 3 * codes[[0]]) / 4)
    if not spherical:
        assert_drawn(frames[[-1]], home)


def test_a_step_larger_than_the_others_is_told(make_run):
    run = make_run(name="ae")
    same = draw_interpolation(run, indices=[2, 2])[2]
    (row,) = json.loads(same.read_text())["rows"]
    assert row["mean_squared_step"] == 0 and row["largest_over_mean"] == 1
    # Saturated pixels change only near the middle of the way.
    head = run.variables["ema"].params["decoder"]["head"]
    head["kernel"] = 1e4 * head["kernel"]
    sharp = draw_interpolation(run, indices=[0, 1])[2]
    (row,) = json.loads(sharp.read_text())["rows"]
    assert row["largest_over_mean"] > 1.5


def test_seeds_are_samples_of_the_prior(make_run):
    run = make_run()
    png, _, said = draw_interpolation(run, seeds=[3, 5], num_steps=4, spherical=True)
    assert json.loads(said.read_text())["way_points"] == {"seeds": [3, 5]}
    (row,) = read_grid(png, 1, 4)
    assert_drawn(row[0], sample(run, "prior", 1, seed=3)[0])
    assert_drawn(row[3], sample(run, "prior", 1, seed=5)[0])


def test_own_pictures_are_way_points_too(make_run):
    run = make_run()
    images = run.dataset.splits["train"].images[:2]
    files = ["a.jpg", "b.jpg"]
    png, _, said = draw_interpolation(run, pictures=(files, images), num_steps=3)
    report = json.loads(said.read_text())
    assert report["way_points"] == {"pictures": files}
    assert (report["rows"][0]["from"], report["rows"][0]["to"]) == ("a.jpg", "b.jpg")
    (row,) = read_grid(png, 1, 5, headings=True)
    assert_drawn(row[[0, 4]], images / np.float32(255))
    codes = encode(run, "train", [0, 1])
    assert_drawn(row[[1, 3]], sampling.decode_codes(run.model(), codes))


def test_way_points_that_are_not_there_are_refused(make_run):
    run = make_run(name="ae")
    with pytest.raises(UserError, match=r"--seeds is 1,2.*no prior.*--indices"):
        draw_interpolation(run, seeds=[1, 2])
    with pytest.raises(UserError, match=r"--indices has 6; .* 0 to 5"):
        draw_interpolation(run, indices=[0, 6])
    with pytest.raises(UserError, match="--indices has -1"):
        draw_interpolation(run, indices=[-1, 0])
    with pytest.raises(UserError, match="--indices is 3; at least 2 are needed"):
        draw_interpolation(run, indices=[3])
    with pytest.raises(UserError, match="--seeds is 3; at least 2 are needed"):
        draw_interpolation(run, seeds=[3])
    with pytest.raises(UserError, match=r"--indices has 6; .* 0 to 5"):
        draw_traversal(run, image_index=6)


def test_labels_change_along_with_the_codes(make_run):
    run = make_run(attributes="Smiling,Eyeglasses", prior="conditional")
    labels = run.labels("test")
    first, last = next(
        (i, j) for i in range(6) for j in range(6) if (labels[i] != labels[j]).any()
    )
    png, _, _ = draw_interpolation(run, indices=[first, last], num_steps=5)
    codes = encode(run, "test", [first, last])
    t = np.linspace(0, 1, 5, dtype=np.float32)[:, None]
    expected = sampling.decode_codes(
        run.model(),
        (1 - t) * codes[0] + t * codes[1],
        (1 - t) * labels[first] + t * labels[last],
    )
    assert_drawn(read_grid(png, 1, 7, headings=True)[0, 1:6], expected)
    # Nothing is known of the user's pictures, nor of samples.
    images = run.dataset.splits["test"].images[:2]
    png, *_ = draw_interpolation(run, pictures=(["a", "b"], images), num_steps=2)
    unknown = sampling.encode_images(run.model(), images)
    decoded = sampling.decode_codes(run.model(), unknown)
    assert_drawn(read_grid(png, 1, 4, headings=True)[0, 1:3], decoded)
    png, *_ = draw_interpolation(run, seeds=[0, 1], num_steps=2)
    assert_drawn(read_grid(png, 1, 2)[0, 0], sample(run, "prior", 1, seed=0)[0])


def set_head(run, kernel_columns, bias):
    """Makes the encoder's output `bias`, and random in the given columns only."""
    head = run.variables["ema"].params["encoder"]["head"]
    kernel = np.zeros(head["kernel"].shape, np.float32)
    rng = np.random.default_rng(0)
    kernel[:, kernel_columns] = rng.normal(size=(len(kernel), len(kernel_columns)))
    head["kernel"], head["bias"] = jnp.asarray(kernel), jnp.float32(bias)


def test_dimensions_are_ordered_by_their_kl(make_run):
    run = make_run()
    # Means 3 and 1 of variance 1 have the KL m^2/2; variance e^-2 of mean 0 has
    # (e^-2 - 1 + 2)/2; dimension 1 varies from picture to picture, but by little.
    set_head(run, [1], [1.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, -2.0])
    head = run.variables["ema"].params["encoder"]["head"]
    head["kernel"] = head["kernel"] * (
        0.3 / np.std(encode(run, "validation", range(10))[:, 1])
    )
    means = encode(run, "validation", range(10))
    head["bias"] = head["bias"].at[1].add(-means[:, 1].mean())
    png, gif, said = draw_traversal(run, 3, image_index=2, num_values=5)
    report = json.loads(said.read_text())
    assert report["ordered_by"] == "kl"
    expected = [0.5, 0.3**2 / 2, 4.5, (np.exp(-2) + 1) / 2]
    np.testing.assert_allclose(report["kl_by_dimension"], expected, rtol=1e-4)
    assert report["order"] == [2, 3, 0, 1] and report["drawn"] == [2, 3, 0]
    variances = [0, 0.3**2, 0, 0]
    np.testing.assert_allclose(
        report["variance_by_dimension"], variances, rtol=1e-4, atol=1e-9
    )
    assert report["active_units"] == 1 and report["image_index"] == 2
    np.testing.assert_allclose(report["values"], 3 * [[-3, -1.5, 0, 1.5, 3]])

    codes = np.tile(encode(run, "test", [2]), (5, 1))
    codes[:, 3] = [-3, -1.5, 0, 1.5, 3]
    rows = read_grid(png, 3, 5)
    assert_drawn(rows[1], sampling.decode_codes(run.model(), codes))
    # Two by two images with a white pixel around each, there and back.
    frames = read_animation(gif)
    assert frames.shape == (8, 36, 36)
    np.testing.assert_array_equal(frames[:5, 1:17, 19:35], rows[1])
    np.testing.assert_array_equal(frames[:5, 19:35, 1:17], rows[2])
    np.testing.assert_array_equal(frames[5:], frames[3:0:-1])
    assert (frames[:, 19:35, 19:35] == 1).all() and (frames[:, 0] == 1).all()


def test_an_autoencoder_is_ordered_by_the_variance_of_its_codes(make_run):
    run = make_run(name="ae")
    png, _, said = draw_traversal(run, num_values=3)
    report = json.loads(said.read_text())
    codes = encode(run, "validation", range(10))
    assert report["ordered_by"] == "variance of the code"
    assert report["kl_by_dimension"] is report["active_units"] is None
    assert report["order"] == np.argsort(-codes.var(0)).tolist()
    offsets = codes.std(0)[:, None] * [-3, 0, 3]
    expected = (codes.mean(0)[:, None] + offsets)[report["order"]]
    np.testing.assert_allclose(report["values"], expected, rtol=1e-4, atol=1e-5)
    read_grid(png, 4, 3)


def test_a_mixture_as_prior_is_no_prior_of_discrete_codes(make_run):
    run = make_run(prior="mixture", prior_components=3)
    assert not abilities.has_learned_codes(run)
    assert samples.best_samplers(run) == ["gaussian", "prior"]


def test_without_an_analytic_kl_the_variance_of_the_mean_orders(make_run):
    run = make_run(prior="mixture", prior_components=3)
    report = json.loads(draw_traversal(run)[2].read_text())
    assert report["ordered_by"] == "variance of the posterior's mean"
    assert report["kl_by_dimension"] is None
    means = encode(run, "validation", range(10))
    assert report["order"] == np.argsort(-means.var(0)).tolist()
    assert report["active_units"] == np.sum(means.var(0) > 0.01)
    prior = run.model().prior_of()
    weights = np.asarray(jax.nn.softmax(prior.logits))
    means, variances = prior.components.mean, np.exp(prior.components.logvar)
    mean = weights @ means
    std = np.sqrt(weights @ (variances + np.square(means)) - np.square(mean))
    ends = np.stack([mean - 3 * std, mean + 3 * std], axis=1)[report["order"]]
    found = np.asarray(report["values"])[:, [0, -1]]
    np.testing.assert_allclose(found, ends, atol=0.1 * std.max())


def test_a_conditional_priors_spread_is_that_of_the_pictures_labels(make_run):
    run = make_run(attributes="Smiling,Eyeglasses", prior="conditional")
    png, _, said = draw_traversal(run, image_index=1, num_values=3)
    report = json.loads(said.read_text())
    label = run.labels("test")[1]
    linear = jax.device_get(run.variables["ema"].params["prior"]["linear"])
    mean, logvar = np.split(label @ linear["kernel"] + linear["bias"], 2)
    offsets = np.exp(0.5 * logvar)[:, None] * [-3, 0, 3]
    expected = (mean[:, None] + offsets)[report["order"]]
    np.testing.assert_allclose(report["values"], expected, rtol=1e-4, atol=1e-5)
    # The KL is to each picture's own prior.
    labels = run.labels("validation")
    images = run.dataset.splits["validation"].images / np.float32(255)
    model = run.model()
    q = model.posterior(jnp.asarray(images), jnp.asarray(labels))
    means, logvars = np.split(labels @ linear["kernel"] + linear["bias"], 2, axis=1)
    difference = np.float64(q.logvar) - logvars
    shift = np.float64(q.mean) - means
    kl = np.exp(difference) + shift**2 / np.exp(logvars) - 1 - difference
    kl = 0.5 * kl.mean(0)
    np.testing.assert_allclose(report["kl_by_dimension"], kl, rtol=1e-3, atol=1e-5)
    changed = np.tile(encode(run, "test", [1]), (3, 1))
    changed[:, report["order"][0]] = report["values"][0]
    row = sampling.decode_codes(model, np.float32(changed), label)
    assert_drawn(read_grid(png, 4, 3)[0], row)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_shows_every_frame_for_its_time(tmp_path, channels):
    rng = np.random.default_rng(0)
    frames = rng.uniform(-0.2, 1.2, (4, 6, 5, channels)).astype(np.float32)
    path = tmp_path / "animation.gif"
    plots.animation(frames, path, seconds_per_frame=0.25, scale=3)
    with Image.open(path) as picture:
        assert picture.n_frames == 4 and picture.size == (15, 18)
        assert picture.info["loop"] == 0
        for frame, expected in zip(
            ImageSequence.Iterator(picture), frames, strict=True
        ):
            assert frame.info["duration"] == 250
            pixels = np.asarray(frame.convert("L" if channels == 1 else "RGB"), float)
            pixels = pixels.reshape(18, 15, channels)
            np.testing.assert_array_equal(pixels[::3, ::3], pixels[2::3, 1::3])
            levels = 255 * np.clip(expected, 0, 1)
            np.testing.assert_allclose(pixels[::3, ::3], levels, atol=0.51)
