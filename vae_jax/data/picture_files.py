"""A picture's file, as a user may have it, checked and turned into what is stored.

Training pictures and those of --pictures both come through here, so that a model is
shown the same pixels either way.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# The turn that brings a picture upright, by EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Lock of Python's filters, which all threads share: each puts back what it found.
_FILTERS = threading.Lock()


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Passes over what decoders warn of: nothing that a user need mend."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_stored(file: bytes) -> bytes:
    """Decodes a picture's file completely, and returns it as it is stored.

    That is gray or RGB of 8 bits a channel, upright, as JPEG or PNG; a file that is so
    already is stored byte for byte. What is transparent is laid over white, 16 bits are
    scaled to 8 (of colours PIL keeps the upper byte), and of several pictures in a file
    the first is taken.

    Raises:
      ValueError: what is wrong with it, in one line.
    """
    if not file:
        raise ValueError("empty")
    with unwarned():
        try:
            return _checked(file)
        except UnidentifiedImageError:
            raise ValueError(
                f"none of {', '.join(FORMATS)}, or damaged at its start"
            ) from None
        # Given bad bytes, PIL raises what comes: SyntaxError and struct.error too.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(reason or type(error).__name__) from error


def _open(file: bytes) -> Image.Image:
    # Some other formats are programs, which PIL has others run.
    return Image.open(io.BytesIO(file), formats=FORMATS)


def _checked(file: bytes) -> bytes:
    with _open(file) as picture:
        picture.verify()
    with _open(file) as picture:
        # A JPEG with a second one behind it, from a phone, is MPO to PIL.
        jpeg, png = picture.format in ("JPEG", "MPO"), picture.format == "PNG"
        if jpeg:
            # PIL fills in what is broken within a JPEG.
            simplejpeg.decode_jpeg(file, strict=True)
        else:
            picture.load()
        if png and file[12:16] != b"IHDR":
            raise ValueError("a PNG that does not begin with its header")
        depth = file[24] if png else 8
        turn = _turn(picture)
        plain = picture.mode in ("L", "RGB") and not picture.has_transparency_data
        if plain and turn is None and (jpeg or png) and depth == 8:
            return file
        upright = picture if turn is None else picture.transpose(turn)
        stored = io.BytesIO()
        # Twice the size of the best compression, in a tenth of its time.
        Image.fromarray(_levels(upright, depth)).save(stored, "PNG", compress_level=1)
        return stored.getvalue()


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    # PIL raises anything for damaged EXIF data, too. The picture itself is whole.
    except Exception:
        return None


def _levels(picture: Image.Image, depth: int) -> np.ndarray:
    """Returns the levels over white, [H,W] or [H,W,3] uint8.

    Args:
      picture: a picture in any of PIL's modes.
      depth: bits a channel in the file.
    """
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode not in ("L", "RGB", "I", "I;16"):
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        return np.asarray(picture.convert("RGB"))
    levels = np.array(picture)
    # One gray or colour that counts as transparent, in the file's levels.
    key, through = picture.info.get("transparency"), None
    if key is not None and picture.mode == "RGB":
        colour = np.array(key) >> (depth - 8)
        through = (levels == colour).all(axis=-1)
    elif key is not None:
        # PIL scales 2 and 4 bits to 8, but not this; and with one bit does both.
        through = levels == (key * 255 // (2**depth - 1) if depth in (2, 4) else key)
    if depth == 16 and picture.mode != "RGB":
        levels = (levels.astype(np.uint32) * 255 + 32767) // 65535
    if through is not None:
        levels[through] = 255
    return levels.astype(np.uint8)
