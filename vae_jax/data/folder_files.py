"""A user's own pictures, in a folder or a zip: listed and read.

Nothing here writes, and nothing is unpacked: names found in a zip are only ever looked
up, never made into a path.
"""

import contextlib
import errno
import os
import pathlib
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from vae_jax.data import zips
from vae_jax.data.picture_files import to_stored as _stored
from vae_jax.errors import UserError, few, shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ATTRIBUTE_FILE = "attributes.csv"
ALLOWED = f"a folder or a zip of pictures ({', '.join(EXTENSIONS)})"

# Errors of a link that leads nowhere: to what is gone, in a circle, or through a file.
_NOWHERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)

_File = TypeVar("_File")


@dataclass(frozen=True)
class Source:
    """The files of a folder or a zip that matter here.

    A file's name is its relative path, "/" between the parts, in Unicode's form NFC: it
    is the same wherever the file was copied to, and macOS writes other forms.

    Attributes:
      path: path of the folder or zip.
      stamps: facts that show a change, by name: the size in bytes of a picture or the
        attribute file, and its time of change or CRC.
      read: function from a name to the file's bytes; raises what the file system or
        `zipfile` raises.
      passed_over: links to what has a name without them, and that name.
    """

    path: pathlib.Path
    stamps: dict[str, tuple[int, int]]
    read: Callable[[str], bytes]
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The pictures' names, sorted."""
        return sorted(name for name in self.stamps if name != ATTRIBUTE_FILE)


@contextlib.contextmanager
def open_source(path: pathlib.Path) -> Iterator[Source]:
    """Lists the pictures of a folder or a zip, and keeps it open for reading.

    Folders in it are looked into, and what links lead to, everything once; hidden files
    and what is no picture by its name are passed over.

    Raises:
      UserError: the path is no folder or zip of pictures, the zip is encrypted, a file
        is too large, a name occurs twice or is no text, a link leads nowhere, or an
        attribute file is in another folder.
    """
    if path.is_dir():
        found, passed_over = _find(path)
        for name, status in found.items():
            zips.check_size(shown(path / name), status.st_size)
        names = _by_name(path, ((name, name) for name in found))
        stamps = {
            name: (found[file].st_size, found[file].st_mtime_ns)
            for name, file in names.items()
        }
        yield _checked(
            Source(
                path,
                stamps,
                lambda name: (path / names[name]).read_bytes(),
                passed_over,
            )
        )
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise _refused(path, "which does not exist") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _refused(path, f"which is no folder and no whole zip ({error})") from None
    with archive:
        entries = _by_name(path, _zip_entries(path, archive))
        stamps = {name: (e.file_size, e.CRC) for name, e in entries.items()}
        yield _checked(
            Source(path, stamps, lambda name: zips.read(archive, entries[name]))
        )


def _refused(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"config.dataset.data_dir is {str(path)!r}, {reason}; "
        f"for dataset.name folder, allowed is {ALLOWED}"
    )


def _find(root: pathlib.Path) -> tuple[dict[str, os.stat_result], dict[str, str]]:
    """Returns the files that matter, and the links passed over, by relative path.

    What lies in the folder comes first, then what links lead to: so no link takes the
    name of a picture that has one without it.
    """
    files: dict[str, os.stat_result] = {}
    links: dict[str, os.stat_result] = {}  # to files
    nowhere: list[str] = []
    passed_over: dict[str, str] = {}
    seen: dict[tuple[int, int], str] = {}  # folders
    starts = [""]
    for start in starts:
        above = _leads_above(root / start) if start else None
        if above:
            passed_over[start] = above
            continue
        folders = [start]
        while folders:
            folder = folders.pop()
            status = (root / folder).stat()
            first = seen.setdefault((status.st_dev, status.st_ino), folder)
            # Where no link was taken none comes up twice, whatever the disk numbers.
            if start and first != folder:
                passed_over[folder] = first
                continue
            for entry in _entries(root / folder):
                name = f"{folder}/{entry.name}" if folder else entry.name
                if not entry.is_symlink():
                    if entry.is_dir():
                        folders.append(name)
                    elif _matters(pathlib.PurePosixPath(name)):
                        files[name] = entry.stat()
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    if error.errno not in _NOWHERE:
                        raise
                    nowhere.append(name)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    starts.append(name)
                elif _matters(pathlib.PurePosixPath(name)):
                    links[name] = status
    if nowhere:
        # Also without a picture's name: a disk of pictures may be missing.
        raise UserError(
            f"{shown(root)} holds {len(nowhere)} link(s) that lead nowhere: "
            f"{few(nowhere)}; mend or remove them"
        )
    names = {(s.st_dev, s.st_ino): name for name, s in files.items() if links}
    for name, status in links.items():
        first = names.setdefault((status.st_dev, status.st_ino), name)
        if first == name:
            files[name] = status
        else:
            passed_over[name] = first
    # A pipe by a picture's name would never come to its end.
    return {n: s for n, s in files.items() if stat.S_ISREG(s.st_mode)}, passed_over


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    # Hidden folders are not even looked into: they may be closed to the user.
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )


def _leads_above(link: pathlib.Path) -> str | None:
    """Returns where a link to a folder leads, if it lies within that folder."""
    to, within = link.resolve(), link.parent.resolve()
    return str(to) if within.is_relative_to(to) else None


def _by_name(
    path: pathlib.Path, files: Iterable[tuple[str, _File]]
) -> dict[str, _File]:
    """Returns files by their names in NFC; raises UserError for two of one name."""
    found: dict[str, _File] = {}
    spelled: dict[str, str] = {}
    for name, file in files:
        key = unicodedata.normalize("NFC", name)
        if key in found:
            also = f", as {ascii(spelled[key])} too" if spelled[key] != name else ""
            raise UserError(
                f"{shown(path)}: {ascii(name)} occurs twice{also}; rename one"
            )
        found[key], spelled[key] = file, name
    return found


def _zip_entries(
    path: pathlib.Path, archive: zipfile.ZipFile
) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for entry in archive.infolist():
        name = pathlib.PurePosixPath(zips.name_of(entry).replace("\\", "/"))
        if entry.is_dir() or not _matters(name):
            continue
        zips.check(path, entry)
        yield str(name), entry


def _matters(name: pathlib.PurePosixPath) -> bool:
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
        return False
    return name.suffix.lower() in EXTENSIONS or name.name.lower() == ATTRIBUTE_FILE


def _checked(source: Source) -> Source:
    path = shown(source.path)
    no_text = [name for name in source.stamps if not _is_utf_8(name)]
    if no_text:
        raise UserError(
            f"{path}: {len(no_text)} name(s) are no UTF-8: {few(no_text)}; rename the "
            "file(s)"
        )
    for name in source.stamps:
        # A zip of the folder, rather than of what is in it, would lose its attributes.
        other = name.lower().endswith(f"/{ATTRIBUTE_FILE}") or (
            name.lower() == ATTRIBUTE_FILE != name
        )
        if other:
            raise UserError(
                f"{path} holds {shown(name)}; attributes are read from "
                f"{ATTRIBUTE_FILE} in its root alone: move it there, or pack the zip "
                "from within the folder"
            )
    if not source.names:
        raise _refused(source.path, "which holds no pictures")
    return source


def _is_utf_8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_picture(source: Source, name: str) -> tuple[bytes, bytes, str | None]:
    """Reads a picture, decodes it completely, and says what is wrong with it.

    Returns:
      The file, the picture as `picture_files.to_stored` has it, and its damage, None
      if there is none.
    """
    try:
        file = source.read(name)
    except zips.UNREADABLE as error:
        return b"", b"", f"not readable: {error}"
    try:
        return file, _stored(file), None
    except ValueError as error:
        return b"", b"", str(error)
