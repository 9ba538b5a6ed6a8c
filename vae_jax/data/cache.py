"""Pictures decoded, cropped and resized once, kept as uint8 memory maps.

tfds record -> JPEG -> crop -> gray or RGB -> resize -> [N,H,W,C] uint8 on disk, mapped
into memory. The folder's name is its recipe, so that two recipes never mix. It lies
beside the data set, or in the user's cache where that is only to be read.
"""

import contextlib
import glob
import hashlib
import json
import os
import shlex
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vae_jax import storage
from vae_jax.data import crops, decoding, places, synthetic_faces
from vae_jax.data import folder as pictures_folder
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path
from vae_jax.options import Setting, choice, path, resumable, whole

DATASETS = ("celeb_a", "synthetic_faces", "folder")
SPLITS = ("train", "validation", "test")

READABLE = ("array_record", "tfrecord")  # formats of tfds

_PREPARE = (
    "Download CelebA's aligned pictures and label files (docs/data.md names them), "
    "then: "
    f"{decoding.PREPARE}"
)
SETTINGS = {
    "name": choice(
        "auto",
        "Data set; auto is celeb_a where that has been prepared, otherwise "
        "synthetic_faces.",
        ("auto", *DATASETS),
    ),
    "data_dir": resumable(
        path(
            "Folder of tfds, None for its usual one; with dataset.name=folder the "
            "folder or zip that holds the pictures."
        )
    ),
    "size": whole(64, "Height and width of the images in pixels.", low=8, high=512),
    "channels": Setting(
        1,
        "Channels of the images: 1 is gray (luma), 3 is RGB.",
        "1 or 3",
        lambda value: value in (1, 3),
    ),
    "crop": choice(
        "auto",
        "Part of a picture that models see: a box in a picture of 178x218, or the "
        "centre square; auto is centre with dataset.name=folder, otherwise notebook.",
        ("auto", *crops.CROPS),
    ),
    "resampler": choice(
        "bilinear", "Filter that pictures are resized with.", decoding.RESAMPLERS
    ),
}
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
      splits: the splits by name.
      attribute_names: the A attributes.
      recipe: facts that identify the pictures: name, version, fingerprint of the tfds
        data set, crop, resampler, size, channels, and pictures by split.
    """

    splits: dict[str, Split]
    attribute_names: tuple[str, ...]
    recipe: dict[str, Any]


def find_prepared(name: str, data_dir: str | os.PathLike | None) -> Path | None:
    """Returns the newest version of a tfds data set that can be read here, or None.

    Raises:
      UserError: there is none, and none could be made there, see `places.check`.
    """
    versions = _versions(name, data_dir)
    if not versions:
        places.check(data_dir)
    readable = [folder for folder, format in versions if format in READABLE]
    return readable[-1] if readable else None


def _versions(name: str, data_dir: str | os.PathLike | None) -> list[tuple[Path, str]]:
    """Returns the folders of a tfds data set's whole versions and their formats.

    The newest is last.
    """
    versions = [
        info.parent
        for info in (places.tfds_folder(data_dir) / name).glob("*/dataset_info.json")
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
    place = shlex.quote(str(places.tfds_folder(data_dir).absolute()))
    return f"{_PREPARE} --data_dir={place}"


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


def _copy_of_folder(
    data_dir: str | os.PathLike, fingerprint: str | None
) -> Path | None:
    """Returns the prepared copy of a folder or zip of pictures that is gone, or None.

    Args:
      data_dir: the folder or zip.
      fingerprint: fingerprint of the copy.
    """
    source = local_path(data_dir, "config.dataset.data_dir")
    if fingerprint is None or os.path.exists(source):
        return None
    for copy in pictures_folder.copies():
        # What is damaged is another one.
        with contextlib.suppress(OSError):
            if _fingerprint("folder", copy) == fingerprint:
                return copy
    return None


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    crop: str = "notebook",
    resampler: str = "bilinear",
    size: int = 64,
    channels: int = 1,
    fingerprint: str | None = None,
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
      fingerprint: fingerprint of a former recipe. Where name is "folder" and the folder
        is gone, the copy that was prepared of it then will do.

    Raises:
      UserError: celeb_a has not been prepared, the folder's pictures cannot be, a
        picture cannot be decoded, the crop does not fit it, what was decoded before
        is damaged, or neither the data set's folder nor the user's cache can be
        written.
    """
    if name == "folder":
        copy = None if data_dir is None else _copy_of_folder(data_dir, fingerprint)
        prepared = copy or pictures_folder.prepare(data_dir)
    else:
        prepared = find_prepared(name, data_dir)
    if prepared is None and name == "synthetic_faces":
        prepared = synthetic_faces.prepare(data_dir)
    if prepared is None:
        raise UserError(
            f"config.dataset.name is {name}, which is not prepared under "
            f"{places.tfds_folder(data_dir)}. {how_to_prepare_celeb_a(data_dir)}"
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
    folders = [prepared.parents[1] / "vae_jax_cache" / key]
    own = storage.user_cache("pictures")
    if own is not None:
        # Data sets of other places come here, too, and fingerprints are short.
        place = hashlib.sha256(os.fsencode(prepared.resolve())).hexdigest()[:12]
        folders.append(own / f"{key}-{place}")
    for folder in folders:
        if os.path.isdir(folder):
            # What another user has closed is as if it were not there.
            with contextlib.suppress(PermissionError):
                return _open(folder, recipe)
    return places.in_first(folders, lambda folder: _make(folder, prepared, recipe))


def _make(folder: Path, prepared: Path, recipe: dict[str, Any]) -> Dataset:
    """Decodes into a folder that appears whole, unless another process has."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with storage.locked(folder.with_name(f"{folder.name}.lock")) as locked:
        if locked:
            # Nobody else writes here: a run that was killed left them.
            for left in folder.parent.glob(f"{glob.escape(folder.name)}.*unfinished"):
                shutil.rmtree(left, ignore_errors=True)
        if not folder.exists():
            name = f"{folder.name}.{uuid.uuid4().hex[:12]}.unfinished"
            unfinished = folder.with_name(name)
            unfinished.mkdir()
            try:
                _write(unfinished, prepared, recipe)
                unfinished.rename(folder)
            except OSError:
                # Where there are no locks, another may have been first.
                if not folder.exists():
                    raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return _open(folder, recipe)


def _open(folder: Path, recipe: dict[str, Any]) -> Dataset:
    try:
        return _map(folder, recipe)
    except PermissionError:
        raise
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} is damaged ({error}); delete it, and the pictures will be "
            "decoded again"
        ) from error


def _map(folder: Path, recipe: dict[str, Any]) -> Dataset:
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
