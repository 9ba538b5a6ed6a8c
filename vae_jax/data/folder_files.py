"""A user's own pictures, in a folder or a zip: listed, read and checked.

Nothing here writes, and nothing is unpacked: names found in a zip are only ever looked
up, never made into a path.
"""

import contextlib
import csv
import io
import os
import pathlib
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vae_jax.data import zips
from vae_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ATTRIBUTE_FILE = "attributes.csv"
ALLOWED = f"a folder or a zip of pictures ({', '.join(EXTENSIONS)})"

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_BITS = {"1": True, "0": False, "-1": False, "true": True, "false": False}


@dataclass(frozen=True)
class Source:
    """The files of a folder or a zip that matter here.

    Attributes:
      path: of the folder or zip.
      stamps: by relative path, "/" between its parts, what shows a change: a picture's
        or the attribute file's size in bytes, and its time of change or CRC.
      read: from a relative path to the file's bytes; raises what the file system or
        `zipfile` raises.
    """

    path: pathlib.Path
    stamps: dict[str, tuple[int, int]]
    read: Callable[[str], bytes]

    @property
    def names(self) -> list[str]:
        """The pictures' relative paths, sorted."""
        return sorted(name for name in self.stamps if name != ATTRIBUTE_FILE)


@contextlib.contextmanager
def open_source(path: pathlib.Path) -> Iterator[Source]:
    """Lists the pictures of a folder or a zip, and keeps it open for reading.

    Folders in it are looked into, links to folders are not; hidden files and what is
    no picture by its name are passed over.

    Raises:
      UserError: for what is no folder or zip of pictures, an encrypted zip, a file
        that is too large, a name that occurs twice or is no text, and an attribute
        file in another folder.
    """
    if path.is_dir():
        files = {
            name: (path / name).stat()
            for name in _files_under(path)
            if _matters(pathlib.PurePosixPath(name))
        }
        # A pipe by a picture's name would never come to its end.
        files = {name: s for name, s in files.items() if stat.S_ISREG(s.st_mode)}
        for name, s in files.items():
            zips.check_size(str(path / name), s.st_size)
        stamps = {name: (s.st_size, s.st_mtime_ns) for name, s in files.items()}
        yield _checked(Source(path, stamps, lambda name: (path / name).read_bytes()))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise _refused(path, "which does not exist") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _refused(path, f"which is no folder and no whole zip ({error})") from None
    with archive:
        entries = _zip_entries(path, archive)
        stamps = {name: (e.file_size, e.CRC) for name, e in entries.items()}
        yield _checked(
            Source(path, stamps, lambda name: zips.read(archive, entries[name]))
        )


def _refused(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"config.dataset.data_dir is {str(path)!r}, {reason}; "
        f"for dataset.name folder, allowed is {ALLOWED}"
    )


def _files_under(path: pathlib.Path) -> Iterator[str]:
    def fail(error: OSError):
        raise error

    for parent, folders, files in os.walk(path, onerror=fail):
        # Not even looked into: a hidden folder may be closed to the user.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            yield (pathlib.Path(parent) / name).relative_to(path).as_posix()


def _zip_entries(
    path: pathlib.Path, archive: zipfile.ZipFile
) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = pathlib.PurePosixPath(entry.filename.replace("\\", "/"))
        if entry.is_dir() or not _matters(name):
            continue
        zips.check(path, entry)
        if entries.setdefault(str(name), entry) is not entry:
            raise UserError(f"{path}: {str(name)!r} occurs twice")
    return entries


def _matters(name: pathlib.PurePosixPath) -> bool:
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
        return False
    return name.suffix.lower() in EXTENSIONS or name.name.lower() == ATTRIBUTE_FILE


def _checked(source: Source) -> Source:
    for name in source.stamps:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{source.path}: the name {name!r} is no UTF-8; rename the file"
            ) from None
        # A zip of the folder, rather than of what is in it, would lose its attributes.
        other = name.lower().endswith(f"/{ATTRIBUTE_FILE}") or (
            name.lower() == ATTRIBUTE_FILE != name
        )
        if other:
            raise UserError(
                f"{source.path} holds {name}; attributes are read from "
                f"{ATTRIBUTE_FILE} in its root alone: move it there, or pack the zip "
                "from within the folder"
            )
    if not source.names:
        raise _refused(source.path, "which holds no pictures")
    return source


def read_attributes(source: Source) -> tuple[tuple[str, ...], dict[str, list[bool]]]:
    """Reads `attributes.csv`, if it is there.

    Returns:
      The attributes' names, and by picture their values in that order; no names
      where there is no such file.

    Raises:
      UserError: naming file, line and value of what is not as it should be: a
        `file_name` column, a row for every picture, and in the other columns 1 or
        true, or else 0, -1 or false.
    """
    if ATTRIBUTE_FILE not in source.stamps:
        return (), {name: [] for name in source.names}
    path = source.path / ATTRIBUTE_FILE
    try:
        # Spreadsheets put a byte order mark first.
        text = source.read(ATTRIBUTE_FILE).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, row) for row in reader if row]
    except (*zips.UNREADABLE, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8: {error}") from error
    header = [column.strip() for column in lines[0][1]] if lines else []
    if header.count("file_name") != 1 or len(set(header)) < len(header):
        raise UserError(
            f"{path}:1: the columns are {','.join(header)[:80]!r}; allowed are "
            "file_name and different names of attributes, between commas"
        )
    key = header.index("file_name")
    rows: dict[str, list[bool]] = {}
    first: dict[str, int] = {}
    for line, row in lines[1:]:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: got {len(row)} value(s), expected {len(header)} as in the "
                "header"
            )
        name = row.pop(key)
        if name not in source.stamps or name == ATTRIBUTE_FILE:
            raise UserError(f"{where}: there is no picture {name!r} in {source.path}")
        if name in first:
            raise UserError(
                f"{where}: {name} is listed twice, first in line {first[name]}"
            )
        first[name] = line
        rows[name] = _bits(row, [*header[:key], *header[key + 1 :]], where)
    missing = [name for name in source.names if name not in rows]
    if missing:
        raise UserError(
            f"{path} has no row for {len(missing)} of {len(source.names)} pictures: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    return tuple(column for column in header if column != "file_name"), rows


def _bits(row: Sequence[str], columns: Sequence[str], where: str) -> list[bool]:
    for column, value in zip(columns, row, strict=True):
        if value.strip().lower() not in _BITS:
            raise UserError(
                f"{where}: {column} is {value[:40]!r}; allowed are 0, 1, -1, true, "
                "false"
            )
    return [_BITS[value.strip().lower()] for value in row]


def read_picture(source: Source, name: str) -> tuple[bytes, bytes, str | None]:
    """Reads a picture, decodes it completely, and says what is wrong with it.

    Returns:
      The file, the picture as it is to be stored, and its damage, None if there is
      none. Stored are gray or RGB pictures of 8 bits a channel, upright, as JPEG or
      PNG; a file that is one already is stored byte for byte.
    """
    try:
        file = source.read(name)
    except zips.UNREADABLE as error:
        return b"", b"", f"not readable: {error}"
    if not file:
        return b"", b"", "empty"
    # What decoders warn of, such as odd metadata, is nothing that a user need mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return file, _stored(file), None
        except UnidentifiedImageError:
            return b"", b"", f"none of {', '.join(FORMATS)}"
        # Given bad bytes, PIL raises what comes: SyntaxError and struct.error too.
        except Exception as error:
            return b"", b"", str(error) or type(error).__name__


def _stored(file: bytes) -> bytes:
    with Image.open(io.BytesIO(file), formats=FORMATS) as picture:
        picture.verify()
    with Image.open(io.BytesIO(file), formats=FORMATS) as picture:
        # A JPEG with a second one behind it, from a phone, is MPO to PIL.
        jpeg = picture.format in ("JPEG", "MPO")
        if jpeg:
            # PIL fills in what is broken within a JPEG.
            simplejpeg.decode_jpeg(file, strict=True)
        else:
            picture.load()
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
        plain = picture.mode in ("L", "RGB") and not picture.has_transparency_data
        if plain and not turned and (jpeg or picture.format == "PNG"):
            return file
        stored = io.BytesIO()
        # Twice the size of the best compression, in a tenth of its time.
        _plain(ImageOps.exif_transpose(picture)).save(stored, "PNG", compress_level=1)
        return stored.getvalue()


def _plain(picture: Image.Image) -> Image.Image:
    """Returns the picture in gray or RGB, what is transparent over white."""
    if picture.mode.startswith("I"):
        # 16 bits, which PIL would clip rather than scale.
        levels = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
