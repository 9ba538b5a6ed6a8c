"""CelebA as its authors publish it: names, sizes and checksums."""

import hashlib
import pathlib
from collections.abc import Iterable

from vae_jax import errors

HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
HEIGHT, WIDTH = 218, 178
SPLITS = ("train", "validation", "test")  # partition 0, 1, 2

ATTRIBUTES: tuple[str, ...] = tuple(
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips "
    "Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby "
    "Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin "
    "Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young".split()
)
LANDMARKS: tuple[str, ...] = tuple(
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y "
    "leftmouth_x leftmouth_y rightmouth_x rightmouth_y".split()
)

PICTURES = "img_align_celeba"
ZIP = f"{PICTURES}.zip"
PARTITION_FILE = "list_eval_partition.txt"
ATTRIBUTE_FILE = "list_attr_celeba.txt"
LANDMARK_FILE = "list_landmarks_align_celeba.txt"
IDENTITY_FILE = "identity_CelebA.txt"

# As in torchvision.datasets.CelebA.
OFFICIAL_MD5 = {
    ZIP: "00d2c5bc6d35e252742224ab0c1e8fcb",
    PARTITION_FILE: "d32c9cbf5e040fd4025c592c306e6668",
    ATTRIBUTE_FILE: "75e246fa4810816ffd6ee81facbd244c",
    LANDMARK_FILE: "cc24ecafdb5b50baae59b03474781f8c",
    IDENTITY_FILE: "32bd1bd63d3c78cd57e08160ec5ed1e2",
}

# Suffixes of pictures, which some convert to PNG. Labels name JPEGs all the same.
SUFFIXES = (".jpg", ".jpeg", ".png")


def official_name(file_name: str) -> str | None:
    """Returns 000001.jpg for 000001.PNG and the like, None for what is no picture."""
    stem, dot, suffix = file_name.rpartition(".")
    return f"{stem}.jpg" if f"{dot}{suffix}".lower() in SUFFIXES else None


def md5(path: pathlib.Path) -> str:
    """Returns a file's MD5 in hexadecimal, to compare with `OFFICIAL_MD5`."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()


def few(names: Iterable[str]) -> str:
    """Returns the first three names in brackets, for errors; nothing where none is.

    They are shown by `ascii`: of two that differ, some look alike on a screen.
    """
    those = errors.few([*map(ascii, names)])
    return f" ({those})" if those else ""
