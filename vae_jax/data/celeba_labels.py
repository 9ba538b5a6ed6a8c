"""CelebA's label files, read and checked: the official ones, and Kaggle's CSV."""

import array
import codecs
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from vae_jax.data import zips
from vae_jax.data.celeba_files import (
    ATTRIBUTE_FILE,
    ATTRIBUTES,
    HOMEPAGE,
    IDENTITY_FILE,
    LANDMARK_FILE,
    LANDMARKS,
    PARTITION_FILE,
    few,
    official_name,
)
from vae_jax.errors import UserError

# Names of each label file, by the official one: Kaggle's comes second, and has no
# identities.
FILES = {
    PARTITION_FILE: (PARTITION_FILE, "list_eval_partition.csv"),
    ATTRIBUTE_FILE: (ATTRIBUTE_FILE, "list_attr_celeba.csv"),
    LANDMARK_FILE: (LANDMARK_FILE, "list_landmarks_align_celeba.csv"),
    IDENTITY_FILE: (IDENTITY_FILE,),
}
REQUIRED = (PARTITION_FILE, ATTRIBUTE_FILE)

_FAULTS = 10  # of a file, that are told one by one
# What spreadsheets put between values and around them, to spaces.
_SPACED = str.maketrans(',;"', "   ")


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A label file in a folder or a zip.

    Attributes:
      where: its place, for errors.
      name: name of the file without its folder; that of a CSV ends so.
      read: returns its bytes; raises one of `zips.UNREADABLE`.
    """

    where: str
    name: str
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the label files say of their N pictures, in the partition file's order."""

    names: list[str]  # official ones, 000001.jpg
    partition: Int[np.ndarray, " N"]  # an index into SPLITS
    attributes: Bool[np.ndarray, "N 40"]  # columns as in ATTRIBUTES
    landmarks: Int[np.ndarray, "N 10"] | None  # pixels, columns as in LANDMARKS
    identity: Int[np.ndarray, " N"] | None
    listed_in: str  # the partition file's place
    md5: dict[str, str]  # in hexadecimal, by name of the files


def read_labels(files: Mapping[str, LabelFile]) -> Labels:
    """Reads label files, by official name; landmarks and identities are optional.

    Raises:
      UserError: naming a file and its lines with a header, count, row or value that is
        not as published, ten at most, or the names on which two files disagree.
    """
    partition = _read_table(
        files[PARTITION_FILE], ("partition",), {"0": 0, "1": 1, "2": 2}
    )
    md5 = {files[PARTITION_FILE].name: partition.md5}

    def aligned(
        official: str, columns: tuple[str, ...], values: dict[str, int] | None
    ) -> np.ndarray | None:
        if official not in files:
            return None
        table = _read_table(files[official], columns, values)
        md5[files[official].name] = table.md5
        return _align(table, partition)

    attributes = aligned(ATTRIBUTE_FILE, ATTRIBUTES, {"-1": 0, "1": 1})
    assert attributes is not None, "REQUIRED has this file"
    identity = aligned(IDENTITY_FILE, ("identity",), None)
    return Labels(
        names=list(partition.lines),
        partition=partition.values[:, 0],
        attributes=attributes.astype(bool),
        landmarks=aligned(LANDMARK_FILE, LANDMARKS, None),
        identity=None if identity is None else identity[:, 0],
        listed_in=partition.where,
        md5=md5,
    )


@dataclasses.dataclass(frozen=True)
class _Table:
    where: str
    md5: str
    lines: dict[str, int]  # official name to line, in the file's order
    values: Int[np.ndarray, "N columns"]


def _read_table(
    file: LabelFile, columns: tuple[str, ...], values: dict[str, int] | None
) -> _Table:
    """Reads rows of a name and integers; `values` says which these may be, None any."""
    content, lines = _read_lines(file)
    faults: list[str] = []
    first, widths = 1, {len(columns)}
    if file.name.endswith(".csv"):
        lines = [line.translate(_SPACED) for line in lines]
        header, first = lines[0].split() if lines else [], 2
        faults += _header_faults(1, header, ("image_id", *columns))
        widths.add(len(header) - 1)
    elif len(columns) > 1:
        counted = int(len(lines[0].split()) == 1) if lines else 0
        header = lines[counted].split() if len(lines) > counted else []
        first = counted + 2
        rows = max(len(lines) - first + 1, 0)
        count = lines[0].strip() if counted else ""
        if count != str(rows):
            faults.append(
                f"line 1: the number of rows is {count[:40]!a}, and {rows} follow the "
                "header: the file was cut or edited"
            )
        faults += _header_faults(counted + 1, header, columns)
        widths.add(len(header))
    # The header tells of a column too many, not each row.
    lines_of, flat, row_faults = _read_rows(lines[first - 1 :], first, widths, values)
    if not lines_of:
        faults.append(f"it lists no picture; get it again from {HOMEPAGE}")
    faults += row_faults
    if faults:
        more = len(faults) - _FAULTS
        raise UserError(
            f"{file.where}: {'; '.join(faults[:_FAULTS])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    return _Table(
        file.where,
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        lines_of,
        np.array(flat, np.int64).reshape(-1, len(columns)),
    )


def _read_lines(file: LabelFile) -> tuple[bytes, list[str]]:
    try:
        content = file.read()
    except zips.UNREADABLE as error:
        raise UserError(f"{file.where} cannot be read: {error}") from error
    # UTF-16 without its mark has a zero in each second byte.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (
        b"\0" in content[:64]
    ):
        raise UserError(
            f"{file.where} is UTF-16, or no text; save it as UTF-8, or get it again "
            f"from {HOMEPAGE}"
        )
    # Editors put a mark first. A byte that is no text makes a wrong value or an
    # unknown name, which is told.
    text = content.decode("utf-8", errors="replace").lstrip("\ufeff")
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return content, lines


def _header_faults(number: int, got: list[str], columns: Sequence[str]) -> list[str]:
    """Says how a header's columns differ, but for capitals."""
    there = [name.casefold() for name in got]
    official = [name.casefold() for name in columns]
    surplus = [name for name in got if name.casefold() not in official]
    lacking = [name for name in columns if name.casefold() not in there]
    where = f"line {number}, the header:"
    faults = []
    if surplus:
        faults.append(f"{where} {len(surplus)} column(s){few(surplus)} to remove")
    if lacking:
        faults.append(f"{where} {len(lacking)} column(s){few(lacking)} are missing")
    if not faults and there != official:
        pairs = zip((*there, ""), (*official, ""), strict=False)
        place = next(i for i, pair in enumerate(pairs) if pair[0] != pair[1])
        faults.append(
            f"{where} column {place + 1} is {(*got, '')[place]!a}, expected "
            f"{(*columns, '')[place]!a}"
        )
    return faults


def _read_rows(
    lines: list[str],
    first: int,
    widths: set[int],
    values: dict[str, int] | None,
) -> tuple[dict[str, int], array.array, list[str]]:
    """Reads rows of a name and values, the first of them in line `first`.

    Returns the lines by official name, all values in a row, and what is wrong. The
    values are those of the table only where nothing is wrong.
    """
    convert = int if values is None else values.__getitem__
    expected = f"expected {' or '.join(map(str, sorted(widths)))} value(s) "
    expected += "integers" if values is None else f"of {', '.join(values)}"
    lines_of: dict[str, int] = {}
    flat = array.array("q")
    faults = []
    for number, line in enumerate(lines, first):
        name, *fields = line.split() or [""]
        try:
            flat.extend(map(convert, fields))
        except KeyError as error:
            got = error.args[0][:80]
            faults.append(f"line {number}: got {got!a} for {name!a}, {expected}")
        except (ValueError, OverflowError):
            got = " ".join(fields)[:80]
            faults.append(f"line {number}: got {got!a} for {name!a}, {expected}")
        else:
            if len(fields) not in widths:
                got = len(fields)
                faults.append(
                    f"line {number}: got {got} value(s) for {name!a}, {expected}"
                )
        official = official_name(name) or f"{name}.jpg"
        before = lines_of.setdefault(official, number)
        if before != number:
            faults.append(
                f"line {number}: {name!a} is listed twice, first in line {before}"
            )
    return lines_of, flat, faults


def _align(table: _Table, partition: _Table) -> np.ndarray:
    """Returns the table's values in the partition file's order of names."""
    surplus = [name for name in table.lines if name not in partition.lines]
    lacking = [name for name in partition.lines if name not in table.lines]
    if surplus or lacking:
        raise UserError(
            f"{table.where} and {partition.where} disagree: {len(surplus)} name(s) "
            f"only in the former{few(surplus)}, {len(lacking)} only in the "
            f"latter{few(lacking)}; expected the same names in both"
        )
    row_of = {name: row for row, name in enumerate(table.lines)}
    return table.values[[row_of[name] for name in partition.lines]]
