"""Flags: what --help says of them, which go with which mode, recipes that fail."""

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from vae_jax import main
from vae_jax.command_line import parse_flags
from vae_jax.commands import edits
from vae_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def cli(capsys, monkeypatch, *arguments):
    """Runs the command line; returns its status, its output and its errors."""
    monkeypatch.setattr(sys, "argv", ["vae_jax", *arguments])
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        main.cli()
    return (ended.value.code or 0, *capsys.readouterr())


def python(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("mode", [None, *main.COMMANDS])
def test_help_is_one_screen(mode, capsys, monkeypatch):
    asked = ["--help"] if mode is None else [f"--mode={mode}", "--help"]
    status, out, err = cli(capsys, monkeypatch, *asked)
    assert status == 0 and not err
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    named = main.COMMANDS if mode is None else main.COMMANDS[mode].flags
    for name in named:
        assert (name if mode is None else f"  --{name} ") in out
    if mode is None:
        assert "--config=configs/vae.py" in out and "docs/settings.md" in out


@pytest.mark.parametrize("mode", main.COMMANDS)
def test_the_example_of_a_mode_takes_its_flags(mode):
    command = main.COMMANDS[mode]
    for word in shlex.split(command.example):
        name = word.partition("=")[0].removeprefix("--")
        known = {"workdir", *command.flags}
        assert name in known or mode == "train" and name.startswith("config")
    argv = ["vae_jax", *shlex.split(command.example)]
    if mode != "train":
        with flagsaver.flagsaver():
            assert main.flags.FLAGS(argv) == ["vae_jax"]


@pytest.mark.slow
def test_help_in_a_process_of_its_own_is_quick_and_quiet(tmp_path):
    def processor_seconds(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python(*arguments, cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        both = after.ru_utime + after.ru_stime, before.ru_utime + before.ru_stime
        return both[0] - both[1], done

    # Others may use the processor meanwhile, which slows both.
    times = []
    while not times or min(times) > 2 and len(times) < 4:
        libraries, _ = processor_seconds("-c", "import flax.nnx, grain, jax, optax")
        seconds, done = processor_seconds("-m", "vae_jax.main", "--help")
        times.append(seconds / libraries)
        assert done.returncode == 0 and not done.stderr
        assert done.stdout.startswith("vae_jax trains")
    # Nothing large beside what all of it is made of, such as scipy or matplotlib.
    assert min(times) <= 2
    assert not list(tmp_path.iterdir())


def test_help_of_no_mode_is_a_mistake(capsys, monkeypatch):
    for asked in (["--mode=paint", "-h"], ["--mode"]):
        status, out, err = cli(capsys, monkeypatch, *asked)
        assert status == 2 and not out and err.startswith("vae_jax: ")
        assert len(err.splitlines()) == 1 and "--mode" in err


@pytest.mark.slow
def test_a_command_that_is_imported_defines_no_flag(tmp_path):
    done = python(
        "-c",
        "from absl import flags\n"
        "from vae_jax.commands import edits, samples\n"
        "assert not {'seed', 'alpha', 'sampler'} & {*flags.FLAGS}\n"
        "assert edits.ALPHA.value == [-2.0, -1.0, 0.0, 1.0, 2.0]\n",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert edits.ALPHA.name in flags.FLAGS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--seed=0", "--mode=eval"], "--seed is 0; .*train or sample or .* is eval"),
        (["--checkpoint=best"], "--checkpoint is 'best'; .*=eval or .* is train"),
        (["--nospherical"], "--spherical is False; .*=interpolate, .* is train"),
        (["--judge=a/b,c"], "--judge is 'a/b,c'; .*=eval or attributes, .* is train"),
        (["--alpha=1,2"], "--alpha is '1.0,2.0'; .*=edit, .* is train"),
    ],
)
def test_a_flag_without_a_use_is_refused(given, said):
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", *given])
        with pytest.raises(UserError, match=said):
            main.check_given(main.COMMANDS, main.MODE.value)


@pytest.mark.parametrize(
    "given", ["--realism=nan", "--realism=1.1", "--guidance=inf", "--temperature=inf"]
)
def test_a_number_out_of_range_is_refused(given):
    with (
        flagsaver.flagsaver(),
        pytest.raises((flags.IllegalFlagValueError, UserError), match=given[2:9]),
    ):
        main.flags.FLAGS(["vae_jax", "--mode=sample", given])


RECIPES = {
    "def get_config(): return 1 / 0": "the recipe fails: ZeroDivisionError",
    "def get_config(): return name": "the recipe fails: NameError",
    "def get_config(): return get_config()": "the recipe fails: RecursionError",
    "import sys": "the recipe has no function get_config",
    "def get_config(): return None": "returns no config with all settings",
    "def get_config(): return {}": "returns no config with all settings",
    "def get_config(:": "invalid syntax",
}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_that_fails_is_told_in_a_line(recipe, tmp_path, monkeypatch):
    path = tmp_path / "recipe.py"
    path.write_text(f"{recipe}\n")
    argv = ["vae_jax", f"--config={path}"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # What ml_collections has loaded before, it would load into.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    with pytest.raises(UserError, match=RECIPES[recipe]) as caught:
        parse_flags(main.flags.FLAGS, main.CONFIG, argv)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_flagfile_that_is_not_there_is_told_in_a_line(tmp_path):
    done = python("-m", "vae_jax.main", "--flagfile=nowhere", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "nowhere" in done.stderr
