"""The data set's faces as JPEG files, drawn by several processes.

Without tfds, which every process would import.
"""

import os
import pathlib
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import simplejpeg

from vae_jax.data.faces.drawing import draw
from vae_jax.data.faces.factors import Factors, sample_factors

SPLIT_SEEDS = {"train": 0, "validation": 1, "test": 2}
JPEG_QUALITY = 95
# A face takes some hundred arrays of 100 kB. glibc gives and takes such memory back
# page by page unless told to keep it, which makes drawing a quarter slower.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}
# Fewer faces than this are drawn sooner than a second Python has started.
FEWEST_TO_SHARE = 200
MOST_PROCESSES = 8


def factors_of(split: str, index: int) -> Factors:
    """The factors of one face of the data set, a function of its place alone."""
    return sample_factors(np.random.default_rng((SPLIT_SEEDS[split], index)))


def _jpeg(split: str, index: int) -> bytes:
    """One face of the data set as a JPEG file."""
    picture = draw(factors_of(split, index))
    return simplejpeg.encode_jpeg(
        picture, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"
    )


def _write_jpegs(split: str, indices: range) -> None:
    """Write the faces of `indices` to standard output, each after its length."""
    # A process whose reader was killed ends without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for index in indices:
        jpeg = _jpeg(split, index)
        sys.stdout.buffer.write(struct.pack("<I", len(jpeg)) + jpeg)


def jpegs(split: str, size: int) -> Iterator[bytes]:
    """The faces of a split in order, drawn by as many processes as there are cores.

    Each process is a bare Python on a pipe: a pool of multiprocessing would import
    the caller's main module again, and with it JAX.

    Raises:
      RuntimeError: if a process ends before its last face.
    """
    if size < FEWEST_TO_SHARE:
        yield from (_jpeg(split, index) for index in range(size))
        return
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    root = str(pathlib.Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    workers = []
    try:
        for first in range(processes):
            work = f"_write_jpegs({split!r}, range({first}, {size}, {processes}))"
            command = f"from {__name__} import _write_jpegs; {work}"
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", command],
                    stdout=subprocess.PIPE,
                    # Ctrl-C is for this process alone, which then ends the others.
                    start_new_session=True,
                    env={**os.environ, **KEEP_MEMORY, "PYTHONPATH": path},
                )
            )
        for index in range(size):
            pipe = workers[index % processes].stdout
            head = pipe.read(4)
            jpeg = pipe.read(struct.unpack("<I", head)[0]) if len(head) == 4 else b""
            if not jpeg:
                raise RuntimeError(f"drawing {split} stopped before face {index}")
            yield jpeg
    finally:
        for worker in workers:
            worker.kill()
            worker.stdout.close()
            worker.wait()
