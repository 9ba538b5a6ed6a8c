"""CelebA's pictures, in a folder or a zip: listed, compared with the labels, decoded.

Nothing here writes, and nothing is unpacked: names found in a zip are only ever looked
up, never made into a path.
"""

import collections
import contextlib
import io
import os
import pathlib
import shlex
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from vae_jax.data import folder as own_pictures
from vae_jax.data import picture_files, zips
from vae_jax.data.celeba_files import (
    HEIGHT,
    HOMEPAGE,
    PICTURES,
    SPLITS,
    WIDTH,
    few,
    official_name,
)
from vae_jax.data.celeba_labels import Labels
from vae_jax.errors import UserError

_PNG = b"\x89PNG"


@dataclass(frozen=True)
class Pictures:
    """The files of a folder or a zip.

    Attributes:
      path: path of the folder or zip.
      files: the pictures' paths in it, "/" between their parts, by official name.
      sizes: sizes of the files in bytes, by official name.
      others: the paths of what is no picture by its name.
      elsewhere: other places where pictures may be, which were passed over.
      read: function from a path in it to the file's bytes; raises one of
        `zips.UNREADABLE`.
    """

    path: pathlib.Path
    files: dict[str, str]
    sizes: dict[str, int]
    others: list[str]
    elsewhere: Sequence[pathlib.Path]
    read: Callable[[str], bytes]

    def passed_over(self) -> str:
        """Says what was passed over, for errors; nothing where nothing was."""
        counts = collections.Counter(
            pathlib.PurePosixPath(file).suffix.lower() for file in self.others
        )
        over = [f"{n} {end or 'nameless'} file(s)" for end, n in counts.most_common(3)]
        over += map(str, self.elsewhere)
        return f"; passed over: {', '.join(over)}" if over else ""


@contextlib.contextmanager
def open_pictures(
    path: pathlib.Path, elsewhere: Sequence[pathlib.Path] = ()
) -> Iterator[Pictures]:
    """Lists a folder or a zip, with the folders in it, and keeps it open for reading.

    Hidden files and folders are passed over.

    Raises:
      UserError: a zip is damaged, an entry of it is encrypted, too large or points
        outside, or a picture is there twice.
    """
    if path.is_dir():
        sizes = dict(_files_under(path))
        yield _sorted_out(
            path, sizes, elsewhere, lambda name: (path / name).read_bytes()
        )
        return
    try:
        archive = zipfile.ZipFile(path)
    except zips.UNREADABLE as error:
        raise UserError(
            f"{path} is no whole zip ({error}); download it again from {HOMEPAGE}"
        ) from error
    with archive:
        entries = _zip_entries(path, archive)
        sizes = {name: entry.file_size for name, entry in entries.items()}
        yield _sorted_out(
            path, sizes, elsewhere, lambda name: zips.read(archive, entries[name])
        )


def _files_under(path: pathlib.Path) -> Iterator[tuple[str, int]]:
    """Yields the files' paths in a folder, and their sizes in bytes."""

    def fail(error: OSError):
        raise error

    seen = set()
    for parent, folders, files in os.walk(path, onerror=fail, followlinks=True):
        # A link may lead back to where it lies.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Not even looked into: a hidden folder may be closed to the user.
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        within = pathlib.Path(parent).relative_to(path)
        for name in sorted(files):
            file = os.path.join(parent, name)
            # Neither a pipe, which would never come to its end, nor a broken link.
            if not is_hidden(name) and os.path.isfile(file):
                size = os.path.getsize(file)
                zips.check_size(file, size)
                yield (within / name).as_posix(), size


def is_hidden(name: str) -> bool:
    """Says whether a file or folder is hidden, or what macOS puts into zips."""
    return name.startswith(".") or name == "__MACOSX"


def _zip_entries(
    path: pathlib.Path, archive: zipfile.ZipFile
) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.replace("\\", "/")
        parts = name.split("/")
        if not parts[0] or ".." in parts or ":" in parts[0]:
            raise UserError(
                f"{path}: entry {entry.filename!a} points outside the zip; the "
                f"official one from {HOMEPAGE} holds {PICTURES}/000001.jpg, ..."
            )
        if entry.is_dir() or any(map(is_hidden, parts)):
            continue
        zips.check(path, entry)
        if entries.setdefault(name, entry) is not entry:
            raise UserError(f"{path}: entry {name!a} occurs twice")
    return entries


def _sorted_out(
    path: pathlib.Path,
    sizes: dict[str, int],
    elsewhere: Sequence[pathlib.Path],
    read: Callable[[str], bytes],
) -> Pictures:
    files: dict[str, str] = {}
    others = []
    for file in sizes:
        name = official_name(file.rpartition("/")[2])
        if name is None:
            others.append(file)
        elif files.setdefault(name, file) != file:
            raise UserError(
                f"{path}: picture {name!a} is there twice, as {files[name]!a} and as "
                f"{file!a}; remove one"
            )
    by_name = {name: sizes[file] for name, file in files.items()}
    return Pictures(path, files, by_name, others, elsewhere, read)


def check_names(labels: Labels, pictures: Pictures, *, allow_missing: bool) -> None:
    """Compares the pictures that are there, one at least, with those that are listed.

    Where some are missing, what each split has and would have is printed.

    Raises:
      UserError: if there are unlisted pictures, if a split has none, or if listed ones
        are missing and `allow_missing` is False.
    """
    listed = f"{len(labels.names)} pictures listed in {labels.listed_in}"
    known, there = set(labels.names), len(pictures.files)
    extra = [file for name, file in pictures.files.items() if name not in known]
    if extra:
        alone = how_to_train(pictures.path, extra) if len(extra) == there else ""
        raise UserError(
            f"{pictures.path} holds {len(extra)} picture(s){few(extra)} not among the "
            f"{listed}; remove them, or complete the label files{alone}"
        )
    missing = [name for name in labels.names if name not in pictures.files]
    splits = _splits(labels, pictures)
    told = {
        name: f"{name} has {has} of {count} pictures, {first} to {last}"
        for name, (has, count, first, last) in splits.items()
    }
    if missing:
        print(f"{pictures.path}: {'; '.join(told.values())}")
    empty = [told[name] for name, (has, *_) in splits.items() if not has]
    if not empty and (allow_missing or not missing):
        return
    message = (
        f"{len(missing)} of the {listed} are missing from {pictures.path}{few(missing)}"
        f"{pictures.passed_over()}; complete it from {HOMEPAGE}"
    )
    if empty:
        raise UserError(
            f"{message}; nothing is trained or evaluated without a picture in each "
            f"split, and {', '.join(empty)}"
            + how_to_train(pictures.path, pictures.files.values())
        )
    raise UserError(f"{message}, or pass --allow_missing to prepare the {there}")


def _splits(labels: Labels, pictures: Pictures) -> dict[str, tuple[int, int, str, str]]:
    """Returns how many pictures each split has and lists, and its first and last."""
    there = np.array([name in pictures.files for name in labels.names])
    splits = {}
    for index, split in enumerate(SPLITS):
        rows = np.flatnonzero(labels.partition == index)
        if not len(rows):
            raise UserError(
                f"{labels.listed_in} lists no picture of split {split}; nothing is "
                f"trained or evaluated without one; get it again from {HOMEPAGE}"
            )
        first, last = (labels.names[row].removesuffix(".jpg") for row in rows[[0, -1]])
        splits[split] = (int(there[rows].sum()), len(rows), first, last)
    return splits


def how_to_train(path: pathlib.Path, files: Iterable[str]) -> str:
    """Returns how to train on pictures without CelebA's labels, for errors.

    Nothing where they are too few for a split each.

    Args:
      path: path of a folder or a zip.
      files: the pictures' paths in it.
    """
    if {own_pictures.split_of(file) for file in files} != set(own_pictures.SPLITS):
        return ""
    return (
        "; to train on these pictures without labels: python -m vae_jax.main "
        "--config=configs/vae.py --config.dataset.name=folder "
        f"--config.dataset.data_dir={shlex.quote(str(path.absolute()))}"
    )


def damage(picture: bytes) -> str | None:
    """Decodes a picture completely and says what is wrong with it, None if nothing.

    It has to be a whole JPEG or PNG in colour, 178 pixels wide and 218 high. Decoding
    is strict, for without that a decoder fills in what is cut off and only warns. All
    that can be wrong with a JPEG shows while its bits are decoded; so the pixels, which
    take longer, are those of an eighth of the size, in gray.
    """
    if picture.startswith(_PNG):
        return _damage_of_png(picture)
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(picture)
        if (height, width) != (HEIGHT, WIDTH):
            return f"{width}x{height} pixels, expected {WIDTH}x{HEIGHT}"
        if colour not in ("YCbCr", "RGB"):
            return f"{colour}, expected colour"
        simplejpeg.decode_jpeg(
            picture, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True
        )
    except ValueError as error:
        return f"no whole JPEG: {error}"
    return None


def _damage_of_png(picture: bytes) -> str | None:
    try:
        stored = picture_files.to_stored(picture)
    except ValueError as error:
        return f"no whole PNG: {error}"
    with Image.open(io.BytesIO(picture), formats=("PNG",)) as opened:
        if opened.size != (WIDTH, HEIGHT):
            width, height = opened.size
            return f"{width}x{height} pixels, expected {WIDTH}x{HEIGHT}"
        if opened.mode != "RGB" or stored != picture:
            return f"{opened.mode}, expected RGB of 8 bits, upright"
    return None
