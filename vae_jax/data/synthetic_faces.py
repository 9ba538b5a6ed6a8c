"""The data set `synthetic_faces`: drawn faces whose every factor is known.

12,000 RGB faces of 178x218 pixels with CelebA's layout and names: eyes near
(69, 111) and (108, 111), mouth near row 152, attributes under CelebA's names. Each
face is drawn from `Factors`, which are independent and stored beside the picture,
so that what a model finds can be held against what was put in.

`prepare` makes it once; afterwards any reader of tfds finds it, for example
`tfds.data_source("synthetic_faces", split="train")`, without this module.
"""

import io
import os
import pathlib
import shutil
import threading
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import registered
from tensorflow_datasets.core.utils import tqdm_utils

from vae_jax import storage
from vae_jax.data import places, writing
from vae_jax.data.faces.drawing import draw
from vae_jax.data.faces.factors import Factors, attributes, sample_factors
from vae_jax.data.faces.geometry import HEIGHT, WIDTH
from vae_jax.data.faces.jpegs import factors_of, jpegs
from vae_jax.errors import UserError

__all__ = ["Factors", "SyntheticFaces", "attributes", "draw", "prepare"]
__all__ += ["SIZES", "factors_of", "sample_factors"]

SIZES = {"train": 10_000, "validation": 1_000, "test": 1_000}
_BARS = threading.Lock()


with registered.skip_registration():

    class SyntheticFaces(writing.Quiet, tfds.core.GeneratorBasedBuilder):
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
            return writing.Info(
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
            total = sum(self.sizes.values())
            bar = tqdm.tqdm(
                total=total, desc="drawing faces", unit=" faces", disable=None
            )
            return {
                split: self._generate_examples(split, size, bar)
                for split, size in self.sizes.items()
            }

        def _generate_examples(self, split, size, bar):
            for index, jpeg in enumerate(jpegs(split, size)):
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
      UserError: if the folder holds splits of other sizes, lacks files, cannot be
        written, or is one of a user's own pictures.
    """
    root = places.tfds_folder(data_dir)
    builder = SyntheticFaces(data_dir=root, sizes=sizes)
    folder = pathlib.Path(builder.data_dir)
    if not folder.exists():
        places.check(data_dir)
        try:
            _draw_once(builder, folder)
        except OSError as error:
            raise UserError(
                f"cannot draw faces into {folder}: {error.strerror or error}; "
                "TFDS_DATA_DIR or config.dataset.data_dir may name another place"
            ) from error
        # As it was written, by this run or by the one that it waited for.
        builder = SyntheticFaces(data_dir=root, sizes=sizes)
    _check(builder, folder)
    return folder


def _draw_once(builder: SyntheticFaces, folder: pathlib.Path) -> None:
    """Draw what the folder lacks, or wait for another run that does."""
    place = folder.parent
    place.mkdir(parents=True, exist_ok=True)
    with storage.locked(place.with_name(f"{place.name}.lock")) as locked:
        if folder.exists():
            return
        if locked:
            # Nobody else writes here: a run that was killed left them.
            for stale in place.glob(f"incomplete.*_{folder.name}"):
                shutil.rmtree(stale)
        number = sum(builder.sizes.values())
        print(f"drawing {number:,} faces into {folder}", flush=True)
        _draw_all(builder)


def _draw_all(builder: SyntheticFaces) -> None:
    """Run tfds without its own bars, whose switch is one of the whole process."""
    with _BARS:
        shown = tqdm_utils._active
        tfds.disable_progress_bar()
        try:
            writing.write(builder)
        finally:
            tfds.display_progress_bar(shown)


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
