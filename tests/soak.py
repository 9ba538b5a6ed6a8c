"""Trains for a while, and watches memory, open files and threads.

    python -m tests.soak --minutes=30 --config=configs/vae.py \\
      --config.train.num_steps=10000000 \\
      --config.eval.every_steps=100 --config.checkpoint.every_steps=100

What follows --minutes is a command line of vae_jax.main; training runs there in a new
workdir until the time is over, with MALLOC_ARENA_MAX=2 where the environment has no
other (docs/faults.md says why). The last tenth of it is held against the first two: a
growth by more than 2% in memory, or by more than two files or threads, is a failure.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from vae_jax.report.writer import read_lines

TENTHS = 10


def look(process):
    """Returns anonymous MiB, open files and threads of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    return (
        int(fields["RssAnon"].split()[0]) / 1024,
        len(os.listdir(f"/proc/{process}/fd")),
        int(fields["Threads"]),
    )


def watch(arguments, workdir, seconds):
    """Trains until it is time; returns what was seen, a row a look."""
    training = subprocess.Popen(
        [sys.executable, "-m", "vae_jax.main", f"--workdir={workdir}", *arguments],
        env={"MALLOC_ARENA_MAX": "2"} | os.environ,
        stdout=subprocess.DEVNULL,
    )
    seen = []
    try:
        while not list(workdir.glob("checkpoints/*[0-9]")):
            assert training.poll() is None, "training ended before its first save"
            time.sleep(0.1)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert training.poll() is None, "training ended before its time"
            seen.append(look(training.pid))
            time.sleep(seconds / 1000)
    finally:
        training.send_signal(signal.SIGTERM)
        training.wait(120)
    return np.array(seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        seen = watch(rest, workdir, 60 * arguments.minutes)
        lines = read_lines(workdir / "metrics.jsonl")
    steps = lines[-1]["step"]
    evaluations = sum(line["split"] == "validation" for line in lines)
    print(f"{steps} updates, {evaluations} evaluations in {arguments.minutes} minutes")
    parts = [part.max(axis=0) for part in np.array_split(seen, TENTHS)]
    rows = [[f"{i + 1}/{TENTHS}", *part] for i, part in enumerate(parts)]
    headers = ["time", "memory, MiB", "open files", "threads"]
    print(tabulate(rows, headers, floatfmt=".0f"))
    before = np.maximum(parts[0], parts[1])
    if (parts[-1] > before * [1.02, 1, 1] + [0, 2, 2]).any():
        sys.exit("something has grown")


if __name__ == "__main__":
    main()
