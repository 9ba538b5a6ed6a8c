"""CelebA's files as they are passed around: found, wherever they lie in a source.

The official zip and text files side by side, Google Drive's `CelebA/Img`, `Anno` and
`Eval`, and Kaggle's `img_align_celeba/img_align_celeba` and CSV files, unpacked or not.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import shlex
from collections.abc import Iterator, Sequence

from vae_jax.data import celeba_labels, folder_files
from vae_jax.data.celeba_files import HOMEPAGE, PICTURES, ZIP, official_name
from vae_jax.data.celeba_labels import REQUIRED, LabelFile
from vae_jax.data.celeba_pictures import (
    Pictures,
    how_to_train,
    is_hidden,
    open_pictures,
)
from vae_jax.errors import UserError

# Where pictures are, the best first; the last two are Kaggle's downloads.
PLACES = (
    ZIP,
    PICTURES,
    f"{PICTURES}_png.zip",
    f"{PICTURES}_png",
    "archive.zip",
    "celeba-dataset.zip",
)
# How others are unpacked beside themselves, by the end of their names.
_UNPACK = {
    ".zip": "python -m zipfile -e {file} {folder}",
    ".tar": "tar -xf {file} -C {folder}",
    ".tar.gz": "tar -xf {file} -C {folder}",
    ".tgz": "tar -xf {file} -C {folder}",
    ".7z": "7z x {file} -o{folder}",
    ".7z.001": "7z x {file} -o{folder}",
}
_ORIGIN = f"CelebA's files come from {HOMEPAGE}"


@contextlib.contextmanager
def open_files(
    source: pathlib.Path,
) -> Iterator[tuple[dict[str, LabelFile], Pictures]]:
    """Finds CelebA's files, and keeps what holds the pictures open for reading.

    Yields the label files by official name, the required ones among them, and the
    pictures, one at least.

    Args:
      source: a folder that holds pictures and label files, in it or in folders not more
        than two deeper; or the pictures' folder or zip, with label files in it, beside
        it or in the two folders above.

    Raises:
      UserError: if a file is missing or is there twice, or the zip is not to be read.
    """
    if not source.exists():
        raise UserError(f"--source is {str(source)!r}, which does not exist; {_ORIGIN}")
    levels, places = [], [source]
    if source.is_dir():
        levels = _levels(source)
        places = _find(levels, PLACES)
    # What is no file, such as a pipe, would never come to its end.
    elif not (source.is_file() and source.name.lower().endswith(".zip")):
        raise UserError(
            f"--source is {str(source)!r}; allowed is a folder with CelebA's files, or "
            f"the zip of its pictures{_how_to_unpack([source], source)}"
        )
    labels = _labels_in(levels)
    with contextlib.ExitStack() as stack:
        pictures = None
        if places and not places[0].is_dir():
            pictures = stack.enter_context(open_pictures(places[0], places[1:]))
            labels = _labels_within(pictures) | labels
        for above in source.absolute().parents[:2]:
            if not labels.keys() >= set(REQUIRED):
                labels = (
                    _labels_in([[above], [above / "Anno", above / "Eval"]]) | labels
                )
        lacking = [f"{name} (or .csv)" for name in REQUIRED if name not in labels]
        if pictures is None and (places or not lacking):
            place, *others = places or [source]
            elsewhere = [other for other in others if not other.is_relative_to(place)]
            pictures = stack.enter_context(open_pictures(place, elsewhere))
        if lacking or pictures is None or not pictures.files:
            raise UserError(_lacks(source, lacking, levels, pictures))
        yield labels, pictures


def _levels(folder: pathlib.Path) -> list[list[pathlib.Path]]:
    """Returns the folder, the folders in it, and the folders in those.

    A folder of pictures, which is large, is not looked into.
    """
    levels = [[folder]]
    for _ in range(2):
        levels.append(
            [
                pathlib.Path(entry.path)
                for parent in levels[-1]
                if parent.name not in PLACES
                for entry in _entries(parent)
                if os.path.isdir(entry.path) and not is_hidden(entry.name)
            ]
        )
    return levels


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        # Beside what is looked for there may be anything, closed folders too.
        return []


def _find(
    levels: Sequence[Sequence[pathlib.Path]], names: Sequence[str]
) -> list[pathlib.Path]:
    """Returns files and folders of some names, the least deep first.

    Raises:
      UserError: if several folders have one, and none less deep does.
    """
    found: list[pathlib.Path] = []
    for level in levels:
        here = []
        for folder in level:
            paths = [folder / name for name in names]
            there = [p for p in paths if os.path.isfile(p) or _is_folder(p)]
            if there:
                here.append(there)
        distinct = {os.path.realpath(there[0].parent) for there in here}
        if not found and len(distinct) > 1:
            raise UserError(
                f"--source is {str(levels[0][0])!r}, which holds {here[0][0]} as well "
                f"as {here[1][0]}; give the folder of one of them"
            )
        found += itertools.chain.from_iterable(here)
    return found


def _is_folder(path: pathlib.Path) -> bool:
    return not path.suffix and os.path.isdir(path)


def _labels_in(levels: Sequence[Sequence[pathlib.Path]]) -> dict[str, LabelFile]:
    labels = {}
    for official, names in celeba_labels.FILES.items():
        for path in _find(levels, names)[:1]:
            labels[official] = LabelFile(str(path), path.name, path.read_bytes)
    return labels


def _labels_within(pictures: Pictures) -> dict[str, LabelFile]:
    labels = {}
    for official, names in celeba_labels.FILES.items():
        for name in names:
            files = [f for f in pictures.others if f.rpartition("/")[2] == name]
            if len(files) > 1:
                raise UserError(
                    f"{pictures.path} holds {files[0]!a} as well as {files[1]!a}; "
                    "remove one"
                )
            for file in files:
                read = functools.partial(pictures.read, file)
                label = LabelFile(f"{pictures.path}/{file}", name, read)
                labels.setdefault(official, label)
    return labels


def _lacks(
    source: pathlib.Path,
    lacking: list[str],
    levels: Sequence[Sequence[pathlib.Path]],
    pictures: Pictures | None,
) -> str:
    """Says what a source lacks, and what is to be done with what it has."""
    root, files, over = source, [], ""
    where = " beside it" if source.is_file() else " in it and two folders deep"
    if pictures is not None:
        root, over = pictures.path, pictures.passed_over()
        files = [root / name for name in (*pictures.files.values(), *pictures.others)]
    else:
        for folder in itertools.chain.from_iterable(levels):
            files += [
                folder / e.name for e in _entries(folder) if os.path.isfile(e.path)
            ]
    if not any(official_name(file.name) for file in files):
        lacking = [*lacking, f"{ZIP} (or, unpacked, {PICTURES}/)"]
    if not files:
        return f"{root} holds no files{where}; {_ORIGIN}"
    own = [
        file.relative_to(root).as_posix()
        for file in files
        if file.suffix.lower() in folder_files.EXTENSIONS
    ]
    # A folder of downloads holds archives of everything.
    packed = [file for file in files if "celeb" in file.name.lower()]
    unpacking, training = _how_to_unpack(packed, source), how_to_train(root, own)
    return (
        f"{source} lacks {', '.join(lacking)}{where}{over}; {_ORIGIN}{unpacking}"
        f"{training}"
    )


def _how_to_unpack(files: Sequence[pathlib.Path], source: pathlib.Path) -> str:
    """Returns how to unpack the first file that may hold others, nothing where none."""
    for file in files:
        for end, command in _UNPACK.items():
            if not file.name.lower().endswith(end):
                continue
            # One within a zip comes out with that.
            outer = next((path for path in file.parents if path.is_file()), file)
            command = (command if outer == file else _UNPACK[".zip"]).format(
                file=shlex.quote(str(outer)), folder=shlex.quote(str(outer.parent))
            )
            again = source if source.is_dir() else source.parent
            return (
                f"; unpack {file.name}: {command} and then give "
                f"--source={shlex.quote(str(again))}"
            )
    return ""
