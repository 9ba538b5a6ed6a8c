"""Sweeps and the notebook's table, on models that train in a second."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from conftest import new_tiny_config
from PIL import Image
from scipy import ndimage

from experiments import (
    ae_vs_vae,
    beta,
    blur,
    command_line,
    growth,
    latent_size,
    realism,
    sweep,
)
from vae_jax import config as config_lib
from vae_jax import record
from vae_jax import run as run_lib
from vae_jax.command_line import parse_flags
from vae_jax.errors import UserError
from vae_jax.evaluation import distances
from vae_jax.exploration import judging

# ml_collections loads recipes by a method that Python means to remove.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]

ROOT = Path(__file__).parents[1]
VAE = f"--config={ROOT / 'configs' / 'vae.py'}"
BETAS = ["0.5", "4"]
SWEEP = [VAE, f"--beta={','.join(BETAS)}", "--seeds=3,5"]
FIGURES = ["elbo", "kl", "log_px", "bits_per_dim", "mse", "active_units"]
FACTORS = ["mig", "disentanglement", "factor_vae"]


@pytest.fixture(scope="module")
def tiny(data_dir):
    """The flags of a model that trains in a second, on the faces of `data_dir`."""
    settings = {
        "precision": "fp32",
        "dataset.name": "synthetic_faces",
        "dataset.data_dir": data_dir,
        "dataset.size": 16,
        "model.latent_dim": 4,
        "model.hidden_dim": 16,
        "train.batch_size": 8,
        "train.num_steps": 4,
        "train.steps_per_dispatch": 2,
        "log.every_steps": 4,
        "eval.every_steps": 4,
        "eval.batch_size": 8,
        "eval.importance_samples": 2,
        "eval.samples_per_chunk": 2,
        "checkpoint.every_steps": 4,
    }
    return [f"--config.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("beta")
    beta.main([*SWEEP, *tiny, f"--out={out}"])
    return out


@pytest.fixture
def forbidden(monkeypatch):
    """Has training and evaluation fail the test."""
    monkeypatch.setattr(run_lib, "train", lambda *_: pytest.fail("trains"))
    monkeypatch.setattr(
        sweep.evaluation, "evaluate_run", lambda *_: pytest.fail("evaluates")
    )


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_spreads(out, names, block):
    """Holds the table against figures computed anew from each eval.json."""
    rows = rows_of(out / "table.csv")
    assert [row["objective.beta"] for row in rows] == BETAS
    for row, value in zip(rows, BETAS, strict=True):
        assert row["seeds"] == "2"
        first, second = (
            block(json.loads((out / f"beta_{value}_seed{s}" / "eval.json").read_text()))
            for s in (3, 5)
        )
        for name in names:
            a, b = first[name], second[name]
            assert float(row[f"{name}_mean"]) == pytest.approx((a + b) / 2)
            # Of two values, over seeds - 1.
            deviation = abs(a - b) / np.sqrt(2)
            assert float(row[f"{name}_std"]) == pytest.approx(deviation, abs=1e-12)


def test_the_table_has_means_and_deviations_over_seeds(swept):
    assert_spreads(swept, FIGURES, lambda report: report["test"]["ema"])
    row = rows_of(swept / "table.csv")[1]
    mean, std = float(row["elbo_mean"]), float(row["elbo_std"])
    assert std > 0
    told = (swept / "table.md").read_text()
    assert told.count("±") == 2 * len(FIGURES)
    assert f"| {mean:.5g} ± {std:.2g} " in told


def test_disentanglement_is_told_and_drawn_where_factors_are_known(
    swept, tiny, tmp_path, forbidden
):
    with Image.open(swept / "beta.png") as picture:
        assert picture.size == (880, 374)
    out = shutil.copytree(swept, tmp_path / "out")
    rng = np.random.default_rng(0)
    for path in out.glob("*/eval.json"):
        factors = dict(zip(FACTORS, rng.uniform(size=3), strict=True))
        report = json.loads(path.read_text())
        path.write_text(json.dumps(report | {"disentanglement": factors}))
    beta.main([*SWEEP, *tiny, f"--out={out}"])
    assert_spreads(out, FACTORS, lambda report: report["disentanglement"])
    with Image.open(out / "beta.png") as picture:
        assert picture.size == (1320, 374)


def test_each_run_has_its_settings_and_its_seed(swept):
    for value in BETAS:
        for seed in (3, 5):
            config = record.read_config(swept / f"beta_{value}_seed{seed}")
            assert config.objective.beta == float(value) and config.seed == seed
            assert config.model.latent_dim == 4


def test_a_second_call_reads_what_is_there(swept, tiny, forbidden, capsys):
    table = (swept / "table.csv").read_bytes()
    (swept / "table.csv").unlink()
    (swept / "beta.png").unlink()
    beta.main([*SWEEP, *tiny, f"--out={swept}"])
    assert (swept / "table.csv").read_bytes() == table
    assert (swept / "beta.png").exists()
    told = capsys.readouterr().out
    assert told.count("which is finished") == 4
    assert f"run 4 of 4: {swept / 'beta_4_seed5'}" in told


def test_a_finished_run_is_known_by_its_epochs_and_its_pictures(swept, tmp_path):
    workdir = shutil.copytree(swept / "beta_0.5_seed5", tmp_path / "run")
    config = record.read_config(workdir)
    train, num_train = config.train, record.read_recipe(workdir)["pictures"]["train"]
    epochs = train.num_steps * train.batch_size / num_train
    train.num_steps, train.num_epochs = None, epochs
    assert sweep.finished_report(config, workdir) is not None
    train.num_epochs = 2 * epochs
    assert sweep.finished_report(config, workdir) is None
    train.num_epochs = epochs
    report = json.loads((workdir / "eval.json").read_text())
    other = json.dumps(report | {"fingerprint": "of others"})
    (workdir / "eval.json").write_text(other)
    assert sweep.finished_report(config, workdir) is None


def test_an_unfinished_run_goes_on_and_no_other(swept, tiny, tmp_path, monkeypatch):
    out, trained = shutil.copytree(swept, tmp_path / "out"), []
    train = run_lib.train

    def counted(config, workdir):
        trained.append((workdir.name, config.train.num_steps))
        return train(config, workdir)

    monkeypatch.setattr(run_lib, "train", counted)
    workdir = out / "beta_0.5_seed5"
    log, report = (
        (workdir / name).read_bytes() for name in ("metrics.jsonl", "eval.json")
    )
    (workdir / "eval.json").write_text('{"test": ')
    beta.main([*SWEEP, *tiny, f"--out={out}"])
    assert trained == [("beta_0.5_seed5", 4)]
    assert (workdir / "metrics.jsonl").read_bytes() == log
    assert (workdir / "eval.json").read_bytes() == report
    # More steps of one: from where it is, and evaluated anew.
    one = [VAE, "--beta=0.5", "--seeds=5", f"--out={out}", *tiny]
    beta.main([*one, "--config.train.num_steps=8"])
    assert trained[1:] == [("beta_0.5_seed5", 8)]
    assert (workdir / "metrics.jsonl").read_bytes().startswith(log)
    later = json.loads((workdir / "eval.json").read_text())["test"]["ema"]
    assert later["step"] == 8
    # A single seed has no deviation.
    (row,) = rows_of(out / "table.csv")
    assert float(row["elbo_mean"]) == later["elbo"] and row["elbo_std"] == ""
    assert "±" not in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("recipe", "figures", "width"), [("vae", FIGURES, 1760), ("ae", ["mse"], 440)]
)
def test_sizes_of_the_code_have_a_table_and_a_panel_for_each_figure(
    recipe, figures, width, tmp_path, monkeypatch
):
    def finish(config, workdir, judge=None):
        # Figures that tell of which run they are.
        figure = 10.0 * config.model.latent_dim + config.seed
        return {"test": {"ema": dict.fromkeys(figures, figure) | {"step": 1}}}

    monkeypatch.setattr(sweep, "finish", finish)
    latent_size.main(
        [
            f"--config={ROOT / 'configs' / recipe}.py",
            "--latent_dim=2,16",
            f"--out={tmp_path}",
        ]
    )
    rows = rows_of(tmp_path / "table.csv")
    assert [row.pop("model.latent_dim") for row in rows] == ["2", "16"]
    assert [row.pop("seeds") for row in rows] == ["3", "3"]
    for row, mean in zip(rows, (21, 161), strict=True):
        expected = {f"{n}_mean": mean for n in figures}
        expected |= {f"{n}_std": 1 for n in figures}
        assert {n: float(text) for n, text in row.items()} == expected
    with Image.open(tmp_path / "latent_size.png") as picture:
        assert picture.size == (width, 374)


def test_a_run_that_grows_is_held_against_one_that_does_not(tiny, tmp_path):
    own = tuple(
        f"--config.{name}="
        for name in ("model.hidden_dim", "dataset.size", "train.num_steps")
    )
    grows = [
        f"--config={ROOT / 'configs' / 'progressive_vae.py'}",
        "--stages=16:4:16",
        "--num_steps=12,8",
        "--seeds=0",
        f"--out={tmp_path}",
        "--config.dataset.size=32",
        "--config.model.width=4",
        *(each for each in tiny if not each.startswith(own)),
    ]
    growth.main(grows)
    rows = rows_of(tmp_path / "table.csv")
    assert [row["train.stages"] for row in rows] == ["16:4:16", ""]
    workdirs = {name: tmp_path / f"{name}_seed0" for name in ("grown", "whole")}
    rates = {name: growth.fastest_rates([path]) for name, path in workdirs.items()}
    assert sorted(rates["grown"]) == [16, 32] and sorted(rates["whole"]) == [32]
    together = growth.fastest_rates([*workdirs.values()])
    assert together[32] == max(rates["grown"][32], rates["whole"][32])
    # 4 updates of 16 small images, and those of 8 large ones; 1,000 images/s of each.
    for name, images in (("grown", [96, 128]), ("whole", [32, 64])):
        minutes, elbos = growth.curve(workdirs[name], {16: 1000, 32: 1000})
        assert minutes == pytest.approx([each / 1000 / 60 for each in images])
        told = (workdirs[name] / "metrics.jsonl").read_text().splitlines()
        assert elbos[-1] == json.loads(told[-1])["elbo"]
    untimed = shutil.copytree(workdirs["grown"], tmp_path / "untimed")
    (untimed / "timing.jsonl").write_text("")
    with pytest.raises(UserError, match="no images_per_second of 16 and 32 pixels"):
        growth.fastest_rates([untimed])
    # What was trained is read, not trained again.
    before = (tmp_path / "growth.png").read_bytes()
    growth.main(grows)
    assert (tmp_path / "growth.png").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_steps=8"], "--num_steps is '8'; allowed are two numbers"),
        (["--stages="], "--stages is ''; allowed are stages"),
        (
            [f"--config={ROOT / 'configs' / 'ae.py'}"],
            f"--config is '{ROOT / 'configs' / 'ae.py'}', a recipe of model ae;",
        ),
    ],
)
def test_a_growth_without_stages_or_steps_is_refused(flags, said, tmp_path):
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        growth.main([*flags, f"--out={tmp_path}"])


def test_a_sweep_that_is_stopped_says_so_and_begins_no_other_run(
    tiny, tmp_path, monkeypatch, capsys
):
    def stopped(config, workdir, judge=None):
        config.train.num_steps = 4
        of_it = SimpleNamespace(config=config)
        run = run_lib.Run(workdir, of_it, 2, {}, {}, None)  # pyright: ignore
        return dataclasses.replace(run, was_stopped=True)

    monkeypatch.setattr(run_lib, "train", stopped)
    with pytest.raises(SystemExit) as left:
        command_line.cli(lambda: beta.main([*SWEEP, *tiny, f"--out={tmp_path}"]))
    assert left.value.code == 130
    told = capsys.readouterr()
    assert "stopped at step 2" in told.err and "run 2" not in told.out


def test_a_ctrl_c_is_told_in_a_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        command_line.cli(interrupted)
    assert left.value.code == 130
    assert capsys.readouterr().err == "experiments: interrupted\n"


def test_a_dry_run_prints_commands_that_give_the_same_runs(
    swept, tiny, tmp_path, forbidden, capsys, monkeypatch
):
    from vae_jax import main

    beta.main([*SWEEP, *tiny, f"--out={tmp_path / 'my runs'}", "--dry_run"])
    assert not any(tmp_path.iterdir())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    names = []
    for line in lines:
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "vae_jax.main"]
        monkeypatch.setattr(sys, "argv", words[2:])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with flagsaver.flagsaver():
            rest = parse_flags(flags.FLAGS, main.CONFIG, words[2:])
            assert rest == words[2:3]
            assert main.MODE.value == "train"
            workdir = Path(main.WORKDIR.value)
            assert workdir.parent == tmp_path / "my runs"
            names.append(workdir.name)
            ours, theirs = record.read_config(swept / workdir.name), main.CONFIG.value
            different = {
                name
                for name, value in config_lib.flatten(ours).items()
                if value != config_lib.flatten(theirs)[name]
            }
            # What "auto" has come to.
            assert different == {"dataset.crop"}
    assert names == [f"beta_{value}_seed{seed}" for value in BETAS for seed in (3, 5)]


def test_a_config_is_read_as_the_command_line_reads_it():
    config = command_line.read_config(
        f"{ROOT / 'configs' / 'conv_vae.py'}:colour",
        {"optimizer.clip_norm": "None", "train.mirror": True, "objective.beta": 2},
    )
    assert config.optimizer.clip_norm is None and config.train.mirror is True
    assert config.objective.beta == 2.0 and config.dataset.channels == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=nothing.py"], ["nothing.py", "no file"]),
        ([VAE, "--beta=1,x"], ["objective.beta", "x"]),
        ([VAE, "--beta=-1"], ["objective.beta is -1", "at least 0"]),
        ([VAE, "--seeds=0,0"], ["seeds", "'0,0'", "each once"]),
        ([VAE, "--seeds=0,,1"], ["seeds", "'0,,1'"]),
        ([VAE, "--config.model.depths=3"], ["config.model.depths", "latent_dim"]),
        ([VAE, "--config.model.latent_dim=None"], ["latent_dim", "None"]),
        ([VAE, "--config.seed=3"], ["config.seed", "differs between the runs"]),
        ([VAE, "--wrokdir=x"], ["wrokdir", "no flag"]),
        ([f"--config={ROOT / 'configs' / 'ae.py'}"], ["model ae", "vae"]),
    ],
)
def test_a_mistake_is_answered_in_a_line_before_any_work(
    arguments, said, tmp_path, forbidden, capsys
):
    with pytest.raises(SystemExit) as left:
        command_line.cli(lambda: beta.main([*arguments, f"--out={tmp_path / 'out'}"]))
    assert left.value.code == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and not told.out
    for part in said:
        assert part in told.err
    assert not any(tmp_path.iterdir())


def test_runs_of_other_settings_are_refused(swept, tiny, forbidden):
    other = [*tiny, "--config.model.hidden_dim=17", f"--out={swept}"]
    with pytest.raises(UserError, match="model.hidden_dim: 16 in the run, 17 given"):
        beta.main([*SWEEP, *other])


def test_means_and_deviations():
    results = {"a": {"x": np.array([1.0, 2.0, 6.0])}, "b": {"x": np.zeros(3)}}
    means, stds = sweep.mean_and_std(results, "x")
    np.testing.assert_allclose(means, [3, 0])
    np.testing.assert_allclose(stds, [np.sqrt(7), 0])


PROPERTIES = {
    "Final training loss": ["loss (mse)", "loss (elbo)"],
    "Final validation loss": ["loss (mse)", "loss (elbo)"],
    "Latent dimension": ["", "active"],
    "Hidden dimension": [""],
    "Parameters": [""],
    "Reconstruction quality": ["mse", "sharpness ratio", "mse at sampled codes"],
    "Sampling capability": ["N(0, I)", "mixture", "training pictures"],
    "Latent space": [
        "KL to N(0, I), nats/dimension",
        "linear probe's accuracy",
        "majority's accuracy",
    ],
    "Generalisation": ["loss on train", "loss on test", "mse, test / train"],
}
OF_ONE_MODEL = ["loss (mse)", "loss (elbo)", "active", "mse at sampled codes"]


@pytest.fixture(scope="module")
def compared(swept, tiny, tmp_path_factory):
    """A folder with ae, made by the experiment, and its results beside a VAE's."""
    folder = tmp_path_factory.mktemp("compared")
    workdirs = [f"--ae={folder / 'ae'}", f"--vae={swept / 'beta_4_seed3'}"]
    ae_vs_vae.main([*workdirs, f"--out={folder / 'out'}", *tiny])
    return folder


def test_the_notebooks_table_has_all_rows_with_finite_figures(compared, swept):
    rows = rows_of(compared / "out" / "table.csv")
    assert list(dict.fromkeys(row["property"] for row in rows)) == list(PROPERTIES)
    table = {(row["property"], row["figure"]): row for row in rows}
    for name, figures in PROPERTIES.items():
        prefix = "thumbnail Frechet, " * (name == "Sampling capability")
        for figure in figures:
            row = table.pop((name, prefix + figure))
            filled = [row[model] for model in ("Autoencoder", "VAE") if row[model]]
            assert len(filled) == (1 if figure in OF_ONE_MODEL else 2)
            assert np.isfinite([float(value) for value in filled]).all()
    assert not table
    told = (compared / "out" / "table.md").read_text()
    # 256-16-4 and back, with one head; the VAE has two on either side.
    assert "| Parameters " in told and "8,612" in told and "13,032" in told
    vae = json.loads((swept / "beta_4_seed3" / "eval.json").read_text())
    assert f"{vae['validation']['ema']['loss']:.4g}" in told


def test_the_figures_of_the_two_splits_are_those_of_the_evaluation(compared, swept):
    rows = rows_of(compared / "out" / "table.csv")
    (row,) = (row for row in rows if row["figure"] == "loss on test")
    for column, workdir in (
        ("Autoencoder", compared / "ae"),
        ("VAE", swept / "beta_4_seed3"),
    ):
        report = json.loads((workdir / "eval.json").read_text())
        assert float(row[column]) == pytest.approx(
            report["test"]["ema"]["loss"], rel=1e-5
        )


def test_the_probe_is_told_by_attribute_and_pictures_are_drawn(compared, faces):
    rows = rows_of(compared / "out" / "probe.csv")
    assert [row["attribute"] for row in rows] == list(faces.attribute_names)
    (mean,) = (
        row
        for row in rows_of(compared / "out" / "table.csv")
        if row["figure"] == "linear probe's accuracy"
    )
    for model in ("Autoencoder", "VAE"):
        accuracies = [float(row[model]) for row in rows]
        assert float(mean[model]) == pytest.approx(np.mean(accuracies))
    # 6 test pictures of 16 pixels, as large as cells get.
    for name, height in (("reconstructions", 3), ("samples", 4)):
        with Image.open(compared / "out" / f"{name}.png") as picture:
            assert picture.size == (6 * 130 + 2, height * 130 + 2)


def test_a_workdir_of_another_model_or_of_other_settings_is_refused(
    compared, tiny, forbidden
):
    ae, out = compared / "ae", f"--out={compared / 'none'}"
    with pytest.raises(UserError, match="--vae is .* model ae; allowed is one of mod"):
        ae_vs_vae.main([f"--ae={ae}", f"--vae={ae}", out])
    with pytest.raises(UserError, match="model.latent_dim: 4 in the run, 5 given"):
        ae_vs_vae.main([f"--ae={ae}", out, "--config.model.latent_dim=5"])
    assert not (compared / "none").exists()


def test_a_linear_probe_finds_what_is_linear():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(400, 5)) * [1, 10, 0.1, 1, 0]
    attributes = np.stack(
        [codes[:, 1] > 5, codes[:, 0] * codes[:, 2] > 0, np.ones(400, bool)], axis=1
    )
    accuracy = ae_vs_vae.linear_probe(
        codes[:300], attributes[:300], codes[300:], attributes[300:]
    )
    assert accuracy[0] > 0.85 and accuracy[1] < 0.65 and accuracy[2] == 1
    none = np.zeros((400, 0), bool)
    assert ae_vs_vae.linear_probe(codes, none, codes, none).shape == (0,)


def test_the_kl_to_the_normal_is_that_of_the_moments():
    codes = np.random.default_rng(0).normal(size=(200_000, 2))
    assert ae_vs_vae.kl_to_normal(codes) == pytest.approx(0, abs=1e-4)
    # 1/2 (s^2 + m^2 - 1 - log s^2), by hand.
    moved = codes * [1, 2] + [3, 0]
    expected = (9 / 2 + (4 - 1 - np.log(4)) / 2) / 2
    assert ae_vs_vae.kl_to_normal(moved) == pytest.approx(expected, rel=1e-2)


def test_sharpness_falls_with_blur():
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    ramp = np.broadcast_to(np.arange(8) / 8, (2, 8, 8))[..., None]
    assert ae_vs_vae.sharpness(ramp) == pytest.approx(1 / 64)
    blurred = (images + np.roll(images, 1, axis=1)) / 2
    assert ae_vs_vae.sharpness(blurred) < ae_vs_vae.sharpness(images)


@pytest.fixture(scope="module")
def judges(data_dir, tmp_path_factory):
    """Workdirs of judges: one of all attributes, and one that sees other pictures."""
    folder = tmp_path_factory.mktemp("judges")
    for name, size in (("judge", 16), ("other", 8)):
        config = new_tiny_config(data_dir)
        config.dataset.size, config.train.num_steps = size, 4
        config.model.name, config.objective.name = "classifier", "cross_entropy"
        config.model.attributes = "auto"
        run_lib.train(config, folder / name)
    return folder


def test_a_judges_distance_of_blurred_pictures_has_a_table_and_a_figure(
    judges, faces, tmp_path, capsys
):
    judge = judges / "judge"
    blur.main([f"--judge={judge},{judge}", f"--out={tmp_path / 'blur'}"])
    told = capsys.readouterr().out
    report = json.loads((tmp_path / "blur" / "blur.json").read_text())
    assert report["num_images"] == 6
    assert report["sigmas"] == [0, 0.5, 1, 1.5, 2, 3]
    assert report["sharpness"][0] == 1
    assert (np.diff(report["sharpness"]) < 0).all()
    first, second = report["judges"]
    assert first == second and first["workdir"] == str(judge)
    assert first["judge_frechet"][0] == pytest.approx(0, abs=1e-6)
    pictures = np.float32(faces.splits["test"].images) / 255
    images = np.stack(
        [ndimage.gaussian_filter(picture[..., 0], 1.5) for picture in pictures]
    )
    model = run_lib.load(judge).model()
    features = [
        judging.judge_images(model, each)[0] for each in (pictures, images[..., None])
    ]
    expected = distances.frechet_distance(*features)
    assert first["judge_frechet"][3] == pytest.approx(expected, rel=1e-4)
    rows = [line.split() for line in told.splitlines()]
    row = [f"{x:.4g}" for x in (1.5, report["sharpness"][3], *[expected] * 2)]
    assert row in rows
    with Image.open(tmp_path / "blur" / "blur.png") as picture:
        assert picture.size == (880, 374)


def test_weights_of_sharpness_have_a_table_and_a_figure(tiny, judges, tmp_path):
    command = [
        VAE,
        "--weights=0:0,0:0.5",
        "--seeds=3",
        f"--judge={judges / 'judge'}",
        f"--out={tmp_path}",
        "--config.objective.critic_width=4",
        "--config.objective.critic_steps=0",
        *tiny,
    ]
    realism.main(command)
    rows = rows_of(tmp_path / "table.csv")
    assert [row["objective.adversarial_weight"] for row in rows] == ["0", "0.5"]
    workdir = tmp_path / "0_0.5_seed3"
    report = json.loads((workdir / "eval.json").read_text())
    for images, block in (
        ("reconstructions", "sharpness"),
        ("samples_gaussian", "judge"),
    ):
        told = [n for n in report[block][images] if f"{images}_{n}_mean" in rows[1]]
        assert len(told) == {"sharpness": 2, "judge": 3}[block]
        for name in told:
            value = float(rows[1][f"{images}_{name}_mean"])
            assert value == pytest.approx(report[block][images][name])
    assert float(rows[1]["bits_per_dim_mean"]) == pytest.approx(
        report["test"]["ema"]["bits_per_dim"]
    )
    assert rows[0]["reconstructions_psnr_mean"] != rows[1]["reconstructions_psnr_mean"]
    with Image.open(tmp_path / "realism.png") as picture:
        assert picture.size == (2200, 374)
    # Once judged, it is read.
    written = (workdir / "eval.json").stat().st_mtime_ns
    realism.main([*command, "--format=svg"])
    assert (workdir / "eval.json").stat().st_mtime_ns == written
    assert "sharpness" in (tmp_path / "realism.svg").read_text()
    with pytest.raises(UserError, match="--judge is not given"):
        realism.main([VAE])
    with pytest.raises(UserError, match="'0.3'; allowed is PERCEPTUAL:ADVERSARIAL"):
        realism.main([VAE, "--weights=0.3"])


def test_a_judge_that_does_not_see_blur_is_marked(judges, faces, monkeypatch):
    judge = run_lib.load(judges / "judge")
    pictures = np.float32(faces.splits["test"].images) / 255

    def blind(model, images):
        return np.ones((len(images), 3)), None

    def by_detail(model, images):
        return np.std(images, axis=(1, 2)), None

    def by_threshold(model, images):
        # It knows sharp images from others, among which it sees no difference.
        detail = np.std(images, axis=(1, 2))
        return np.where(np.mean(detail) > 0.9 * np.std(pictures), detail, 1.0), None

    for seen, rises in ((blind, False), (by_threshold, False), (by_detail, True)):
        monkeypatch.setattr(blur, "judge_images", seen)
        # Other pictures are as far as those a little blurred.
        report = blur.look(pictures, blur.blurred(pictures, 0.5), [judge])
        assert report["judges"][0]["sees_blur"] is rises
        assert ("no judge of sharpness" in blur.table(report)) is not rises


def test_what_cannot_be_blurred_or_judged_is_told_in_a_line(judges, tmp_path, capsys):
    judge, other = judges / "judge", judges / "other"
    for arguments, said in (
        ([], "--judge"),
        ([f"--judge={tmp_path}"], f"--judge is '{tmp_path}'"),
        ([f"--judge={judge},{other}"], "dataset.size 8; .* has 16"),
        ([f"--judge={judge}", "--config.seed=1"], "--config.seed=1"),
    ):
        with pytest.raises(UserError, match=said):
            blur.main([*arguments, f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
