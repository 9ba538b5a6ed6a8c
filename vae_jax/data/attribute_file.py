"""attributes.csv: what is true of each of a user's own pictures."""

import codecs
import collections
import csv
import io
import pathlib
import posixpath
import unicodedata
from collections.abc import Sequence

from vae_jax.data import zips
from vae_jax.data.folder_files import ATTRIBUTE_FILE, Source
from vae_jax.errors import UserError, few, shown

_BITS = {"0": False, "1": True, "-1": False, "true": True, "false": False}
_FAULTS = 10  # that are told, of however many
# Attributes are named in flags, --attribute=A=0.5,B, and name files, which may have 255
# bytes.
_SIGNS = "/\\,="
_CHARACTERS, _BYTES = 100, 200

_Rows = Sequence[tuple[int, list[str]]]  # with their lines


def read_attributes(source: Source) -> tuple[tuple[str, ...], dict[str, list[bool]]]:
    """Reads `attributes.csv`, if it is there.

    Returns:
      The attributes' names, in NFC, and by picture their values in that order; no
      names where there is no such file.

    Raises:
      UserError: naming file, line and value of what is not as it should be, ten of them
        at most: a `file_name` column, a row for every picture, different names of
        attributes, and in their columns 1 or true, or else 0, -1 or false.
    """
    if ATTRIBUTE_FILE not in source.stamps:
        return (), {name: [] for name in source.names}
    rows = _read_rows(source)
    line, header = rows[0] if rows else (1, [])
    columns = [unicodedata.normalize("NFC", column.strip()) for column in header]
    faults = [f"{ATTRIBUTE_FILE}:{line}: {each}" for each in _header_faults(columns)]
    values: dict[str, list[bool]] = {}
    if columns.count("file_name") == 1:
        values, more = _read_values(source, columns, rows[1:])
        faults += more
    if faults:
        left = len(faults) - _FAULTS
        raise UserError(
            f"{shown(source.path)}/{'; '.join(faults[:_FAULTS])}"
            + (f"; and {left} more" if left > 0 else "")
        )
    return tuple(column for column in columns if column != "file_name"), values


def _read_rows(source: Source) -> _Rows:
    """Returns the rows that are not empty."""
    path = shown(source.path / ATTRIBUTE_FILE)
    try:
        file = source.read(ATTRIBUTE_FILE)
    except zips.UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if file.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in file:
        raise UserError(f"{path} is UTF-16, or no text; allowed is a CSV in UTF-8")
    try:
        # Spreadsheets put a byte order mark first.
        text = file.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: no UTF-8 ({error.reason}); allowed is a CSV in UTF-8"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if any(value.strip() for value in row):
                rows.append((line, row))
            # A row may have several lines, where a name has.
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{line}: no CSV, with commas between the columns: {error}"
        ) from error
    return rows


def _header_faults(columns: Sequence[str]) -> list[str]:
    if "file_name" not in columns:
        text = ",".join(columns)
        separator = next((sign for sign in ";\t|" if sign in text), None)
        if separator:
            return [f"the columns are separated by {separator!r}; allowed is ','"]
    faults = []
    if columns.count("file_name") != 1:
        faults.append(
            f"the columns are {ascii(','.join(columns)[:80])}; allowed are file_name, "
            "once, and names of attributes, between commas"
        )
    first: dict[str, int] = {}
    for number, name in enumerate(columns, 1):
        # A file system may take capitals for small letters.
        former = first.setdefault(unicodedata.normalize("NFC", name.casefold()), number)
        sign = next((s for s in name if s in _SIGNS or not s.isprintable()), None)
        if not name:
            fault = "has no name"
        elif former != number:
            fault = f"is {ascii(columns[former - 1])} of column {former} again"
        elif sign:
            fault = (
                f"has {ascii(sign)}; not allowed are {' '.join(_SIGNS)} and signs that "
                "do not print"
            )
        elif not name.strip("."):
            fault = "has dots alone"
        elif len(name) > _CHARACTERS or len(name.encode()) > _BYTES:
            fault = (
                f"has {len(name)} characters, {len(name.encode())} bytes in UTF-8; "
                f"allowed are {_CHARACTERS} and {_BYTES}"
            )
        else:
            continue
        faults.append(f"the name {ascii(name[:40])} of column {number} {fault}")
    return faults


def _read_values(
    source: Source, columns: Sequence[str], rows: _Rows
) -> tuple[dict[str, list[bool]], list[str]]:
    """Returns the attributes' values by picture, and what is wrong with the rows."""
    names, key = source.names, columns.index("file_name")
    pictures, alike = set(names), collections.defaultdict(list)
    for name in names:
        alike[_plain(name)].append(name)
    values: dict[str, list[bool]] = {}
    first: dict[str, int] = {}
    faults: list[str] = []
    for line, row in rows:
        said = []
        name = row[key] if key < len(row) else ""
        exact = unicodedata.normalize("NFC", name)
        found = [exact] if exact in pictures else alike.get(_plain(name), [])
        if len(row) != len(columns):
            said.append(
                f"got {len(row)} value(s), expected {len(columns)} as in the header"
            )
        elif not found:
            other = _other_name(source, _plain(name))
            said.append(f"there is no picture {ascii(name)}{other}")
        elif len(found) > 1:
            said.append(f"{ascii(name)} may be each of {', '.join(map(ascii, found))}")
        if len(found) == 1 and first.setdefault(found[0], line) != line:
            said.append(
                f"{ascii(name)} is listed twice, first in line {first[found[0]]}"
            )
        if len(row) == len(columns):
            bits, wrong = _read_bits(columns, row)
            said += wrong
            for picture in found:
                values[picture] = bits
        faults += [f"{ATTRIBUTE_FILE}:{line}: {each}" for each in said]
    missing = [name for name in names if name not in first]
    if missing:
        faults.append(
            f"{ATTRIBUTE_FILE} has no row for {len(missing)} of {len(names)} pictures: "
            f"{few([ascii(name) for name in missing])}"
        )
    return values, faults


def _read_bits(
    columns: Sequence[str], row: Sequence[str]
) -> tuple[list[bool], list[str]]:
    bits, wrong = [], []
    for column, value in zip(columns, row, strict=True):
        if column == "file_name":
            continue
        bit = _BITS.get(value.strip().lower())
        bits.append(bool(bit))
        if bit is None:
            wrong.append(
                f"{shown(column)} is {ascii(value[:40])}; allowed are "
                f"{', '.join(_BITS)}"
            )
    return bits, wrong


def _plain(name: str) -> str:
    """Returns a name as `Source` has it, however a row writes the path."""
    return posixpath.normpath(
        unicodedata.normalize("NFC", name).strip().replace("\\", "/")
    )


def _other_name(source: Source, name: str) -> str:
    for part in (name, *map(str, pathlib.PurePosixPath(name).parents)):
        if part in source.passed_over:
            return (
                f", for {ascii(part)} is a link to what is read as "
                f"{ascii(source.passed_over[part])}"
            )
    return ""
