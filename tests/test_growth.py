"""Training in stages: what grows is what it was, and the same bits, stopped or not."""

import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_tiny_config
from PIL import Image
from test_conv import noise

from configs import progressive_vae
from vae_jax import config as config_lib
from vae_jax import experiment, nesting, trees
from vae_jax import run as run_lib
from vae_jax.commands import opening, recorded
from vae_jax.data import batches, reduced
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import Variables
from vae_jax.models.networks.layers import halve, resize
from vae_jax.report.writer import read_lines
from vae_jax.training import checkpoint, growth, loop

CHANGES = {
    "conv": {},
    "patches of two": {"model.decoder_patch": 2},
    "resized": {"model.upsampling": "resize"},
    "style": {"model.decoder": "style"},
    "spatial": {"model.code_size": 4},
    "labels": {"model.attributes": "Smiling"},
    "half precision": {"precision": "fp16"},
    "discrete codes": {
        "model.name": "vq",
        "model.code_size": 4,
        "model.prior": "uniform",
        "model.quantizer": "ema",
        "model.codebook_size": 64,
        "objective.name": "quantised",
    },
}


def config_of(data_dir, **changes):
    config = new_tiny_config(data_dir)
    config.dataset.size = 32
    config.model.hidden_dim = 512
    config.model.network, config.model.width = "conv", 4
    config.model.skips = True
    config.train.stages = "16:8:16"
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    config_lib.validate(config)
    return config


def experiments(config):
    return [experiment.assemble(config, 40, p) for p in experiment.phases_of(config)]


def shaken(state):
    """A state all of whose parameters have moved: what is new begins at zero."""
    leaves, structure = jax.tree.flatten(state.params)
    leaves = [p + 0.3 * noise(p.shape, seed) for seed, p in enumerate(leaves)]
    params = jax.tree.unflatten(structure, leaves)
    return state.replace(params=params, step=jnp.int32(8))


def model_of(of_stage, state):
    return build.merge(of_stage.graphdef, Variables(state.params, state.state))


@pytest.mark.parametrize("changes", CHANGES.values(), ids=[*CHANGES])
def test_a_network_that_has_grown_is_the_function_that_it_was(data_dir, changes):
    small, large = experiments(config_of(data_dir, **changes))
    before = shaken(small.initial_state())
    after = large.grown_state(before)
    then, now = model_of(small, before), model_of(large, after)
    images, labels = jax.nn.sigmoid(noise((3, 32, 32, 1))), None
    if changes.get("model.attributes"):
        labels = jnp.float32([[1], [-1], [0]])
    expected, found = then.encode(halve(images), labels), now.encode(images, labels)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected
    )
    code = jax.tree.map(lambda a: noise(a.shape, 1), expected)
    drawn, expected = now.decode(code, labels), then.decode(code, labels)
    # What a likelihood is of are the maps, of which the mean is made.
    np.testing.assert_allclose(
        logit(drawn.mean), resize(logit(expected.mean), 2), atol=1e-3
    )
    assert float(jnp.abs(expected.mean - expected.mean.mean()).max()) > 0.05


def logit(mean):
    return jnp.log(mean) - jnp.log1p(-mean)


def test_averages_and_counts_grow_with_what_they_are_of(data_dir):
    small, large = experiments(config_of(data_dir))
    before = shaken(small.initial_state())
    moved = jax.tree.map(lambda a: a + 1, before.opt_state)
    before = before.replace(opt_state=moved)
    counted = {"skipped": jnp.int32(3), "faults": jnp.int32(2)}
    after = large.grown_state(before.replace(**counted))
    # Of the updates in a row none saw images of this size.
    assert (int(after.skipped), int(after.faults)) == (0, 0)
    there, here = trees.by_name(before), trees.by_name(after)
    for name, leaf in there.items():
        np.testing.assert_array_equal(here[name], leaf, err_msg=name)
    new = [name for name in here if name not in there]
    counts = [name for name in new if name.endswith("count")]
    moments = [name for name in new if name.startswith("opt_state") and "mu" in name]
    assert counts and moments
    for name in (*counts, *moments):
        assert not np.any(here[name]), name
    again = trees.by_name(large.grown_state(before))
    for name, leaf in here.items():
        np.testing.assert_array_equal(again[name], leaf)


def test_new_layers_take_their_first_steps_at_adams_length(data_dir):
    config = config_of(
        data_dir, **{"optimizer.name": "adam", "optimizer.weight_decay": 0.0}
    )
    small, large = experiments(config)
    optimizers = [small.optimizer, large.optimizer]
    before = shaken(small.initial_state())
    gradients = jax.tree.map(jnp.ones_like, before.params)
    opt_state = before.opt_state
    for _ in range(200):
        _, opt_state = optimizers[0].update(gradients, opt_state, before.params)
    after = large.grown_state(before.replace(opt_state=opt_state))
    gradients = jax.tree.map(jnp.ones_like, after.params)
    updates, _ = optimizers[1].update(gradients, after.opt_state, after.params)
    for name, update in trees.by_name(updates).items():
        np.testing.assert_allclose(
            update, -config.optimizer.learning_rate, rtol=1e-3, err_msg=name
        )


def test_a_schedule_goes_on_for_what_is_new(data_dir):
    config = config_of(
        data_dir,
        **{
            "optimizer.name": "adam",
            "optimizer.weight_decay": 0.0,
            "optimizer.schedule": "cosine",
        },
    )
    large = experiments(config)[1]
    state = large.initial_state()
    gradients = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = large.optimizer.update(gradients, state.opt_state, state.params)
    for name, update in trees.by_name(updates).items():
        first = 8 if name in new_names(config) else 0
        rate = config.optimizer.learning_rate * (1 + np.cos(np.pi * first / 12)) / 2
        np.testing.assert_allclose(-update, rate, rtol=1e-3, err_msg=name)


def new_names(config):
    small, large = (trees.by_name(e.shapes.params) for e in experiments(config))
    return large.keys() - small.keys()


def test_the_average_of_what_is_new_warms_up(data_dir):
    config = config_of(data_dir)
    small, large = experiments(config)
    before = shaken(small.initial_state()).replace(skipped=jnp.int32(5))
    after = large.grown_state(before)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8),
        "attributes": np.zeros((8, 0), bool),
    }
    done, _ = jax.jit(large.update())(after, batch)
    # After 8 updates the decay is (1 + 8) / (10 + 8), and the first one 1/10.
    new = new_names(config)
    for name, leaf in trees.by_name(done.ema_params).items():
        start = trees.by_name(after.ema_params)[name]
        now = trees.by_name(done.params)[name]
        share = 0.9 if name in new else 0.5
        np.testing.assert_allclose(leaf, start + share * (now - start), atol=1e-6)


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("grown") / "whole"
    return run_lib.train(config_of(data_dir), workdir)


def test_lines_of_metrics_say_their_size(whole):
    lines = read_lines(whole.workdir / "metrics.jsonl")
    assert {(x["step"], x["size"]) for x in lines} == {(4, 16), (8, 16), (12, 32)}
    # Updates of 16 and then 8 of 40 images.
    assert {x["epoch"] for x in lines} == {1.6, 3.2, 4.0}
    assert "12 steps of 16, then 8 images" in recorded.about(whole)
    assert whole.config.dataset.size == 32 and whole.step == 12
    assert run_lib.load(whole.workdir, "best").step == 12


@pytest.mark.parametrize("at", [2, 8, 10])
def test_a_run_that_was_stopped_grows_to_the_same_bits(
    whole, data_dir, tmp_path, monkeypatch, at
):
    config = config_of(data_dir)

    class Stopped(Exception):
        pass

    real = loop.build_dispatch

    def build_dispatch(*arguments, **settings):
        dispatch = real(*arguments, **settings)

        def until(state, *others):
            if int(state.step) == at:
                raise Stopped
            return dispatch(state, *others)

        return until

    monkeypatch.setattr(loop, "build_dispatch", build_dispatch)
    with pytest.raises(Stopped):
        run_lib.train(config, tmp_path)
    monkeypatch.undo()
    if at >= 8:
        run = run_lib.load(tmp_path)
        assert run.config.dataset.size == 16
        assert run.dataset.splits["test"].images.shape[1:] == (16, 16, 1)
    run_lib.train(config, tmp_path)
    workdirs = (tmp_path, whole.workdir)
    ours, theirs = ((each / "metrics.jsonl").read_bytes() for each in workdirs)
    assert ours == theirs
    states = []
    for workdir in workdirs:
        with checkpoint.Checkpoints(workdir / "checkpoints") as checkpoints:
            like = experiments(config)[1].state_shapes("data_parallel")
            states.append(checkpoints.restore("latest", like))
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stop_at_the_end_of_a_stage_is_a_stop(data_dir, tmp_path, monkeypatch):
    real = checkpoint.Checkpoints.save

    def save(*arguments):
        real(*arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    config = config_of(data_dir, **{"train.stages": "16:4"})
    assert run_lib.train(config, tmp_path).step == 4
    assert run_lib.load(tmp_path).config.dataset.size == 16
    # The recipe has the size that images will have grown to.
    assert opening.open_run(config, tmp_path).config.dataset.size == 16


def test_a_run_of_small_images_starts_one_of_larger_ones(whole, data_dir):
    config = config_of(data_dir, **{"train.stages": "", "dataset.size": 64})
    config.init_from, config.train.num_steps = str(whole.workdir), 1
    large = experiment.assemble(config, 40)
    given = run_lib._given(large)
    state = large.initial_state(given)
    images = jax.nn.sigmoid(noise((2, 64, 64, 1)))
    np.testing.assert_allclose(
        model_of(large, state).encode(images),
        whole.model().encode(halve(images)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.stages": "16:12"}, "its updates are 12 in all, and the run has 12"),
        ({"train.stages": "32:4"}, "sizes below dataset.size that divide it, 32, and"),
        ({"train.stages": "12:4"}, "divide it, 32, and 12 is none"),
        (
            {"train.stages": "8:4"},
            "the network at 8 pixels must be contained in the one at 32",
        ),
        (
            {"model.skips": False},
            "at 16 pixels must be contained .* with model.skips=True",
        ),
        (
            {"model.decoder": "style", "model.styles": "by_resolution"},
            "is .* in the one and .* in the other; allowed are",
        ),
        (
            {"dataset.size": 64, "model.code_size": 8},
            "at 16 pixels model.code_size is refused: 8 is none of the resolutions",
        ),
        ({"objective.adversarial_weight": 0.2}, "adversarial_weight is 0.2, and what"),
        (
            {"objective.perceptual_weight": 0.2, "objective.guide": "guide"},
            "perceptual_weight is 0.2, and what sharpens does not grow",
        ),
        ({"init_from": "run"}, "init_from is 'run', and a run that starts from an"),
    ],
)
def test_stages_that_do_not_fit_are_refused(data_dir, tmp_path, changes, said):
    with pytest.raises(UserError, match=f"config.train.stages is '.*{said}") as raised:
        run_lib.train(config_of(data_dir, **changes), tmp_path)
    assert "\n" not in str(raised.value)


def test_batches_of_a_stage_are_cut_over_the_devices(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(UserError, match="the 6 images .* at 16 pixels .* the 4 dev"):
        run_lib.train(config_of(data_dir, **{"train.stages": "16:8:6"}), tmp_path)


@pytest.mark.parametrize(
    "text", ["16", "16:", "a:4", "16:0", "32:4,16:4", "16:4:", "16:4:0", "16:4:4:4"]
)
def test_what_is_no_list_of_stages_is_refused(text):
    assert not growth.STAGES.accepts(text)


def test_a_checkpoint_belongs_to_the_phase_that_ends_with_it():
    phases = growth.plan("16:8,32:4", 64, 2, 20)
    assert [(p.size, p.first, p.last) for p in phases] == [
        (16, 0, 8),
        (32, 8, 12),
        (64, 12, 20),
    ]
    sizes = [growth.phase_at(phases, step).size for step in (0, 8, 9, 12, 13, 20, 21)]
    assert sizes == [16, 16, 32, 32, 64, 64, 64]


def test_each_epoch_sees_each_picture_once_whatever_the_batches():
    seen = [
        batches.batch_indices(
            0, p.first, p.last - p.first, p.batch_size, 10, p.images_at(0)
        ).ravel()
        for p in growth.plan("16:3:4,32:2:7", 64, 2, 12)
    ]
    assert [each.size for each in seen] == [12, 14, 14]
    for epoch in np.concatenate(seen).reshape(4, 10):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))


@pytest.mark.parametrize("num_images", [1, 26, 27, 100])
def test_so_many_images_take_so_many_steps(num_images):
    steps = growth.num_steps_for("16:3:4,32:2:7", 2, num_images)
    last = growth.plan("16:3:4,32:2:7", 64, 2, steps)[-1]
    assert last.images_at(steps) >= num_images
    # What the stages see is not cut short.
    assert steps == last.first or last.images_at(steps - 1) < num_images


def test_a_run_that_has_not_grown_starts_no_other(data_dir, tmp_path, monkeypatch):
    test_a_stop_at_the_end_of_a_stage_is_a_stop(data_dir, tmp_path / "a", monkeypatch)
    monkeypatch.undo()
    config = config_of(data_dir, **{"train.stages": ""})
    config.init_from = str(tmp_path / "a")
    with pytest.raises(UserError, match="has not grown to its last size at step 4"):
        run_lib.train(config, tmp_path / "b")


def test_a_picture_is_seen_as_a_small_image_is(data_dir, tmp_path, monkeypatch):
    test_a_stop_at_the_end_of_a_stage_is_a_stop(data_dir, tmp_path / "a", monkeypatch)
    run = run_lib.load(tmp_path / "a")
    whole = {n: v for n, v in run.recipe.items() if n != "averaged_from"}
    picture = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "me.png")
    large = read_pictures([tmp_path / "me.png"], {**whole, "size": 32})
    small = read_pictures([tmp_path / "me.png"], run.recipe)
    np.testing.assert_array_equal(small, reduced.averaged(large, 16))


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_recipe_grows(size):
    config = progressive_vae.get_config(str(size))
    config.precision = "fp32"
    config_lib.validate(config)
    nesting.check(config)
    assert [p.size for p in experiment.phases_of(config)][-1] == size


def test_smaller_pictures_are_means_of_squares_in_levels():
    images = np.random.default_rng(0).integers(0, 256, (1500, 8, 8, 3), np.uint8)
    found = reduced.averaged(images, 4)
    means = images.reshape(1500, 4, 2, 4, 2, 3).astype(np.float64).mean(axis=(2, 4))
    assert found.dtype == np.uint8
    assert np.abs(found - means).max() == 0.5
    # Halves rounded up would add an eighth of a level.
    assert abs(found.mean() - means.mean()) < 0.01


def test_a_data_set_of_its_own_size_stays_mapped(faces):
    assert reduced.reduced(faces, 16) is faces
    small = reduced.reduced(faces, 8)
    assert small.recipe["size"] == 8
    assert small.splits["test"].images.shape == (6, 8, 8, 1)
    assert small.splits["test"].attributes is faces.splits["test"].attributes
