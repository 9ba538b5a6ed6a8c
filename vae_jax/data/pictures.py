"""The user's own picture files, as a trained model sees pictures."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.data import decoding, picture_files, zips
from vae_jax.data.crops import ALIGNED_SIZE, box_of
from vae_jax.data.reduced import averaged
from vae_jax.errors import UserError, shown


def read_pictures(
    paths: Sequence[str | os.PathLike[str]], recipe: dict[str, Any]
) -> np.ndarray:
    """Returns picture files of any sizes as [N,H,W,C] uint8.

    Each is decoded as pictures of a training folder are, and cropped: one of CelebA's
    size by the data set's own crop, any other to the largest square in its middle,
    which is printed. A model knows faces where its data set has them: a face that
    fills the square otherwise comes out worse.

    Args:
      paths: paths of the files.
      recipe: recipe of the data set that the model was trained on, see `cache.Dataset`.

    Raises:
      UserError: a file is not there, too large, or no whole picture.
    """
    pictures = []
    for path in map(Path, paths):
        name = shown(path)
        try:
            stored = picture_files.to_stored(_read(path, name))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{name} is no picture ({why})") from error
        pixels = decoding.pixels_of(stored)
        height, width, _ = pixels.shape
        crop = recipe["crop"] if (width, height) == ALIGNED_SIZE else "centre"
        box = box_of(crop, width, height)
        print(f"{name}: {width}x{height}, cut to the box {box} ({crop})")
        picture, _ = decoding.crop_and_resize(
            pixels,
            crop,
            decoding.RESAMPLERS[recipe["resampler"]],
            recipe.get("averaged_from", recipe["size"]),
            recipe["channels"],
        )
        pictures.append(picture)
    return averaged(np.stack(pictures), recipe["size"])


def _read(path: Path, name: str) -> bytes:
    status = path.stat()
    # A pipe, or a device, would never come to its end.
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder, or something else that is no file")
    zips.check_size(name, status.st_size)
    return path.read_bytes()
