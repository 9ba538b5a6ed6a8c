"""The command line as users type it, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vae_jax import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    "--config.precision=fp32",
    "--config.dataset.size=16",
    "--config.model.latent_dim=4",
    "--config.train.batch_size=8",
    "--config.train.num_steps=8",
    "--config.train.steps_per_dispatch=2",
    "--config.log.every_steps=4",
    "--config.eval.every_steps=4",
    "--config.eval.batch_size=8",
    "--config.eval.importance_samples=3",
    "--config.checkpoint.every_steps=4",
]
TINY = [*SMALL, "--config.model.hidden_dim=16"]
CONVOLUTIONAL = [
    *SMALL,
    "--config.model.width=8",
    "--config.optimizer.warmup_steps=2",
]


def command(*arguments):
    return [sys.executable, "-m", "vae_jax.main", *map(str, arguments)]


def main(*arguments, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A folder with runs/vae, runs/ae and runs/cvae, trained by the recipes."""
    folder = tmp_path_factory.mktemp("user")
    for recipe, tiny in (("vae", TINY), ("ae", TINY), ("cvae", CONVOLUTIONAL)):
        done = main(
            f"--config={ROOT / 'configs' / recipe}.py",
            f"--config.dataset.data_dir={data_dir}",
            *tiny,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        assert "training on synthetic_faces" in done.stdout
        assert "celeb_a is not prepared" in done.stdout
        # Quiet where there is no terminal.
        assert "images/s" not in done.stderr
        (folder / f"{recipe}.out").write_text(done.stdout)
    return folder


@pytest.mark.parametrize(
    ("recipe", "figures"),
    [
        ("vae", {"elbo", "kl", "log_px", "bits_per_dim", "iw_bound"}),
        ("cvae", {"elbo", "kl", "log_px", "bits_per_dim", "iw_bound"}),
        ("ae", {"code_norm"}),
    ],
)
def test_training_leaves_a_whole_workdir(trained, recipe, figures):
    workdir = trained / "runs" / recipe
    pictures = ["curves.png", "reconstructions.json", "reconstructions.png"]
    pictures += ["samples.json", "samples.png"]
    assert sorted(p.name for p in (workdir / "images").iterdir()) == pictures
    report = json.loads((workdir / "eval.json").read_text())
    assert list(report) == ["fingerprint", "validation", "test", "sharpness"]
    assert report["sharpness"]["reconstructions"]["psnr"] > 0
    figures = figures | {"loss", "mse", "psnr", "ssim"}
    for split, count in (("validation", 10), ("test", 6)):
        assert list(report[split]) == ["ema", "raw"]
        for values in report[split].values():
            errors = values.pop("standard_errors")
            by_dimension = values.pop("kl_by_dimension", [])
            assert set(errors) == figures - {"loss"}
            assert len(by_dimension) == (0 if recipe == "ae" else 4)
            if recipe != "ae":
                assert 0 <= values.pop("active_units") <= 4
                assert sum(by_dimension) == pytest.approx(values["kl"], rel=1e-4)
            assert set(values) == figures | {"num_images", "step"}
            assert values["num_images"] == count and values["step"] == 8
            assert np.isfinite([*values.values(), *errors.values()]).all()
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["split"] == "validation"
    assert last["loss"] == pytest.approx(report["validation"]["ema"]["loss"], rel=1e-6)
    assert "step 8/8" in (trained / f"{recipe}.out").read_text()


def test_the_other_modes_need_the_workdir_alone(trained):
    workdir = trained / "runs" / "vae"
    before = json.loads((workdir / "eval.json").read_text())
    (workdir / "eval.json").unlink()
    for name in ("samples", "reconstructions"):
        (workdir / "images" / f"{name}.png").unlink()
    for mode in ("eval", "sample", "reconstruct"):
        number = [] if mode == "eval" else ["--num_images=4"]
        done = main(f"--mode={mode}", f"--workdir={workdir}", *number)
        assert done.returncode == 0, done.stderr
        written = [Path(line) for line in done.stdout.splitlines()[-2:]]
        assert mode == "eval" or [p.suffix for p in written] == [".png", ".json"]
        assert all(path.exists() for path in written)
    after = json.loads((workdir / "eval.json").read_text())
    for name in ("elbo", "bits_per_dim", "ssim"):
        found, expected = (r["test"]["ema"][name] for r in (after, before))
        assert found == pytest.approx(expected, rel=1e-6)
    with Image.open(workdir / "images" / "samples.png") as samples:
        with Image.open(workdir / "images" / "reconstructions.png") as pairs:
            # Of each sampler two columns; three columns for each of three images.
            assert samples.size[0] == 4 * 130 + 2 + 14
            assert pairs.size[0] == 9 * 130 + 2 + 2 * 14
    record = json.loads((workdir / "images" / "samples.json").read_text())
    assert record["sampler"] == "gaussian" and record["beside"] == "prior"


def test_a_recipe_beside_a_workdir_may_change_the_evaluation_alone(trained, data_dir):
    workdir = trained / "runs" / "vae"
    given = [
        f"--config={ROOT / 'configs' / 'vae.py'}",
        f"--workdir={workdir}",
        "--mode=eval",
        f"--config.dataset.data_dir={data_dir}",
        *TINY,
    ]
    before = json.loads((workdir / "eval.json").read_text())["test"]["ema"]
    done = main(*given, "--config.eval.importance_samples=50")
    assert done.returncode == 0, done.stderr
    after = json.loads((workdir / "eval.json").read_text())["test"]["ema"]
    assert after["iw_bound"] > before["iw_bound"]
    assert after["elbo"] == pytest.approx(before["elbo"], rel=1e-6)
    done = main(*given, "--config.model.hidden_dim=17")
    assert done.returncode == 2 and "model.hidden_dim: 16 in the run" in done.stderr


VAE = "--config=configs/vae.py"
NO_CELEBA = ["--config.dataset.name=celeb_a", "--config.dataset.data_dir=empty"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["--config"]),
        (["--mode=eval"], ["--workdir"]),
        (["--mode=paint", "--workdir=x"], ["paint", "reconstruct"]),
        (["--mode=eval", "--workdir=nowhere"], ["nowhere", "no run"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py"]),
        ([VAE, "--config.model.depths=3"], ["config.model.depths", "latent_dim"]),
        ([VAE, "--config.model.depth=3"], ["config.model.depth is 3", "conv"]),
        ([VAE, "--config.model.latent_dim=None"], ["latent_dim", "None"]),
        (["--config=configs/conv_vae.py:colour,purple"], ["'purple'", "colour, "]),
        (["--config=configs/vae.py:colour"], ["configs/vae.py:colour", "get_config"]),
        ([VAE, "--sampler=gaussian"], ["--sampler is 'gaussian'", "--mode=sample"]),
        ([VAE, "--attributes=Male=1"], ["--attributes is 'Male=1'", "--mode=sample"]),
        (
            ["--mode=reconstruct", "--workdir=x", "--attributes=Male=1"],
            ["--attributes", "that is reconstruct"],
        ),
        (["--mode=sample", "--workdir=x", "--sampler=pca"], ["sampler", "mixture"]),
        ([VAE, "--judge=x"], ["--judge is 'x'", "eval or attributes"]),
        ([VAE, "--config.model.latent_dim=x"], ["latent_dim", "x"]),
        ([VAE, "--config.model.latent_dim=0"], ["latent_dim is 0", "at least 1"]),
        ([VAE, "--config.train.num_steps=-1"], ["num_steps is -1"]),
        ([VAE, *NO_CELEBA], ["celeb_a", "vae_jax.data.prepare"]),
        ([VAE, "--config.init_from=nowhere"], ["nowhere", "no run"]),
        ([VAE, "eval"], ["eval", "no flag"]),
        ([VAE, "--wrokdir=x"], ["wrokdir"]),
    ],
)
def test_a_mistake_is_answered_in_a_line_before_any_work(
    tmp_path, data_dir, arguments, said
):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if VAE in arguments and not any("data_dir" in a for a in arguments):
        arguments = [*arguments, f"--config.dataset.data_dir={data_dir}"]
    done = main(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    if not set(NO_CELEBA) & set(arguments):
        assert len(done.stderr.strip().splitlines()) == 1
    for part in said:
        assert part in done.stderr
    assert not (tmp_path / "runs").exists()


def sample(workdir, *arguments):
    """Draws 4 samples; returns the output and the pictures that changed."""

    def contents():
        return {p.name: p.read_bytes() for p in (workdir / "images").glob("*.png")}

    before = contents()
    done = main(
        "--mode=sample",
        f"--workdir={workdir}",
        "--num_images=4",
        "--seed=1",
        *arguments,
    )
    after = contents()
    return done, {
        name: after[name] for name in after if after[name] != before.get(name)
    }


def test_an_autoencoder_has_no_prior_but_a_density_fitted_to_its_codes(trained):
    workdir = trained / "runs" / "ae"
    done, drawn = sample(workdir, "--sampler=prior")
    assert done.returncode == 2 and "no prior" in done.stderr
    assert "--sampler=gaussian" in done.stderr and not drawn
    for arguments, name in (
        ([], "samples.png"),
        (["--sampler=gaussian"], "samples_gaussian.png"),
        (["--sampler=mixture"], "samples_mixture.png"),
    ):
        done, drawn = sample(workdir, *arguments)
        assert done.returncode == 0, done.stderr
        assert list(drawn) == [name]


def test_a_vae_samples_from_its_prior_or_from_a_fitted_density(trained):
    workdir = trained / "runs" / "vae"
    for arguments, name in (
        ([], "samples.png"),
        (["--sampler=prior"], "samples_prior.png"),
        (["--sampler=mixture"], "samples_mixture.png"),
    ):
        done, drawn = sample(workdir, *arguments)
        assert done.returncode == 0, done.stderr
        assert list(drawn) == [name]


def test_a_conditional_vae_samples_with_the_attributes_that_are_asked_for(trained):
    workdir = trained / "runs" / "cvae"
    pictures = set()
    for arguments in (
        [],
        ["--attributes=No_Beard=1"],
        ["--attributes=No_Beard=0,Smiling=1"],
    ):
        done, drawn = sample(workdir, *arguments)
        assert done.returncode == 0, done.stderr
        pictures.add(drawn["samples.png"])
        figures = json.loads((workdir / "images" / "samples.json").read_text())
        assert figures["seed"] == 1 and figures["num_images"] == 4
        assert f"--attributes={figures['attributes']}" in [
            *arguments,
            "--attributes=None",
        ]
    assert len(pictures) == 3
    done, drawn = sample(workdir, "--attributes=No_Beard=1", "--sampler=gaussian")
    assert done.returncode == 0 and list(drawn) == ["samples_gaussian.png"]


@pytest.mark.parametrize(
    ("recipe", "attributes", "said"),
    [
        ("vae", "Male=1", ["'Male=1'", "without labels", "configs/cvae.py"]),
        ("ae", "Male=1", ["'Male=1'", "without labels", "configs/cvae.py"]),
        (
            "cvae",
            "Winking=1",
            ["'Winking=1'", "NAME=1 or NAME=0", "Smiling, Eyeglasses"],
        ),
        ("cvae", "No_Beard=1,Smiling=2", ["has 'Smiling=2'", "NAME=1 or NAME=0"]),
        ("cvae", "No_Beard", ["has 'No_Beard'", "NAME=1 or NAME=0"]),
        ("cvae", "", ["has ''", "NAME=1 or NAME=0"]),
    ],
)
def test_attributes_that_cannot_be_drawn_are_refused(trained, recipe, attributes, said):
    done, drawn = sample(trained / "runs" / recipe, f"--attributes={attributes}")
    assert done.returncode == 2 and not drawn
    assert len(done.stderr.strip().splitlines()) == 1
    for part in said:
        assert part in done.stderr


def test_a_recipe_takes_words_and_settings_take_none(data_dir, tmp_path):
    done = main(
        f"--config={ROOT / 'configs' / 'conv_vae.py'}:colour,bernoulli",
        f"--config.dataset.data_dir={data_dir}",
        *CONVOLUTIONAL,
        "--config.train.num_steps=None",
        "--config.train.num_epochs=0.6",
        "--config.optimizer.clip_norm=0.5",
        "--config.optimizer.clip_norm=None",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "runs" / "conv_vae_colour_bernoulli"
    config = json.loads((workdir / "run.json").read_text())["config"]
    assert config["dataset"]["channels"] == 3
    assert config["model"]["likelihood"] == "bernoulli"
    # 0.6 of 40 pictures in batches of 8.
    assert config["train"]["num_steps"] == 3
    assert config["optimizer"]["clip_norm"] is None
    with Image.open(workdir / "images" / "samples.png") as image:
        assert image.mode == "RGB"


@pytest.mark.optimised
def test_a_kill_and_a_restart_leave_what_one_run_leaves(data_dir, tmp_path):
    tiny = [a for a in TINY if "num_steps" not in a] + ["--config.train.num_steps=200"]
    common = [f"--config={ROOT / 'configs' / 'vae.py'}", *tiny]
    common.append(f"--config.dataset.data_dir={data_dir}")
    assert main(*common, f"--workdir={tmp_path / 'whole'}").returncode == 0
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(*common, f"--workdir={killed}"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/[0-9]*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    interrupted = (killed / "metrics.jsonl").read_bytes()
    assert main(*common, f"--workdir={killed}").returncode == 0
    logs = [(tmp_path / n / "metrics.jsonl").read_bytes() for n in ("whole", "killed")]
    assert len(interrupted) < len(logs[0])
    assert logs[0] == logs[1]


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The user's folder of caches, empty, where JAX has not been told of another."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.mark.optimised
def test_kept_programs_change_no_bit(data_dir, tmp_path, caches, monkeypatch):
    def train(name):
        return subprocess.Popen(
            command(
                f"--config={ROOT / 'configs' / 'vae.py'}",
                f"--config.dataset.data_dir={data_dir}",
                f"--workdir={tmp_path / name}",
                *TINY,
            ),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def programs():
        return {path.name for path in caches.rglob("*-cache")}

    # The first two at once.
    processes = [train("cold"), train("too")]
    errors = [process.communicate()[1] for process in processes]
    compiled = programs()
    assert any(name.startswith("jit_dispatch") for name in compiled)
    processes.append(train("warm"))
    errors.append(processes[-1].communicate()[1])
    assert programs() == compiled
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    processes.append(train("without"))
    errors.append(processes[-1].communicate()[1])
    assert not list((tmp_path / "none").rglob("*-cache"))
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert not any("cache" in error for error in errors)
    logs, parameters = [], []
    for name in ("without", "cold", "too", "warm"):
        logs.append((tmp_path / name / "metrics.jsonl").read_bytes())
        parameters.append(jax.tree.leaves(run.load(tmp_path / name).variables))
    assert logs == logs[:1] * 4
    for others in parameters[1:]:
        for expected, found in zip(parameters[0], others, strict=True):
            assert np.asarray(expected).tobytes() == np.asarray(found).tobytes()


def test_programs_that_cannot_be_kept_stop_no_run(trained, caches, monkeypatch):
    caches.write_text("in the way")
    done, drawn = sample(trained / "runs" / "vae", "--sampler=prior", "--seed=2")
    assert done.returncode == 0 and drawn
    (line,) = done.stderr.strip().splitlines()
    assert str(caches) in line and "JAX_COMPILATION_CACHE_DIR" in line
    # Where the user has named another folder, ours is none of JAX's business.
    own = caches.parent / "own"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(own))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    done, _ = sample(trained / "runs" / "vae", "--sampler=prior", "--seed=3")
    assert done.returncode == 0 and not done.stderr
    assert list(own.glob("*-cache"))
