"""What `run.train` and `run.load` leave of the process that calls them: all of it."""

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import threading
import warnings

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core.utils import tqdm_utils

from vae_jax import run as run_lib
from vae_jax.data import synthetic_faces
from vae_jax.errors import UserError
from vae_jax.training import loop

pytestmark = pytest.mark.slow


@pytest.fixture
def short_config(tiny_config):
    tiny_config.train.num_steps = 4
    tiny_config.eval.every_steps = 4
    return tiny_config


def snapshot():
    """Everything of a process that is of all who work in it."""
    loggers = {"root": logging.getLogger(), **logging.root.manager.loggerDict}
    changed = {
        name: (log.level, log.handlers[:], log.filters[:], log.propagate, log.disabled)
        for name, log in loggers.items()
        if isinstance(log, logging.Logger)
    }
    blank = (logging.NOTSET, [], [], True, False)
    return {
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "loggers": {n: log for n, log in changed.items() if log != blank},
        "logging": logging.root.manager.disable,
        "warnings": (warnings.filters[:], warnings.showwarning),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": sys.path[:],
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "tfds' bars": tqdm_utils._active,
        "jax": dict(jax.config.values),
        "numpy": [str(part) for part in np.random.get_state()] + [np.geterr()],
        "matplotlib": dict(matplotlib.rcParams),
        "PIL": Image.MAX_IMAGE_PIXELS,
        "umask": (mask := os.umask(0), os.umask(mask))[0],
    }


def test_drawing_leaves_pythons_random_numbers_as_they_were(tmp_path, monkeypatch):
    """In two processes that have seeded them alike, the folders' names differ."""
    # Not in `snapshot`: beartype, which the tests alone have, draws as well.
    names, draw = set(), synthetic_faces.jpegs

    def noted(split, size):
        names.update(path.name for path in tmp_path.rglob("incomplete.*"))
        return draw(split, size)

    monkeypatch.setattr(synthetic_faces, "jpegs", noted)
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "synthetic_faces").write_text("in the way")
    for place in ("a", "b", "refused"):
        random.seed(1)
        before = random.getstate()
        refuses = place == "refused"
        with pytest.raises(UserError) if refuses else contextlib.nullcontext():
            synthetic_faces.prepare(tmp_path / place, {"train": 2})
        assert random.getstate() == before
    assert len(names) == 2


@pytest.mark.parametrize("bars", [True, False])
def test_training_and_loading_change_nothing_around_them(
    short_config, tmp_path, monkeypatch, bars
):
    monkeypatch.setattr(tqdm_utils, "_active", bars)
    before = snapshot()
    # Drawn and decoded anew, too.
    monkeypatch.setattr(
        synthetic_faces, "SIZES", {"train": 8, "validation": 2, "test": 2}
    )
    short_config.dataset.data_dir = str(tmp_path / "tfds")
    run_lib.train(short_config, tmp_path / "run")
    run_lib.load(tmp_path / "run")
    for name, value in snapshot().items():
        assert value == before[name], name


def test_what_fails_changes_nothing_either(short_config, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise UserError("as a full disk does")

    before = snapshot()
    monkeypatch.setattr(loop, "_fetch", fail)
    with pytest.raises(UserError, match="as a full disk does"):
        run_lib.train(short_config, tmp_path / "run")
    for name, value in snapshot().items():
        assert value == before[name], name


def in_threads(*works):
    """Works in threads of their own at the same time; returns what each returns."""
    results = {}

    def keep(index, work):
        try:
            results[index] = work()
        except BaseException as error:
            results[index] = error

    threads = [
        threading.Thread(target=keep, args=(index, work))
        for index, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(len(works))]


def test_threads_train_in_workdirs_of_their_own(short_config, tmp_path):
    run_lib.train(short_config, tmp_path / "alone")
    expected = (tmp_path / "alone" / "metrics.jsonl").read_bytes()
    before = snapshot()
    runs = in_threads(
        lambda: run_lib.train(
            short_config.copy_and_resolve_references(), tmp_path / "a"
        ),
        lambda: run_lib.train(
            short_config.copy_and_resolve_references(), tmp_path / "b"
        ),
    )
    for name, run in zip("ab", runs, strict=True):
        assert getattr(run, "step", run) == 4
        assert (tmp_path / name / "metrics.jsonl").read_bytes() == expected
    for name, value in snapshot().items():
        assert value == before[name], name


def test_two_threads_in_one_workdir_are_told_apart(short_config, tmp_path, monkeypatch):
    """As two processes are."""
    second, fetch = [], loop._fetch

    def meanwhile(*arguments):
        monkeypatch.setattr(loop, "_fetch", fetch)
        second.extend(in_threads(lambda: run_lib.train(short_config, tmp_path / "run")))
        return fetch(*arguments)

    monkeypatch.setattr(loop, "_fetch", meanwhile)
    assert run_lib.train(short_config, tmp_path / "run").step == 4
    assert "another process is training in" in str(second[0])


def test_what_others_print_while_faces_are_drawn_is_seen(tmp_path, monkeypatch, capsys):
    draw = synthetic_faces.factors_of

    def told(*arguments):
        print("by another thread")
        return draw(*arguments)

    monkeypatch.setattr(synthetic_faces, "factors_of", told)
    synthetic_faces.prepare(tmp_path, {"train": 2, "validation": 1, "test": 1})
    lines = capsys.readouterr().out.splitlines()
    assert {line for line in lines if not line.startswith("drawing 4 faces into ")} == {
        "by another thread"
    }


def test_a_running_event_loop_is_no_hindrance(short_config, tmp_path):
    """A notebook's cells run in one."""

    async def cell():
        run_lib.train(short_config, tmp_path / "run")
        return run_lib.load(tmp_path / "run")

    assert asyncio.run(cell()).step == 4


def test_a_handler_that_is_not_pythons_is_let_be(short_config, tmp_path, monkeypatch):
    def set_only(number, handler):
        if number == signal.SIGTERM or handler is None:
            raise TypeError("signal handler must be signal.SIG_IGN, ... or callable")
        return signal.SIG_DFL

    monkeypatch.setattr(signal, "getsignal", lambda n: None if n == 15 else 0)
    monkeypatch.setattr(signal, "signal", set_only)
    assert run_lib.train(short_config, tmp_path / "run").step == 4
