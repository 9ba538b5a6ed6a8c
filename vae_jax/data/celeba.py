"""The tfds data set `celeb_a`, made from the official CelebA files.

Liu, Luo, Wang and Tang, Deep Learning Face Attributes in the Wild, ICCV 2015.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from vae_jax import storage
from vae_jax.data import (
    celeba_files,
    celeba_labels,
    celeba_pictures,
    places,
    writing,
    zips,
)
from vae_jax.data.celeba_files import ATTRIBUTES, LANDMARKS
from vae_jax.data.celeba_labels import Labels
from vae_jax.data.celeba_layouts import open_files
from vae_jax.data.celeba_pictures import Pictures
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path

VERSION = "2.1.0"
LICENCE = (
    "CelebA is for non-commercial research only and is not to be redistributed, nor "
    f"is what is made from it here; its terms are on {celeba_files.HOMEPAGE}"
)
_CITATION = """@inproceedings{liu2015faceattributes,
  title = {Deep Learning Face Attributes in the Wild},
  author = {Liu, Ziwei and Luo, Ping and Wang, Xiaogang and Tang, Xiaoou},
  booktitle = {Proceedings of International Conference on Computer Vision (ICCV)},
  year = {2015}
}"""

# The name `celeb_a` is taken by tfds' own builder, which downloads. Its version is
# taken over as well, and the shape of its features: tfds opens a `celeb_a` that is
# asked for without a version by that builder, which looks for no other version.
with registered.skip_registration():

    class CelebA(writing.Builder):
        """Writes labels and pictures as `celeb_a`.

        By a builder of ours, because tfds' own keeps a split in memory and needs
        TensorFlow above 1,000 MiB, which CelebA's train split exceeds.
        """

        VERSION = tfds.core.Version(VERSION)
        # Some 60 MB.
        per_file = 8192
        advice = f"get them again from {celeba_files.HOMEPAGE}"

        def __init__(
            self,
            labels: Labels,
            pictures: Pictures,
            metadata: dict[str, Any],
            data_dir: pathlib.Path,
        ):
            self.source = str(pictures.path)
            self._labels = labels
            self._pictures = pictures
            self._metadata = metadata
            super().__init__(data_dir=data_dir, file_format="array_record")

        def _info(self) -> tfds.core.DatasetInfo:
            files = self._pictures.files.values()
            png = any(file.lower().endswith(".png") for file in files)
            features: dict[str, Any] = {
                "image": tfds.features.Image(
                    shape=(celeba_files.HEIGHT, celeba_files.WIDTH, 3),
                    encoding_format=None if png else "jpeg",
                ),
                "file_name": tfds.features.Text(),
                "attributes": {name: np.bool_ for name in ATTRIBUTES},
            }
            if self._labels.landmarks is not None:
                features["landmarks"] = {name: np.int64 for name in LANDMARKS}
            if self._labels.identity is not None:
                features["identity"] = {"Identity_No": np.int64}
            return writing.Info(
                builder=self,
                description="CelebA's aligned faces with 40 attributes, in file order.",
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
                homepage=celeba_files.HOMEPAGE,
                citation=_CITATION,
                license=LICENCE,
                metadata=tfds.core.MetadataDict(self._metadata),
            )

        def _pictures_by_split(self) -> dict[str, list[int]]:
            there = [name in self._pictures.files for name in self._labels.names]
            return {
                split: np.flatnonzero(
                    there & (self._labels.partition == index)
                ).tolist()
                for index, split in enumerate(celeba_files.SPLITS)
            }

        def _read(self, picture: int) -> tuple[bytes, str | None]:
            file = self._pictures.files[self._labels.names[picture]]
            try:
                stored = self._pictures.read(file)
            except zips.UNREADABLE as error:
                return b"", f"{file!a} (not readable: {error})"
            problem = celeba_pictures.damage(stored)
            if problem:
                return b"", f"{file!a} ({problem})"
            return _record(self._labels, picture, stored), None


def _record(labels: Labels, row: int, picture: bytes) -> bytes:
    bits = labels.attributes[row].tolist()
    example = {
        "image": picture,
        "file_name": labels.names[row].encode(),
        "attributes": dict(zip(ATTRIBUTES, bits, strict=True)),
    }
    if labels.landmarks is not None:
        pixels = labels.landmarks[row].tolist()
        example["landmarks"] = dict(zip(LANDMARKS, pixels, strict=True))
    if labels.identity is not None:
        example["identity"] = {"Identity_No": int(labels.identity[row])}
    return writing.record(example)


def prepare(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
) -> pathlib.Path:
    """Turns CelebA's files into the tfds data set `celeb_a`.

    An example has `image` (the JPEG or PNG, byte for byte, 218 x 178 x 3), `file_name`
    (the official one, 000001.jpg), `attributes` (40 booleans by name) and, where their
    files are there, `landmarks` (pixels) and `identity`. The official partition is the
    splits train, validation and test, each in file order. The metadata say how many
    pictures `of` how many, and the MD5s of what they came from.

    The data set appears whole or not at all. One that is there already and was made
    from the same files is left as it is; one made from others is never touched.

    Args:
      source: a folder with CelebA's pictures and label files, or the pictures' zip; in
        one of the layouts of `celeba_layouts`.
      data_dir: folder where tfds keeps data sets; None is tfds' own default.
      allow_missing: whether pictures that the label files list may be missing.
        Damaged ones are an error all the same.

    Returns:
      The folder of the version, `data_dir/celeb_a/2.1.0`, for
      `tfds.builder_from_directory`.

    Raises:
      UserError: if the files are not whole or not as published, a split has no
        pictures, `data_dir` cannot be written, holds pictures, or holds a `celeb_a`
        made from others.
    """
    path = local_path(source, "--source")
    root = places.tfds_folder(None)
    if data_dir is not None:
        root = local_path(data_dir, "--data_dir")
    folder = root / "celeb_a" / VERSION
    try:
        with contextlib.ExitStack() as stack:
            files, pictures = stack.enter_context(open_files(path))
            _check_place(root, path, pictures)
            labels = celeba_labels.read_labels(files)
            celeba_pictures.check_names(labels, pictures, allow_missing=allow_missing)
            metadata = _metadata(labels, pictures)
            stack.enter_context(_locked(folder.parent))
            if folder.exists():
                _check_same(folder, metadata)
                print(f"{folder} holds these pictures already; nothing to do")
            else:
                _write(labels, pictures, metadata, root)
    except OSError as error:
        raise UserError(f"cannot prepare {folder}: {error}") from error
    return folder


def _check_place(root: pathlib.Path, source: pathlib.Path, pictures: Pictures) -> None:
    """Raises UserError for a place beside or among pictures: nothing is written there.

    What was prepared there before is left to be found.
    """
    place, path, found = root.resolve(), pictures.path, places.find_picture(root)
    folders = {path / os.path.dirname(file) for file in pictures.files.values()}
    holds = place in (source.resolve(), path.resolve().parent) or (
        found is not None and found.parent == root
    )
    if (
        holds
        and not (place / "celeb_a").exists()
        or any(place.is_relative_to(each.resolve()) for each in (path, *folders))
    ):
        raise UserError(
            f"--data_dir is {str(root)!a}, which holds pictures or is among them: "
            "nothing is written among pictures; give another folder"
        )


def _metadata(labels: Labels, pictures: Pictures) -> dict[str, Any]:
    sources = dict(labels.md5)
    # The same for a zip and for the folder that it was unpacked to.
    contents = json.dumps([sorted(sources.items()), sorted(pictures.sizes.items())])
    return {
        "pictures": len(pictures.files),
        "of": len(labels.names),
        "sources_md5": sources,
        "fingerprint": hashlib.sha256(contents.encode()).hexdigest(),
    }


def _check_same(folder: pathlib.Path, metadata: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / "metadata.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        found = {}
    if found.get("fingerprint") != metadata["fingerprint"]:
        raise UserError(
            f"{folder} holds a celeb_a with {found.get('pictures', 'unknown')} "
            f"pictures that was made from other files than these, which are "
            f"{metadata['pictures']} pictures of {metadata['of']}; delete that folder "
            "to make it anew, or give another --data_dir"
        )


def _write(
    labels: Labels,
    pictures: Pictures,
    metadata: dict[str, Any],
    root: pathlib.Path,
) -> None:
    # Here and not before, for it takes seconds, and a run that finds its work done
    # does without.
    sources = metadata["sources_md5"]
    if pictures.path.is_file():
        sources[pictures.path.name] = celeba_files.md5(pictures.path)
    for name, found in sources.items():
        official = celeba_files.OFFICIAL_MD5.get(name, found)
        if found != official:
            print(
                f"warning: {name} is not the official file: its MD5 is {found}, "
                f"expected {official}",
                file=sys.stderr,
            )
    builder = CelebA(labels, pictures, metadata, root)
    writing.write(builder)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out, and removes what a killed run left in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = storage.locked(folder.with_name(f"{folder.name}.lock"), wait=False)
        try:
            locked = stack.enter_context(lock)
        except BlockingIOError:
            raise UserError(f"another run is preparing {folder}; wait for it") from None
        if locked:
            for stale in folder.glob(f"incomplete.*_{VERSION}"):
                shutil.rmtree(stale)
        yield
