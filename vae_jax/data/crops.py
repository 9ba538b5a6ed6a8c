"""Which part of a picture is looked at."""

from typing import TypeAlias

from vae_jax.errors import UserError

Box: TypeAlias = tuple[int, int, int, int]

ALIGNED_SIZE = (178, 218)
# (left, upper, right, lower) in CelebA's aligned picture. Published figures differ by
# the crop: cc140 and cc148 are centre crops of that many pixels, the notebook's lies 5
# pixels below the latter. centre fits pictures of any size.
CROPS: dict[str, Box | None] = {
    "notebook": (15, 40, 163, 188),
    "cc140": (19, 39, 159, 179),
    "cc148": (15, 35, 163, 183),
    "centre": None,
}


def resolve_crop(crop: str, name: str) -> str:
    """Returns the crop that "auto" stands for with a data set; others unchanged."""
    if crop != "auto":
        return crop
    return "centre" if name == "folder" else "notebook"


def box_of(crop: str, width: int, height: int) -> Box:
    """Returns (left, upper, right, lower) of a crop in a picture, in pixels.

    Args:
      crop: a key of `CROPS`; centre is the largest square in the middle, up and left
        of it by half a pixel where it cannot be exact.
      width: width of the picture.
      height: height of the picture.

    Raises:
      UserError: the crop is a box in pictures of another size.
    """
    box = CROPS[crop]
    if box is None:
        side = min(width, height)
        left, upper = (width - side) // 2, (height - side) // 2
        return left, upper, left + side, upper + side
    if (width, height) != ALIGNED_SIZE:
        raise UserError(
            f"config.dataset.crop is {crop!r}, a box in pictures of 178x218 pixels, "
            f"and one has {width}x{height}; for pictures of any size, allowed is centre"
        )
    return box
