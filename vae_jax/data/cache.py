"""Pictures decoded, cropped and resized once, kept as uint8 memory maps.

tfds record -> JPEG -> crop -> gray or RGB -> resize -> [N,H,W,C] uint8 on disk, mapped
into memory. The folder's name is its recipe, so that two recipes never mix.
"""

import hashlib
import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants
from tqdm import tqdm

from vae_jax.data import decoding, synthetic_faces
from vae_jax.data import folder as pictures_folder
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path

DATASETS = ("celeb_a", "synthetic_faces", "folder")
SPLITS = ("train", "validation", "test")

READABLE = ("array_record", "tfrecord")  # formats of tfds

_PREPARE = (
    "Download CelebA's aligned pictures and label files (README names them), then: "
    f"{decoding.PREPARE}"
)
_ELSEWHERE = f"{_PREPARE} --data_dir=ANOTHER_FOLDER"


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
      images: [N,H,W,C] uint8, mapped from disk.
      attributes: [N,A] bool, in the order of the data set's `attribute_names`.
    """

    images: np.ndarray
    attributes: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A data set as models see it.

    Attributes:
      splits: by name.
      attribute_names: the A attributes.
      recipe: what identifies the pictures: name, version, fingerprint of the tfds data
        set, crop, resampler, size, channels, and pictures by split.
    """

    splits: dict[str, Split]
    attribute_names: tuple[str, ...]
    recipe: dict[str, Any]


def find_prepared(name: str, data_dir: str | os.PathLike | None) -> Path | None:
    """Returns the newest version of a tfds data set that can be read here, or None."""
    readable = [f for f, format in _versions(name, data_dir) if format in READABLE]
    return readable[-1] if readable else None


def _data_dir(data_dir: str | os.PathLike | None) -> Path:
    if data_dir is None:
        return local_path(constants.DATA_DIR, "TFDS_DATA_DIR")
    return local_path(data_dir, "config.dataset.data_dir")


def _versions(name: str, data_dir: str | os.PathLike | None) -> list[tuple[Path, str]]:
    """Returns the folders of a tfds data set's whole versions and their formats.

    The newest is last.
    """
    versions = [
        info.parent
        for info in (_data_dir(data_dir) / name).glob("*/dataset_info.json")
        if tfds.core.Version.is_valid(info.parent.name)
    ]
    versions.sort(key=lambda folder: tfds.core.Version(folder.name))
    return [(folder, _format(folder)) for folder in versions]


def _format(version: Path) -> str:
    if not (version / "features.json").exists():
        return "a format of tfds before 3.3"
    try:
        return json.loads((version / "dataset_info.json").read_text())["fileFormat"]
    # It has not always been written, and what is damaged is told where it is read.
    except (ValueError, LookupError, TypeError):
        return "tfrecord"


def how_to_prepare_celeb_a(data_dir: str | os.PathLike | None) -> str:
    """Returns, in one line, what to do where no `celeb_a` is prepared for reading."""
    unreadable = [f"{f} is {format}" for f, format in _versions("celeb_a", data_dir)]
    if unreadable:
        return f"{', '.join(unreadable)}, which cannot be read here. {_ELSEWHERE}"
    if data_dir is None:
        return _PREPARE
    return f"{_PREPARE} --data_dir={shlex.quote(str(_data_dir(data_dir).absolute()))}"


def resolve_name(name: str, data_dir: str | os.PathLike | None) -> str:
    """Returns the data set that "auto" stands for; other names unchanged."""
    if name != "auto":
        return name
    return "celeb_a" if find_prepared("celeb_a", data_dir) else "synthetic_faces"


def _write(folder: Path, prepared: Path, recipe: dict[str, Any]) -> None:
    pictures, size = sum(recipe["pictures"].values()), recipe["size"]
    with tqdm(total=pictures, desc="decoding", unit=" pictures", disable=None) as bar:
        enlarged = decoding.fill(
            folder, prepared, recipe, lambda done: bar.update(done - bar.n)
        )
    if enlarged:
        print(
            f"{enlarged} of {pictures} pictures of {recipe['name']} are smaller than "
            f"{size}x{size} after the crop {recipe['crop']!r}, and were enlarged"
        )
    names = decoding.attribute_names(prepared)
    (folder / "recipe.json").write_text(
        json.dumps({**recipe, "attribute_names": names}, indent=2)
    )


def _fingerprint(name: str, prepared: Path) -> str:
    """Returns what tells a tfds data set from others of its name and version."""
    content = (prepared / "dataset_info.json").read_bytes()
    if name == "folder":
        # The pictures' sizes, in the former, say little of a user's pictures.
        content += (prepared / "metadata.json").read_bytes()
    return hashlib.sha256(content).hexdigest()[:8]


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    crop: str = "notebook",
    resampler: str = "bilinear",
    size: int = 64,
    channels: int = 1,
) -> Dataset:
    """Returns a data set, decoding it first where this recipe is new.

    Args:
      name: one of `DATASETS`; synthetic_faces is drawn where it is absent.
      data_dir: tfds' folder, None for tfds' own default; of "folder", the folder or zip
        with the pictures.
      crop: a key of `crops.CROPS`.
      resampler: a key of `decoding.RESAMPLERS`, PIL's filters with antialiasing.
      size: height and width in pixels.
      channels: 1 (gray, luma) or 3 (RGB).

    Raises:
      UserError: celeb_a has not been prepared, the folder's pictures cannot be, a
        picture cannot be decoded, the crop does not fit it, or what was decoded
        before is damaged.
    """
    if name == "folder":
        prepared = pictures_folder.prepare(data_dir)
    else:
        prepared = find_prepared(name, data_dir)
    if prepared is None and name == "synthetic_faces":
        prepared = synthetic_faces.prepare(data_dir)
    if prepared is None:
        raise UserError(
            f"config.dataset.name is {name}, which is not prepared under "
            f"{_data_dir(data_dir)}. {how_to_prepare_celeb_a(data_dir)}"
        )
    pictures = decoding.open_prepared(prepared).info.splits
    pictures = {s: pictures[s].num_examples if s in pictures else 0 for s in SPLITS}
    if not all(pictures.values()):
        counts = ", ".join(f"{split} {count}" for split, count in pictures.items())
        raise UserError(
            f"{prepared} has pictures: {counts}; nothing is trained or evaluated "
            f"without some in each split. {_ELSEWHERE}"
        )
    recipe = {
        "name": name,
        "version": prepared.name,
        "fingerprint": _fingerprint(name, prepared),
        "crop": crop,
        "resampler": resampler,
        "size": size,
        "channels": channels,
        "pictures": pictures,
    }
    key = "-".join(str(part) for part in list(recipe.values())[:-1])
    folder = prepared.parents[1] / "vae_jax_cache" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"{key}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _write(unfinished, prepared, recipe)
            unfinished.rename(folder)
    try:
        return _open(folder, recipe)
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} is damaged ({error}); delete it, and the pictures will be "
            "decoded again"
        ) from error


def _open(folder: Path, recipe: dict[str, Any]) -> Dataset:
    written = json.loads((folder / "recipe.json").read_text())
    names = tuple(written["attribute_names"])
    splits = {}
    for split, count in recipe["pictures"].items():
        # Neither is unpickled: that is numpy's default.
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        attributes = np.load(folder / f"{split}_attributes.npy")
        shapes = (
            (count, recipe["size"], recipe["size"], recipe["channels"]),
            (count, len(names)),
        )
        for array, dtype, shape in zip(
            (images, attributes), (np.uint8, bool), shapes, strict=True
        ):
            if (array.dtype, array.shape) != (dtype, shape):
                raise ValueError(f"{split} is {array.dtype}{list(array.shape)}")
        splits[split] = Split(images=images, attributes=attributes)
    return Dataset(splits=splits, attribute_names=names, recipe=recipe)
