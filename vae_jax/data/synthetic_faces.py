"""The data set `synthetic_faces`: drawn faces whose every factor is known.

12,000 RGB faces of 178x218 pixels with CelebA's layout and names: eyes near
(69, 111) and (108, 111), mouth near row 152, attributes under CelebA's names. Each
face is drawn from `Factors`, which are independent and stored beside the picture,
so that what a model finds can be held against what was put in.

`prepare` makes it once; afterwards any reader of tfds finds it, for example
`tfds.data_source("synthetic_faces", split="train")`, without this module.
"""

import contextlib
import io
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import registered

from vae_jax.data.faces.drawing import draw
from vae_jax.data.faces.factors import Factors, attributes, sample_factors
from vae_jax.data.faces.geometry import HEIGHT, WIDTH
from vae_jax.errors import UserError

__all__ = ["Factors", "SyntheticFaces", "attributes", "draw", "prepare"]
__all__ += ["SIZES", "factors_of", "sample_factors"]

SIZES = {"train": 10_000, "validation": 1_000, "test": 1_000}
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
# Far longer than a run takes: a folder as old as this has nobody writing to it.
STALE_AFTER_SECONDS = 3600.0


def factors_of(split: str, index: int) -> Factors:
    """The factors of one face of the data set, a function of its place alone."""
    return sample_factors(np.random.default_rng((SPLIT_SEEDS[split], index)))


def _jpeg(split: str, index: int) -> bytes:
    """One face of the data set as a JPEG file."""
    file = io.BytesIO()
    picture = PIL.Image.fromarray(draw(factors_of(split, index)))
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _write_jpegs(split: str, indices: range) -> None:
    """Write the faces of `indices` to standard output, each after its length."""
    for index in indices:
        jpeg = _jpeg(split, index)
        sys.stdout.buffer.write(struct.pack("<I", len(jpeg)) + jpeg)


def _jpegs(split: str, size: int, processes: int) -> Iterator[bytes]:
    """The faces of a split in order, drawn by this many processes; 0 means here.

    Each process is a bare Python on a pipe: a pool of multiprocessing would import
    the caller's main module again, and with it JAX.

    Raises:
      RuntimeError: if a process ends before its last face.
    """
    if not processes:
        yield from (_jpeg(split, index) for index in range(size))
        return
    root = str(pathlib.Path(__file__).resolve().parents[2])
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


with registered.skip_registration():

    class SyntheticFaces(tfds.core.GeneratorBasedBuilder):
        """tfds builder `synthetic_faces`.

        Args:
          sizes: faces in each of train, validation and test; `SIZES` by default.
          **kwargs: tfds' own, such as `data_dir`.
        """

        name = "synthetic_faces"
        VERSION = tfds.core.Version("1.0.0")
        RELEASE_NOTES = {"1.0.0": "First drawing."}

        def __init__(self, *, sizes: Mapping[str, int] | None = None, **kwargs):
            self.sizes = dict(SIZES if sizes is None else sizes)
            kwargs.setdefault("file_format", "array_record")
            super().__init__(**kwargs)

        def _info(self) -> tfds.core.DatasetInfo:
            example = factors_of("train", 0)
            return tfds.core.DatasetInfo(
                builder=self,
                description="Drawn faces with known, independent factors.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(
                            shape=(HEIGHT, WIDTH, 3), encoding_format="jpeg"
                        ),
                        "file_name": tfds.features.Text(),
                        "attributes": {name: np.bool_ for name in attributes(example)},
                        "factors": {name: np.float32 for name in vars(example)},
                    }
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            total = sum(self.sizes.values())
            bar = tqdm.tqdm(
                total=total, desc="drawing faces", unit=" faces", disable=None
            )
            return {
                split: self._generate_examples(split, size, bar)
                for split, size in self.sizes.items()
            }

        def _generate_examples(self, split, size, bar):
            shared = size >= FEWEST_TO_SHARE
            processes = min(os.cpu_count() or 1, MOST_PROCESSES) if shared else 0
            for index, jpeg in enumerate(_jpegs(split, size, processes)):
                factors = factors_of(split, index)
                yield (
                    index,
                    {
                        "image": io.BytesIO(jpeg),
                        "file_name": f"{index + 1:06d}.jpg",
                        "attributes": attributes(factors),
                        "factors": vars(factors),
                    },
                )
                bar.update()
            if bar.n >= bar.total:
                bar.close()


def prepare(
    data_dir: str | os.PathLike | None = None,
    sizes: Mapping[str, int] | None = None,
) -> pathlib.Path:
    """Draw the data set unless it is there already.

    An interrupted run leaves at most a folder `incomplete.*`, which no reader
    takes for a data set and a later run clears away.

    Args:
      data_dir: tfds' data folder; None for tfds' own default.
      sizes: faces in each of train, validation and test; `SIZES` by default.

    Returns:
      The folder that `tfds.builder_from_directory` reads.

    Raises:
      UserError: if the folder holds splits of other sizes, or lacks files.
    """
    place = None if data_dir is None else os.fspath(data_dir)
    builder = SyntheticFaces(data_dir=place, sizes=sizes)
    folder = pathlib.Path(builder.data_dir)
    if not folder.exists():
        _clear_stale(folder)
        try:
            _draw_all(builder)
        except OSError:
            # Another run that began beside this one may have finished first.
            if not folder.exists():
                raise
            builder = SyntheticFaces(data_dir=place, sizes=sizes)
    _check(builder, folder)
    return folder


def _clear_stale(folder: pathlib.Path) -> None:
    """Remove what interrupted runs have left beside `folder`."""
    for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
        if time.time() - left.stat().st_mtime > STALE_AFTER_SECONDS:
            shutil.rmtree(left)


def _draw_all(builder: SyntheticFaces) -> None:
    """Run tfds without its own bars and messages."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    finally:
        tfds.enable_progress_bar()


def _check(builder: SyntheticFaces, folder: pathlib.Path) -> None:
    """Raise a `UserError` unless `folder` holds what the builder would make."""
    splits = builder.info.splits
    found = {name: split.num_examples for name, split in splits.items()}
    if found != builder.sizes:
        raise UserError(
            f"{folder} holds synthetic_faces with splits {found}, but "
            f"{builder.sizes} is asked for: delete it or give another data_dir."
        )
    for split in splits.values():
        for path in split.filepaths:
            if not path.exists():
                raise UserError(f"{path} is missing: delete {folder} and try again.")
