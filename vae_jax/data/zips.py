"""Zips of pictures that somebody else packed: read within bounds, never unpacked.

Names found in a zip are only ever looked up, never made into a path.
"""

import contextlib
import pathlib
import zipfile
import zlib

from vae_jax.errors import UserError, shown

# Most bytes of a picture's file. A whole picture of this size would be hundreds of
# megapixels.
LARGEST = 2**28

# What opening and reading may raise: ValueError for a name that is no UTF-8, or an
# offset before the file's start.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def name_of(entry: zipfile.ZipInfo) -> str:
    """Returns an entry's name; macOS writes UTF-8 without saying so."""
    if not entry.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            # Python's guess undone.
            return entry.filename.encode("cp437").decode()
    return entry.filename


def check(path: pathlib.Path, entry: zipfile.ZipInfo) -> None:
    """Raises UserError for an entry that is not to be read."""
    where = f"{shown(path)}: entry {entry.filename!r}"
    if entry.flag_bits & 0x1:
        raise UserError(f"{where} is encrypted; pack the zip without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{where} is packed by method {entry.compress_type}; allowed are 0 "
            "(stored) and 8 (deflated)"
        )
    check_size(where, entry.file_size)


def check_size(where: str, size: int) -> None:
    """Raises UserError for a picture's file, of `size` bytes, that is too large."""
    if size > LARGEST:
        raise UserError(
            f"{where} has {size} bytes; a picture's file may have {LARGEST}"
        )


def read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Returns an entry's bytes; raises one of `UNREADABLE`."""
    with archive.open(entry) as file:
        # With a number of bytes zipfile unpacks no more, whatever is packed there.
        return file.read(entry.file_size)
