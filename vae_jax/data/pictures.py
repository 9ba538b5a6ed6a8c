"""The user's own picture files, as a trained model sees pictures."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vae_jax.data.crops import ALIGNED_SIZE, box_of
from vae_jax.data.decoding import RESAMPLERS
from vae_jax.data.folder_files import FORMATS
from vae_jax.errors import UserError


def read_pictures(paths: Sequence[str], recipe: dict[str, Any]) -> np.ndarray:
    """Returns picture files of any sizes as [N,H,W,C] uint8.

    Each is turned as its EXIF data say and cropped: one of CelebA's size by the data
    set's own crop, any other to the largest square in its middle, which is printed.
    A model knows faces where its data set has them: a face that fills the square
    otherwise comes out worse.

    Args:
      paths: of the files.
      recipe: of the data set that the model was trained on, see `cache.Dataset`.

    Raises:
      UserError: a file is not there, or no picture.
    """
    pictures = []
    for path in paths:
        # What decoders warn of, such as odd metadata, is nothing that a user need mend.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                # Of other formats some are programs, which PIL has others run.
                with Image.open(path, formats=FORMATS) as opened:
                    turned = ImageOps.exif_transpose(opened).convert("RGB")
            # Given bad bytes, PIL raises what comes: SyntaxError and struct.error too.
            except Exception as error:
                raise UserError(
                    f"{path} is no picture ({', '.join(FORMATS)}): {error}"
                ) from error
        crop = recipe["crop"] if turned.size == ALIGNED_SIZE else "centre"
        box = box_of(crop, *turned.size)
        print(f"{path}: {turned.width}x{turned.height}, cut to the box {box} ({crop})")
        picture = turned.crop(box)
        if recipe["channels"] == 1:
            picture = picture.convert("L")
        size = (recipe["size"], recipe["size"])
        resized = picture.resize(size, RESAMPLERS[recipe["resampler"]])
        pictures.append(np.asarray(resized).reshape(*size, recipe["channels"]))
    return np.stack(pictures)
