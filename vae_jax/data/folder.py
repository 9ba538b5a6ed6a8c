"""The tfds data set `folder`, made from a folder or a zip of a user's own pictures.

The user's folder is only read. What is made lies in tfds' own folder, or in the user's
cache where that cannot be written, under a name that changes with the pictures.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import unicodedata

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from vae_jax import storage
from vae_jax.data import attribute_file, folder_files, places, writing
from vae_jax.data.folder_files import Source
from vae_jax.errors import UserError, few, shown

VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")

_FOLDERS = "vae_jax_folders"


def split_of(name: str) -> str:
    """Returns a picture's split: of 10 names 8 are train, 1 validation, 1 test.

    It depends on the relative path alone, in Unicode's form NFC, so that no picture
    changes sides when others come or go, or on another system: its SHA-256, as a
    number, modulo 10 is below 8, 8 or 9.
    """
    plain = unicodedata.normalize("NFC", name)
    digit = int(hashlib.sha256(plain.encode()).hexdigest(), 16) % 10
    return SPLITS[max(0, digit - 7)]


with registered.skip_registration():

    class Folder(writing.Builder):
        """Writes pictures and attributes as `folder`."""

        VERSION = tfds.core.Version(VERSION)
        per_file = 1024
        advice = "mend or remove them"

        def __init__(
            self,
            source: Source,
            attribute_names: tuple[str, ...],
            attributes: dict[str, list[bool]],
            data_dir: pathlib.Path,
        ):
            self.source = shown(source.path)
            self._source = source
            self._contents = hashlib.sha256()
            self._attribute_names = attribute_names
            self._attributes = attributes
            self._metadata = tfds.core.MetadataDict()
            super().__init__(data_dir=data_dir, file_format="array_record")

        def _info(self) -> tfds.core.DatasetInfo:
            return writing.Info(
                builder=self,
                description="Pictures of a folder, by name.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(),
                        "file_name": tfds.features.Text(),
                        "attributes": dict.fromkeys(self._attribute_names, np.bool_),
                    }
                ),
                disable_shuffling=True,
                metadata=self._metadata,
            )

        def _pictures_by_split(self) -> dict[str, list[str]]:
            return _by_split(self._source)

        def _read(self, picture: str) -> tuple[bytes, str | None]:
            file, stored, problem = folder_files.read_picture(self._source, picture)
            if problem:
                return b"", f"{shown(picture)} ({problem})"
            values = dict(
                zip(self._attribute_names, self._attributes[picture], strict=True)
            )
            digest = hashlib.sha256(file).hexdigest()
            self._contents.update(json.dumps([picture, digest, values]).encode())
            # What tells pictures of the same number and sizes apart, wherever they lie.
            self._metadata["contents_sha256"] = self._contents.hexdigest()
            example = {
                "image": stored,
                "file_name": picture.encode(),
                "attributes": values,
            }
            return writing.record(example), None


def _by_split(source: Source) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in source.names:
        names[split_of(name)].append(name)
    counts = ", ".join(f"{split} {len(those)}" for split, those in names.items())
    if not all(names.values()):
        raise UserError(
            f"{shown(source.path)} holds {len(source.names)} picture(s): {counts}; "
            "each split needs one at least. Names decide by their hash, 8 of 10 for "
            "train: with 50 pictures an empty split is rare, so add some"
        )
    return names


def _place(source: Source) -> str:
    """Returns where to prepare these pictures, another place for other ones."""
    path = source.path
    identity = json.dumps([str(path), sorted(source.stamps.items())])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]", "_", path.name if path.is_dir() else path.stem)[:40]
    return f"{_FOLDERS}/{stem}-{digest}"


def _roots(data_dir: str | os.PathLike[str] | None) -> list[pathlib.Path]:
    own = storage.user_cache("pictures")
    return [places.tfds_folder(data_dir), *([] if own is None else [own])]


def copies(data_dir: str | os.PathLike[str] | None = None) -> list[pathlib.Path]:
    """Returns the folders of all that `prepare` has made with this `data_dir`."""
    return [
        version
        for root in _roots(data_dir)
        for version in (root / _FOLDERS).glob(f"*/folder/{VERSION}")
    ]


def prepare(
    source: str | os.PathLike[str] | None,
    data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Turns a folder or a zip of pictures into a tfds data set, once.

    An example has `image` (gray or RGB, upright, 8 bits a channel, JPEG or PNG, of
    any size), `file_name` (`folder_files.Source` says how) and `attributes` (booleans
    by name, those of `attributes.csv`). `split_of` gives the splits, each in the order
    of the names.

    The data set appears whole or not at all. It is made anew where the source's files,
    by name, size and time of change (in a zip CRC), are others than before.

    Args:
      source: a folder, searched with the folders in it and linked from it, or a zip.
      data_dir: folder where tfds keeps data sets; None is tfds' own default.

    Returns:
      The folder of the version, for `tfds.builder_from_directory`.

    Raises:
      UserError: the source is no folder or zip of pictures, a picture is damaged, a
        split is empty, the attributes are not as they should be, or neither `data_dir`
        nor the user's cache can be written.
    """
    if source is None:
        raise UserError(
            "config.dataset.data_dir is None; for dataset.name folder, allowed is "
            f"{folder_files.ALLOWED}"
        )
    path = pathlib.Path(source).expanduser().absolute()
    try:
        with folder_files.open_source(path) as opened:
            candidates = [root / _place(opened) for root in _roots(data_dir)]
            for place in candidates:
                if os.path.exists(_version(place)):
                    return _version(place)
            places.check(data_dir)
            return places.in_first(candidates, lambda place: _prepare(opened, place))
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error}") from error


def _version(place: pathlib.Path) -> pathlib.Path:
    return place / "folder" / VERSION


def _prepare(source: Source, place: pathlib.Path) -> pathlib.Path:
    """Prepares in a place, unless another process has; raises OSError of the place."""
    version = _version(place)
    version.parent.mkdir(parents=True, exist_ok=True)
    with storage.locked(place.with_name(f"{place.name}.lock")) as locked:
        if version.exists():
            return version
        if locked:
            # Nobody else writes here: a run that was killed left them.
            for stale in version.parent.glob(f"incomplete.*_{VERSION}"):
                shutil.rmtree(stale)
        counts = {split: len(names) for split, names in _by_split(source).items()}
        attribute_names, attributes = attribute_file.read_attributes(source)
        writing.write(Folder(source, attribute_names, attributes, place))
    print(
        f"{shown(source.path)}: {len(source.names)} pictures ("
        + ", ".join(f"{split} {count}" for split, count in counts.items())
        + f") with {len(attribute_names)} attributes, prepared in {shown(place)}"
    )
    if source.passed_over:
        print(
            f"{len(source.passed_over)} link(s) passed over, to what is read under "
            f"another name: {few([*source.passed_over])}"
        )
    return version
