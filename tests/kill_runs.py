"""Kills training again and again, and compares it with a run that was let alone.

    python -m tests.kill_runs --count=100 --seed=0

Every kill is a `kill -9`, by turns at a random line of one of the files that a run
passes through, in the middle of Orbax's writing, and after a random time. A killed run
is started again until it is done; its TrainState and its metrics.jsonl must then be
those of the whole run, bit for bit, with nothing half-written beside them.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

# Each start would compile the same programs.
_COMPILED = tempfile.TemporaryDirectory()
os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402
import numpy as np  # noqa: E402

# Imported once, and forked: JAX starts its threads with its first array, in a child.
from vae_jax import phases, record, run, storage  # noqa: E402
from vae_jax.config import default_config  # noqa: E402
from vae_jax.data import synthetic_faces  # noqa: E402
from vae_jax.evaluation import evaluate  # noqa: E402
from vae_jax.experiment import assemble  # noqa: E402
from vae_jax.report import writer  # noqa: E402
from vae_jax.training import checkpoint, loop, manifest  # noqa: E402

MODULES = [checkpoint, evaluate, writer, manifest, loop, record, run, phases, storage]
FILES = {Path(module.__file__).name: module.__file__ for module in MODULES}
MOMENTS = ["checkpoint.py", "in a write", "evaluate.py", "writer.py", "manifest.py"]
MOMENTS += ["loop.py", "at any time", "record.py", "run.py", "phases.py", "storage.py"]


def config_of(folder):
    config = default_config()
    config.precision = "fp32"
    config.dataset.name = "synthetic_faces"
    config.dataset.data_dir = str(folder / "tfds")
    config.dataset.size, config.model.latent_dim = 32, 4
    config.model.network, config.model.width = "conv", 2
    config.model.skips, config.train.stages = True, "16:40"
    config.train.batch_size, config.train.num_steps = 8, 80
    config.train.steps_per_dispatch = config.log.every_steps = 2
    config.eval.batch_size = 4
    config.eval.every_steps = config.checkpoint.every_steps = 4
    return config


def start(folder, function, *arguments):
    """Runs a function in a forked process; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        # Of the last process alone: what it said is shown where it fails.
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(folder, process):
    """Waits for a process; returns whether it was killed, and exits if it failed."""
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        sys.exit((folder / "said.txt").read_text())
    return False


def on_every_line(function):
    """Calls function(file's name, function's name) at every line of FILES."""
    names = {path: name for name, path in FILES.items()}

    def trace(frame, event, argument):
        name = names.get(frame.f_code.co_filename)
        if name is None:
            return None
        if event == "line":
            function(name, frame.f_code.co_name)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def train_counting(folder):
    synthetic_faces.prepare(
        folder / "tfds", sizes={"train": 40, "validation": 10, "test": 6}
    )
    lines = Counter()
    on_every_line(lambda name, _: lines.update([name]))
    run.train(config_of(folder), folder / "whole")
    sys.settrace(None)
    (folder / "lines.json").write_text(json.dumps(lines))


def train_until(folder, workdir, file, count):
    """Trains, and kills itself at the `count`-th line of a file."""
    left = [count]

    def kill(name, function):
        left[0] -= name == file
        if left[0] == 0 and name == file:
            (folder / "place.txt").write_text(f"{name}, {function}")
            os.kill(os.getpid(), signal.SIGKILL)

    on_every_line(kill)
    run.train(config_of(folder), workdir)


def compare(folder, workdir):
    states, logs = [], []
    for path in (folder / "whole", workdir):
        experiment = assemble(record.read_config(path), 40)
        with checkpoint.Checkpoints(path / "checkpoints") as checkpoints:
            like = experiment.state_shapes("data_parallel")
            states.append(checkpoints.restore("latest", like))
        logs.append((path / "metrics.jsonl").read_bytes())
        left = [p for p in path.rglob("*") if p.suffix in (".unfinished", ".deleted")]
        assert not left, left
    assert states[0].step == 80
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert logs[0] == logs[1]


def kill_once(folder, workdir, moment, lines, seconds, rng):
    """Starts training to kill it; returns where it was killed, None if it ended."""
    (folder / "place.txt").write_text(moment)
    if moment in FILES:
        count = rng.randint(1, 1 + lines[moment] // 2)
        process = start(folder, train_until, folder, workdir, moment, count)
    else:
        began = time.monotonic()
        process = start(folder, run.train, config_of(folder), workdir)
        if moment == "in a write":
            # One of the first five saves: the tenth of a second that one takes.
            for _ in range(rng.randint(1, 5)):
                _wait(process, lambda: not _writes(workdir))
                _wait(process, lambda: _writes(workdir))
            time.sleep(rng.uniform(0, 0.03))
        else:
            until = began + rng.uniform(0, seconds)
            _wait(process, lambda: time.monotonic() > until)
        os.kill(process, signal.SIGKILL)
    return (folder / "place.txt").read_text() if finish(folder, process) else None


def _writes(workdir):
    return list(workdir.glob("checkpoints/*.unfinished"))


def _wait(process, condition):
    """Waits for a condition, or for the process to be over."""
    while not condition() and not os.waitid(
        os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        time.sleep(0.0005)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5, help="of kills")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    places, runs = Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        finish(folder, start(folder, train_counting, folder))
        lines = json.loads((folder / "lines.json").read_text())
        began = time.monotonic()
        finish(folder, start(folder, run.train, config_of(folder), folder / "timed"))
        seconds = time.monotonic() - began
        while places.total() < arguments.count:
            moment = MOMENTS[places.total() % len(MOMENTS)]
            workdir = folder / str(runs)
            place = kill_once(folder, workdir, moment, lines, seconds, rng)
            if place is not None:
                places[place] += 1
            last = places.total() == arguments.count
            if place is None or last:
                finish(folder, start(folder, run.train, config_of(folder), workdir))
                finish(folder, start(folder, compare, folder, workdir))
                runs += 1
    for place, number in sorted(places.items()):
        print(f"{number:4} {place}")
    print(f"{places.total()} kills in {runs} runs, which end as one let alone")


if __name__ == "__main__":
    main()
