"""Where data sets are made: tfds' folder, the user's cache, never among pictures."""

import itertools
import os
import shlex
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tensorflow_datasets.core import constants

from vae_jax.data.folder_files import EXTENSIONS
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path

T = TypeVar("T")
# Official files of CelebA, by how their names begin.
CELEBA = ("img_align_celeba", "list_attr_celeba.")
# Names to look at in a folder, and folders in it. What is meant for pictures shows them
# sooner, and a folder of millions must not take seconds.
_NAMES, _FOLDERS = 2_000, 50


def tfds_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns tfds' folder: `data_dir`, or for None TFDS_DATA_DIR or tfds' own default.

    Raises:
      UserError: it is no path on this machine.
    """
    root = constants.DATA_DIR if data_dir is None else data_dir
    return local_path(root, _setting(data_dir))


def _setting(data_dir: str | os.PathLike[str] | None) -> str:
    return (
        "config.dataset.data_dir"
        if data_dir is not None
        else "tfds' folder (TFDS_DATA_DIR)"
    )


def _entries(folder: Path, count: int) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, count):
                if not entry.name.startswith("."):
                    yield entry
    except OSError:
        # What cannot be listed cannot be said to hold pictures.
        return


def _is_picture(name: str) -> bool:
    return name.startswith(CELEBA) or name.lower().endswith(EXTENSIONS)


def find_picture(folder: Path) -> Path | None:
    """Returns a picture or an official CelebA file in a folder, None without any.

    The folder and those in it are looked into, but for tfds' downloads and prepared
    folders; of many thousand names the first.
    """
    folders = []
    for entry in _entries(folder, _NAMES):
        if _is_picture(entry.name):
            return Path(entry)
        if entry.name not in ("downloads", "vae_jax_folders") and os.path.isdir(entry):
            folders.append(Path(entry))
    for inner in folders[:_FOLDERS]:
        for entry in _entries(inner, _NAMES):
            if _is_picture(entry.name):
                return Path(entry)
    return None


def _is_data_set(folder: Path) -> bool:
    return any(
        os.path.exists(os.path.join(version, "dataset_info.json"))
        for version in _entries(folder, _NAMES)
    )


def check(data_dir: str | os.PathLike[str] | None) -> None:
    """Raises UserError where a data set cannot be made: among a user's own pictures.

    A folder that holds a data set of tfds is tfds', whatever else is in it.

    Args:
      data_dir: tfds' folder, which need not exist; None for tfds' own default.
    """
    root = tfds_folder(data_dir)
    found, is_source = root, True
    if os.path.isdir(root):
        found = find_picture(root)
        if found is None or any(_is_data_set(Path(e)) for e in _entries(root, _NAMES)):
            return
        what = f"which holds {str(found.relative_to(root))!a} and no data set of tfds"
    elif os.path.exists(root):
        is_source = zipfile.is_zipfile(root)
        what = f"which is {'a zip' if is_source else 'a file'}"
    else:
        return
    advice = [
        "it is to be the folder where tfds keeps its data sets, and nothing is written "
        "among pictures"
    ]
    if found.name.startswith(CELEBA):
        source = found if found.suffix == ".zip" else found.parent
        advice.append(
            "CelebA is prepared by: python -m vae_jax.data.prepare "
            f"--source={shlex.quote(str(source))}"
        )
    if data_dir is not None and is_source:
        advice.append(
            "your own pictures are trained on with --config.dataset.name=folder "
            f"--config.dataset.data_dir={shlex.quote(str(root))}"
        )
    raise UserError(
        f"{_setting(data_dir)} is {str(root)!a}, {what}; {'; '.join(advice)}"
    )


def in_first(places: Sequence[Path], work: Callable[[Path], T]) -> T:
    """Works in the first place that can be written, and says where it is no other.

    Args:
      places: the one that is meant first.
      work: raises OSError where a place is not to be written.

    Raises:
      UserError: none can be written.
    """
    refusals = []
    for place in places:
        try:
            result = work(place)
        except OSError as error:
            refusals.append(f"{place} ({error.strerror or error})")
            continue
        if refusals:
            print(f"note: kept in {place}, since {refusals[0]} cannot be written")
        return result
    raise UserError(
        f"cannot write {' nor '.join(refusals)}: make room or let one be written, or "
        "name another place: XDG_CACHE_HOME for the latter, TFDS_DATA_DIR or "
        "config.dataset.data_dir for where the data set lies"
    )
