"""Discrete codes at work: completions by a learned prior, and maps of codes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import new_tiny_config
from PIL import Image

from vae_jax import main, other_runs
from vae_jax import run as run_lib
from vae_jax.commands import code_maps, completions, evaluation, prior_flags, samples
from vae_jax.commands.completions import hidden_by
from vae_jax.errors import UserError

SIZE = 16
PARTS = "encoder,decoder,quantizers"


@pytest.fixture(scope="module")
def first_stage(data_dir, tmp_path_factory):
    config = new_tiny_config(data_dir)
    config.model.hidden_dim = 512
    config.model.network, config.model.width, config.model.code_size = "conv", 4, 4
    config.model.name, config.objective.name = "vq", "quantised"
    config.model.prior, config.model.quantizer = "uniform", "ema"
    config.model.codebook_size, config.train.num_steps = 8, 4
    return run_lib.train(config, tmp_path_factory.mktemp("vq"))


@pytest.fixture(scope="module", params=["transformer", "masked"])
def run(request, first_stage, tmp_path_factory):
    config = first_stage.config.copy_and_resolve_references()
    config.init_from = str(first_stage.workdir)
    config.parts.frozen = config.parts.initialised = PARTS
    config.model.prior, config.model.attributes = request.param, "Smiling,Eyeglasses"
    config.model.prior_width, config.model.prior_depth = 8, 1
    config.model.prior_heads = 2
    return run_lib.train(config, tmp_path_factory.mktemp(request.param))


def run_main(monkeypatch, *given):
    with flagsaver.flagsaver():
        monkeypatch.setattr("sys.argv", ["main", *given])
        with pytest.raises(SystemExit) as ended:
            main.cli()
    return ended.value.code


def test_a_prior_may_differ_in_what_only_trains_codebooks(first_stage, tmp_path):
    config = first_stage.config.copy_and_resolve_references()
    config.init_from = str(first_stage.workdir)
    config.parts.frozen = config.parts.initialised = PARTS
    config.model.prior, config.model.prior_width = "transformer", 8
    config.model.prior_heads, config.model.commitment = 2, 0.5
    config.train.num_steps = 1
    other_runs.check_init_from(config)
    config.model.likelihood = "logistic"
    with pytest.raises(UserError, match="the same model alone; .* model.likelihood"):
        other_runs.check_init_from(config)


@pytest.mark.parametrize(
    ("keep", "box", "corners"),
    [
        ("top", None, (0, 8, 16, 16)),
        ("bottom", None, (0, 0, 16, 8)),
        ("left", None, (8, 0, 16, 16)),
        ("right", None, (0, 0, 8, 16)),
        (None, [3, 5, 7, 6], (3, 5, 7, 6)),
    ],
)
def test_what_is_hidden_is_the_box_or_the_other_half(keep, box, corners):
    left, top, right, bottom = corners
    for y in range(SIZE):
        for x in range(SIZE):
            inside = left <= x < right and top <= y < bottom
            assert hidden_by(SIZE, keep, box)[y, x] == inside


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([1, 2, 3], "four numbers"),
        ([0, 0, 17, 4], "from 0 to 16"),
        ([-1, 0, 3, 4], "from 0 to 16"),
        ([5, 0, 5, 4], "left < right"),
        ([0, 0, 16, 16], "whole image"),
    ],
)
def test_boxes_that_are_none_are_refused(box, said):
    with pytest.raises(UserError, match=f"^--box is {box[0]}.*{said}"):
        hidden_by(SIZE, None, box)


@pytest.mark.slow
def test_completions_keep_what_is_seen_and_know_nothing_of_what_is_hidden(run):
    pictures = run.dataset.splits["test"].images[:2]
    hidden = hidden_by(SIZE, None, [5, 4, 9, 13])
    found = completions.complete(run, pictures, hidden, num_completions=5, seed=3)
    assert found.rows.shape == (2, 7, SIZE, SIZE, 1)
    np.testing.assert_allclose(found.rows[:, 0], pictures / 255, atol=1e-6)
    seen = found.rows[:, 1]
    np.testing.assert_array_equal(seen[:, ~hidden], found.rows[:, 0][:, ~hidden])
    for each in seen:
        assert each[hidden] == pytest.approx(each[~hidden].mean(), abs=1e-5)
    # Cells of 4x4 pixels: columns 1 and 2, rows 1 to 3.
    assert (found.record["new_codes"], found.record["codes"]) == (6, 16)
    other = pictures.copy()
    other[:, hidden] = 255 - other[:, hidden]
    again = completions.complete(run, other, hidden, num_completions=5, seed=3)
    np.testing.assert_array_equal(again.rows[:, 1:], found.rows[:, 1:])
    another = completions.complete(run, pictures, hidden, num_completions=5, seed=4)
    assert np.abs(another.rows[:, 2:] - found.rows[:, 2:]).max() > 1e-4
    assert np.ptp(found.rows[:, 2:], axis=1).max() > 1e-4


@pytest.mark.slow
def test_the_codes_that_are_seen_are_those_of_the_completions(run, monkeypatch):
    model, drawn = run.model(), []
    decode = completions.sampling.decode_codes
    monkeypatch.setattr(
        completions.sampling,
        "decode_codes",
        lambda model, z, *rest: drawn.append(z) or decode(model, z, *rest),
    )
    pictures, hidden = (
        run.dataset.splits["test"].images[:2],
        hidden_by(SIZE, "top", None),
    )
    found = completions.complete(run, pictures, hidden, num_completions=3)
    numbers = np.asarray(drawn[0]).reshape(3, 2, 16, -1)
    expected = model.encode(jnp.asarray(found.rows[:, 1]))
    looked_up = np.asarray(model.look_up(model.indices(expected))).reshape(2, 16, -1)
    for sample in numbers:
        np.testing.assert_array_equal(sample[:, :8], looked_up[:, :8])
    assert np.ptp(numbers[:, :, 8:], axis=0).max() > 0


@pytest.mark.slow
def test_completions_and_samples_from_the_command_line(run, capsys, monkeypatch):
    given = [f"--workdir={run.workdir}", "--top_k=1", "--attributes=Smiling=1"]
    told, draw = [], completions.grids.image_grid
    monkeypatch.setattr(
        completions.grids,
        "image_grid",
        lambda *rest, caption, **how: told.extend(caption) or draw(*rest, **how),
    )
    assert not run_main(monkeypatch, "--mode=complete", *given, "--seed=2")
    path = run.workdir / "images" / "completions.json"
    record = json.loads(path.read_text())
    assert path.with_suffix(".png").exists()
    assert record["keep"] == "top" and record["indices"] == [0, 1, 2, 3]
    assert record["top_k"] == 1 and record["seed"] == 2
    assert record["attributes"] == "Smiling=1" and record["box"] is None
    assert record["temperature"] == 1 and record["num_images"] == 6
    assert told[1].endswith(
        "--indices=0,1,2,3 --keep=top --attributes=Smiling=1 --seed=2 --top_k=1"
    )


@pytest.mark.slow
def test_a_box_of_a_picture_of_ones_own_is_completed(run, tmp_path, monkeypatch):
    face = run.dataset.splits["test"].images[0, :, :, 0]
    Image.fromarray(face).resize((50, 50)).save(tmp_path / "me.png")
    given = ["--mode=complete", f"--workdir={run.workdir}", "--num_images=2"]
    picture, path = f"--pictures={tmp_path / 'me.png'}", run.workdir / "images"
    drawn, complete = [], completions.complete

    def watched(run, pictures, hidden, **how):
        drawn.append(hidden)
        return complete(run, pictures, hidden, **how)

    monkeypatch.setattr(completions, "complete", watched)
    for hidden, keep, box in (
        ("--box=4,4,12,12", None, [4, 4, 12, 12]),
        ("--keep=left", "left", None),
    ):
        assert not run_main(monkeypatch, *given, picture, hidden)
        np.testing.assert_array_equal(drawn.pop(), hidden_by(SIZE, keep, box))
        record = json.loads((path / "completions.json").read_text())
        assert record["keep"] == keep and record["box"] == box
        assert record["num_images"] == 2 and "indices" not in record


@pytest.mark.slow
def test_samples_of_a_learned_prior_are_as_asked_for(run, monkeypatch):
    given = ["--mode=sample", f"--workdir={run.workdir}", "--num_images=5"]
    drawn, sample = [], samples.sample

    def watched(*rest, **how):
        drawn.append(sample(*rest, **how))
        return drawn[-1]

    monkeypatch.setattr(samples, "sample", watched)
    for asked in ([], ["--temperature=1"], ["--top_k=1"], ["--temperature=0"]):
        assert not run_main(monkeypatch, *given, *asked)
    plain, same, *others = (each[:5] for each in drawn)
    np.testing.assert_array_equal(plain, same)
    for other in others:
        assert np.abs(other - plain).max() > 1e-3


@pytest.mark.slow
def test_one_code_a_place_leaves_no_choice(run):
    if run.config.model.prior == "masked":
        pytest.skip("which places are drawn first is a matter of chance")
    images = samples.sample(run, "prior", 4, seed=0, top_k=1, temperature=0.5)
    np.testing.assert_allclose(images, np.broadcast_to(images[:1], images.shape))


@pytest.mark.slow
def test_the_decoder_is_told_no_labels(run):
    labels = prior_flags.parse_labels(run, "Smiling=1,Eyeglasses=0")
    with pytest.raises(UserError, match="has 'Smiling=0'; .* each once"):
        prior_flags.parse_labels(run, "Smiling=1,Smiling=0")
    z = run.model().look_up(jnp.zeros((2, 16), jnp.int32))
    decoded = [
        completions.sampling.decode_codes(run.model(), z, each)
        for each in (None, labels[None])
    ]
    np.testing.assert_array_equal(*decoded)


@pytest.mark.slow
def test_what_takes_a_learned_prior_or_discrete_codes_says_so(
    first_stage, data_dir, tmp_path
):
    pictures = first_stage.dataset.splits["test"].images[:1]
    with pytest.raises(UserError, match="--mode is complete.*configs/vq_prior.py"):
        completions.complete(first_stage, pictures, hidden_by(SIZE, "top", None))
    config = new_tiny_config(data_dir)
    # It has log-odds of its own.
    config.model.prior = "mixture"
    vae = run_lib.train(config, tmp_path / "vae")
    with pytest.raises(UserError, match="--mode is codes.*configs/vq_vae.py"):
        code_maps.look_into_codes(vae)
    with pytest.raises(UserError, match="--mode is complete.*configs/vq_vae.py"):
        completions.complete(vae, pictures, hidden_by(SIZE, "top", None))


@pytest.mark.slow
def test_maps_show_the_codes_and_what_they_draw(first_stage):
    model, run = first_stage.model(), first_stage
    found = code_maps.look_into_codes(run, num_faces=3)
    assert found.rows.shape == (3, 3, SIZE, SIZE, 3)
    images = run.dataset.splits["validation"].images
    code = model.encode(jnp.float32(images) / 255)
    indices = np.asarray(model.indices(code)).reshape(-1, 4, 4)
    decoded = np.asarray(model.decode(code).mean)
    # A colour for each code, over the cell where it stands.
    colours = found.rows[1][:, 2::4, 2::4].reshape(-1, 3)
    flat = indices[:3].ravel()
    for a in range(len(flat)):
        for b in range(len(flat)):
            assert (flat[a] == flat[b]) == np.array_equal(colours[a], colours[b])
    np.testing.assert_allclose(
        found.rows[2], 0.6 * decoded[:3] + 0.4 * found.rows[1], atol=1e-5
    )
    (of_map,) = found.record["maps"]
    counts = {code: int((indices == code).sum()) for code in of_map["codes"]}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert sum(of_map["shares"]) == pytest.approx(1)
    padded = np.pad(decoded, [(0, 0), (4, 4), (4, 4), (0, 0)], mode="edge")
    for number, code in enumerate(of_map["codes"]):
        windows = [
            padded[n, 4 * y : 4 * y + 12, 4 * x : 4 * x + 12]
            for n, y, x in np.argwhere(indices == code)
        ]
        expected = np.mean(windows, axis=0)
        np.testing.assert_allclose(found.codebooks[0][number], expected, atol=1e-5)
    names = [path.name for path in code_maps.draw_code_maps(run, found)]
    assert names == ["code_maps.png", "codebook.png", "code_maps.json"]


def test_of_a_frequent_code_places_all_over_the_images_are_averaged(monkeypatch):
    monkeypatch.setattr(code_maps, "MOST_PLACES", 2)
    decoded = np.float32(np.arange(4)[:, None, None, None] * np.ones((2, 2, 1)))
    maps = np.zeros((4, 1, 1), np.int32)
    # Those of the first and of the third image.
    drawn = code_maps._drawn_by(np.array([0]), maps, decoded, 2)
    np.testing.assert_array_equal(drawn, np.ones((1, 6, 6, 1)))


@pytest.mark.slow
def test_an_evaluation_counts_the_codes_of_the_whole_split(run):
    found = evaluation.evaluate_run(run)["validation"]["ema"]
    images = run.dataset.splits["validation"].images
    model = run.model()
    indices = np.asarray(model.indices(model.encode(jnp.float32(images) / 255)))
    shares = np.bincount(indices.ravel(), minlength=8) / indices.size
    entropy = -sum(share * np.log2(share) for share in shares if share)
    (codes,) = found["codes"]
    assert codes["size"] == [4, 4] and codes["num_codes"] == 8
    assert codes["usage"] == pytest.approx(np.mean(shares > 0))
    assert codes["perplexity"] == pytest.approx(2**entropy)
    assert codes["rate"] == pytest.approx(found["rate"], rel=1e-5)
    assert found["rate"] == pytest.approx(found["kl"] / np.log(2), rel=1e-5)
    bits = found["rate"] + found["distortion"]
    assert found["bits_per_dim"] == pytest.approx(bits / SIZE**2, rel=1e-5)
    assert "iw_bound" not in found
