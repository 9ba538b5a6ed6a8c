"""CelebA as its authors publish it: label files and pictures, read and checked.

Nothing here writes, and nothing is unpacked: names found in a file or a zip are
only ever looked up, never made into a path.
"""

import array
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import simplejpeg
from jaxtyping import Bool, Int

from vae_jax.data import zips
from vae_jax.errors import UserError

HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
HEIGHT, WIDTH = 218, 178
SPLITS = ("train", "validation", "test")  # partition 0, 1, 2

ATTRIBUTES: tuple[str, ...] = tuple(
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips "
    "Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby "
    "Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin "
    "Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young".split()
)
LANDMARKS: tuple[str, ...] = tuple(
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y "
    "leftmouth_x leftmouth_y rightmouth_x rightmouth_y".split()
)

PICTURES = "img_align_celeba"
ZIP = f"{PICTURES}.zip"
PARTITION_FILE = "list_eval_partition.txt"
ATTRIBUTE_FILE = "list_attr_celeba.txt"
LANDMARK_FILE = "list_landmarks_align_celeba.txt"
IDENTITY_FILE = "identity_CelebA.txt"

# As in torchvision.datasets.CelebA.
OFFICIAL_MD5 = {
    ZIP: "00d2c5bc6d35e252742224ab0c1e8fcb",
    PARTITION_FILE: "d32c9cbf5e040fd4025c592c306e6668",
    ATTRIBUTE_FILE: "75e246fa4810816ffd6ee81facbd244c",
    LANDMARK_FILE: "cc24ecafdb5b50baae59b03474781f8c",
    IDENTITY_FILE: "32bd1bd63d3c78cd57e08160ec5ed1e2",
}


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the label files say of their N pictures, in the partition file's order."""

    names: list[str]
    partition: Int[np.ndarray, " N"]  # an index into SPLITS
    attributes: Bool[np.ndarray, "N 40"]  # columns as in ATTRIBUTES
    landmarks: Int[np.ndarray, "N 10"] | None  # pixels, columns as in LANDMARKS
    identity: Int[np.ndarray, " N"] | None
    files: list[pathlib.Path]  # that these were read from


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The JPEGs of a folder or a zip: their sizes in bytes, and how to read one.

    `read(name)` raises what the file system or `zipfile` raises.
    """

    path: pathlib.Path
    sizes: dict[str, int]
    read: Callable[[str], bytes]


def locate(source: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """Finds the official files.

    Args:
      source: a folder with `img_align_celeba.zip` or, unpacked, `img_align_celeba/`
        (the zip is preferred) beside the label files; or the path of the zip.

    Returns:
      The pictures' zip or folder, and the folder of the label files.

    Raises:
      UserError: if the source or a required file is missing.
    """
    source = pathlib.Path(source).expanduser()
    origin = f"CelebA's official files come from {HOMEPAGE}"
    if not source.exists():
        raise UserError(f"source {source} does not exist; {origin}")
    folder, pictures = source, source / ZIP
    if source.is_file():
        folder, pictures = source.parent, source
    elif not pictures.is_file():
        pictures = source / PICTURES
    missing = [
        name
        for name in (PARTITION_FILE, ATTRIBUTE_FILE)
        if not (folder / name).is_file()
    ]
    if not pictures.exists():
        missing.append(f"{ZIP} (or, unpacked, {PICTURES}/)")
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; {origin}")
    return pictures, folder


def read_labels(folder: pathlib.Path) -> Labels:
    """Reads the label files of a folder; landmarks and identities are optional.

    Raises:
      UserError: naming file and line of a header, count, row or value that is not
        as published, or the names on which two files disagree.
    """
    partition = _read_table(folder / PARTITION_FILE, 1, {"0": 0, "1": 1, "2": 2})
    files = [partition.path]

    def aligned(
        file: str,
        columns: int,
        values: dict[str, int] | None,
        header: tuple[str, ...] | None = None,
    ) -> np.ndarray | None:
        path = folder / file
        if not path.exists():
            return None
        files.append(path)
        return _align(_read_table(path, columns, values, header), partition)

    attributes = aligned(ATTRIBUTE_FILE, 40, {"-1": 0, "1": 1}, ATTRIBUTES)
    assert attributes is not None, "locate() demands this file"
    identity = aligned(IDENTITY_FILE, 1, None)
    return Labels(
        names=list(partition.rows),
        partition=partition.values[:, 0],
        attributes=attributes.astype(bool),
        landmarks=aligned(LANDMARK_FILE, 10, None, LANDMARKS),
        identity=None if identity is None else identity[:, 0],
        files=files,
    )


@dataclasses.dataclass(frozen=True)
class _Table:
    path: pathlib.Path
    rows: dict[str, int]  # name to row
    values: Int[np.ndarray, "N columns"]


def _read_table(
    path: pathlib.Path,
    columns: int,
    values: dict[str, int] | None,
    header: tuple[str, ...] | None = None,
) -> _Table:
    """Reads rows of a name and `columns` integers; `values` says which, None any."""
    # A byte that is no text makes a wrong value or an unknown name, reported below.
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if header:
        _check_header(path, lines, header)
        lines = lines[2:]
    first = 3 if header else 1
    convert = int if values is None else values.__getitem__
    allowed = "integers" if values is None else f"of {', '.join(values)}"
    rows: dict[str, int] = {}
    flat = array.array("q")
    for row, line in enumerate(lines):
        name, *fields = line.split() or [""]
        try:
            flat.extend(map(convert, fields))
        except (KeyError, ValueError, OverflowError):
            raise UserError(
                f"{path}:{first + row}: got {' '.join(fields)[:80]!r} for {name}, "
                f"expected {columns} value(s) {allowed}"
            ) from None
        if len(fields) != columns:
            raise UserError(
                f"{path}:{first + row}: got {len(fields)} value(s) for {name!r}, "
                f"expected {columns} value(s) {allowed}"
            )
        if rows.setdefault(name, row) != row:
            raise UserError(
                f"{path}:{first + row}: {name} is listed twice, first in line "
                f"{first + rows[name]}"
            )
    if not rows:
        raise UserError(f"{path} lists no picture; get it again from {HOMEPAGE}")
    return _Table(path, rows, np.array(flat, np.int64).reshape(-1, columns))


def _check_header(path: pathlib.Path, lines: list[str], names: tuple[str, ...]) -> None:
    count = lines[0].strip() if lines else ""
    rows = max(len(lines) - 2, 0)
    if count != str(rows):
        raise UserError(
            f"{path}:1: the first line is {count[:40]!r}, expected the number of "
            f"rows, and {rows} follow the header: the file was cut or edited"
        )
    header = lines[1].split()
    if header != list(names):
        pairs = zip((*header, "nothing"), (*names, "nothing"), strict=False)
        got, want = next(pair for pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"{path}:2: expected the {len(names)} official column names, got "
            f"{len(header)}; the first to differ is {got!r}, expected {want!r}"
        )


def _align(table: _Table, partition: _Table) -> np.ndarray:
    """Returns the table's values in the partition file's order of names."""
    surplus = [name for name in table.rows if name not in partition.rows]
    lacking = [name for name in partition.rows if name not in table.rows]
    if surplus or lacking:
        raise UserError(
            f"{table.path} and {partition.path} disagree: {len(surplus)} name(s) "
            f"only in the former{_few(surplus)}, {len(lacking)} only in the "
            f"latter{_few(lacking)}; expected the same names in both"
        )
    return table.values[[table.rows[name] for name in partition.rows]]


@contextlib.contextmanager
def open_pictures(path: pathlib.Path) -> Iterator[Pictures]:
    """Lists the pictures of a folder or a zip, and keeps it open for reading.

    Files that are no `.jpg`, or hidden, are passed over.

    Raises:
      UserError: for a damaged zip, an entry of it that is encrypted, too large or
        points outside, and for a name that occurs twice.
    """
    if path.is_dir():
        with os.scandir(path) as entries:
            sizes = {
                entry.name: entry.stat().st_size
                for entry in entries
                if _is_picture(entry.name) and entry.is_file()
            }
        yield Pictures(path, sizes, lambda name: (path / name).read_bytes())
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
        yield Pictures(path, sizes, lambda name: zips.read(archive, entries[name]))


def _zip_entries(
    path: pathlib.Path, archive: zipfile.ZipFile
) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        parts = entry.filename.replace("\\", "/").split("/")
        if not parts[0] or ".." in parts or ":" in parts[0]:
            raise UserError(
                f"{path}: entry {entry.filename!r} points outside the zip; the "
                f"official one from {HOMEPAGE} holds {PICTURES}/000001.jpg, ..."
            )
        zips.check(path, entry)
        if _is_picture(parts[-1]) and entries.setdefault(parts[-1], entry) != entry:
            raise UserError(
                f"{path}: {parts[-1]} occurs twice, as {entry.filename!r} and as "
                f"{entries[parts[-1]].filename!r}"
            )
    return entries


def _is_picture(name: str) -> bool:
    return name.endswith(".jpg") and not name.startswith(".")


def check_names(labels: Labels, pictures: Pictures, *, allow_missing: bool) -> None:
    """Compares the pictures that are there with those that the labels list.

    Raises:
      UserError: if there are unlisted pictures, or none at all, or if listed ones
        are missing and `allow_missing` is False.
    """
    listed, there = f"{len(labels.names)} pictures listed", len(pictures.sizes)
    known = set(labels.names)
    extra = sorted(name for name in pictures.sizes if name not in known)
    if extra:
        raise UserError(
            f"{pictures.path} holds {len(extra)} picture(s){_few(extra)} not among the "
            f"{listed} in {labels.files[0]}; remove them, or complete the label files"
        )
    missing = [name for name in labels.names if name not in pictures.sizes]
    if missing and not (allow_missing and there):
        raise UserError(
            f"{len(missing)} of the {listed} in {labels.files[0]} are missing from "
            f"{pictures.path}{_few(missing)}; complete it from {HOMEPAGE}"
            + (f", or pass --allow_missing to prepare the {there}" if there else "")
        )


def damage(jpeg: bytes) -> str | None:
    """Decodes a picture completely and says what is wrong with it, None if nothing.

    It has to be a whole JPEG in colour, 178 pixels wide and 218 high. Decoding is
    strict, for without that a decoder fills in what is cut off and only warns. All
    that can be wrong shows while the bits are decoded; so the pixels, which take
    longer, are those of an eighth of the size, in gray.
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(jpeg)
        if (height, width) != (HEIGHT, WIDTH):
            return f"{width}x{height} pixels, expected {WIDTH}x{HEIGHT}"
        if colour not in ("YCbCr", "RGB"):
            return f"{colour}, expected colour"
        simplejpeg.decode_jpeg(
            jpeg, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True
        )
    except ValueError as error:
        return f"no whole JPEG: {error}"
    return None


def md5(path: pathlib.Path) -> str:
    """Returns a file's MD5 in hexadecimal, to compare with `OFFICIAL_MD5`."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()


def _few(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
