"""tfds records -> uint8 memory maps, by one process a core where there are many.

Threads would wait for one another: of a picture's 0.35 ms Python holds its lock for
half. The processes are told what to do by arguments alone, and import nothing but this:
neither JAX nor the user's own script, which `multiprocessing` would run again.
"""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.file_adapters import FileFormat
from tensorflow_datasets.proto import tf_example_pb2

from vae_jax.data import picture_files, tfrecords
from vae_jax.data.crops import box_of
from vae_jax.errors import UserError, is_of_storage

RESAMPLERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

PREPARE = "python -m vae_jax.data.prepare --source=PATH_OF_THE_FILES"
JPEG_START = b"\xff\xd8"
_SHARE = 5_000  # pictures that are worth the start of a process
_PROGRESS = "progress.npy"


def pixels_of(encoded: bytes) -> np.ndarray:
    """Returns the pixels of a JPEG or PNG, [H,W,3] uint8."""
    if encoded.startswith(JPEG_START):
        return simplejpeg.decode_jpeg(encoded, "RGB")
    with picture_files.unwarned():
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def crop_and_resize(
    pixels: np.ndarray,
    crop: str,
    resampler: Image.Resampling,
    size: int,
    channels: int,
) -> tuple[np.ndarray, int]:
    """Returns a picture as models see it, and its crop's side in pixels.

    Args:
      pixels: [H,W,3] uint8.
      crop: a key of `crops.CROPS`.
      resampler: one of `RESAMPLERS`.
      size: side of the result, [size,size,channels] uint8.
      channels: 1 (gray, luma) or 3 (RGB).

    Raises:
      UserError: the crop does not fit.
    """
    height, width, _ = pixels.shape
    left, upper, right, lower = box_of(crop, width, height)
    picture = Image.fromarray(pixels[upper:lower, left:right])
    if channels == 1:
        picture = picture.convert("L")
    resized = picture.resize((size, size), resampler)
    return np.asarray(resized).reshape(size, size, channels), right - left


def open_prepared(prepared: Path) -> Any:
    """Returns the builder of a tfds data set.

    Raises:
      UserError: its description is damaged, or has no attributes.
    """
    try:
        builder: Any = tfds.builder_from_directory(prepared)
        builder.info.features["attributes"].keys()
    # Given bad files, tfds raises what comes.
    except Exception as error:
        raise _damaged(prepared, f"cannot be read ({_line(error)})") from error
    return builder


def attribute_names(prepared: Path) -> tuple[str, ...]:
    """Returns the names of a tfds data set's attributes, sorted.

    tfds gives them in another order in each process. Sorted is CelebA's own order.
    """
    return tuple(sorted(open_prepared(prepared).info.features["attributes"].keys()))


def _records(builder: Any, split: str) -> Any:
    """Returns a split's serialised examples, by index; raises what comes."""
    if builder.info.file_format is FileFormat.TFRECORD:
        info = builder.info.splits[split]
        return tfrecords.Records(info.filepaths, info.shard_lengths)
    return builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )


def _line(error: Exception) -> str:
    # tfds and protobuf explain themselves at length.
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _check_storage(prepared: Path, error: Exception) -> None:
    """Raises UserError for what is no damage: storage that refuses for now."""
    if isinstance(error, OSError) and is_of_storage(error):
        raise UserError(f"cannot read {prepared}: {error}") from error


def _damaged(prepared: Path, what: str) -> UserError:
    elsewhere = f", or CelebA elsewhere: {PREPARE} --data_dir=ANOTHER_FOLDER"
    return UserError(
        f"{prepared}: {what}; delete that folder and prepare it again"
        + (elsewhere if prepared.parent.name == "celeb_a" else "")
    )


def _fill(
    folder: Path,
    prepared: Path,
    recipe: dict[str, Any],
    share: int,
    shares: int,
    going_on: Callable[[], bool],
) -> None:
    """Fills one share of each split's rows, counting in the map of progress."""
    builder = open_prepared(prepared)
    keys = [f"attributes/{name}" for name in attribute_names(prepared)]
    size, resampler = recipe["size"], RESAMPLERS[recipe["resampler"]]
    progress = np.load(folder / _PROGRESS, mmap_mode="r+")[share]
    for split, count in recipe["pictures"].items():
        try:
            source = _records(builder, split)
        except Exception as error:
            _check_storage(prepared, error)
            what = f"split {split} cannot be read ({_line(error)})"
            raise _damaged(prepared, what) from error
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r+")
        attributes = np.load(folder / f"{split}_attributes.npy", mmap_mode="r+")
        for index in range(count * share // shares, count * (share + 1) // shares):
            try:
                # tfds' own parser is 40 times slower.
                record = tf_example_pb2.Example.FromString(  # pyright: ignore
                    source[index]
                ).features.feature
                images[index], side = crop_and_resize(
                    pixels_of(record["image"].bytes_list.value[0]),
                    recipe["crop"],
                    resampler,
                    size,
                    recipe["channels"],
                )
                attributes[index] = [record[key].int64_list.value[0] for key in keys]
            except UserError:
                raise
            # Given bad bytes, PIL raises what comes, and so does protobuf.
            except Exception as error:
                _check_storage(prepared, error)
                what = f"picture {index} of split {split} cannot be decoded"
                raise _damaged(prepared, f"{what} ({_line(error)})") from error
            progress += (1, side < size)
            if not going_on():
                return
        images.flush()
        attributes.flush()


def fill(
    folder: Path,
    prepared: Path,
    recipe: dict[str, Any],
    report: Callable[[int], object],
) -> int:
    """Writes each split's pictures and attributes to memory maps in a folder.

    Args:
      folder: gets SPLIT_images.npy, [N,size,size,channels] uint8, and
        SPLIT_attributes.npy, [N,A] bool, in the order of `attribute_names`.
      prepared: the tfds data set.
      recipe: the recipe as in `cache.Dataset`.
      report: is told, every now and then, how many pictures are done in all.

    Returns:
      How many crops were smaller than what they were resized to.

    Raises:
      UserError: a picture cannot be decoded, or the crop does not fit it.
      OSError: `folder` cannot be written.
    """
    _check_counts(prepared, recipe["pictures"])
    _create(folder, recipe, len(attribute_names(prepared)))
    shares = min(
        os.cpu_count() or 1, max(1, sum(recipe["pictures"].values()) // _SHARE)
    )
    path = folder / _PROGRESS
    progress = np.lib.format.open_memmap(path, "w+", np.int64, (shares, 2))

    def tell() -> bool:
        report(int(progress[:, 0].sum()))
        return True

    if shares == 1:
        _fill(folder, prepared, recipe, 0, 1, tell)
    else:
        _fill_in_processes(folder, prepared, recipe, shares, tell)
    path.unlink()
    return int(progress[:, 1].sum())


def _check_counts(prepared: Path, pictures: dict[str, int]) -> None:
    """Raises UserError where files are missing, or too small for their records.

    The maps are as large as the description says, whatever it says.
    """
    splits = open_prepared(prepared).info.splits
    for split, count in pictures.items():
        try:
            size = sum(os.path.getsize(path) for path in splits[split].filepaths)
        except OSError as error:
            raise _damaged(prepared, f"cannot be read ({error})") from error
        if not 0 < count <= size:
            what = f"split {split} should have {count} pictures in {size} bytes"
            raise _damaged(prepared, what)


def _create(folder: Path, recipe: dict[str, Any], num_names: int) -> None:
    size = recipe["size"]
    for split, count in recipe["pictures"].items():
        for kind, dtype, shape in (
            ("images", np.uint8, (size, size, recipe["channels"])),
            ("attributes", bool, (num_names,)),
        ):
            path = folder / f"{split}_{kind}.npy"
            np.lib.format.open_memmap(path, "w+", dtype, (count, *shape))
            # A map that meets a full disk kills its process. macOS has it not.
            if hasattr(os, "posix_fallocate"):
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _fill_in_processes(
    folder: Path,
    prepared: Path,
    recipe: dict[str, Any],
    shares: int,
    tell: Callable[[], object],
) -> None:
    order = [sys.executable, "-m", "vae_jax.data.decoding"]
    order += [str(folder), str(prepared), json.dumps(recipe)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with contextlib.ExitStack() as stack:
        processes = []
        for share in range(shares):
            process = subprocess.Popen(
                [*order, str(share), str(shares), str(os.getpid())],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            # Before the former, which waits for it.
            stack.callback(process.kill)
            processes.append(process)
        running = processes
        while running:
            time.sleep(0.05)
            tell()
            for process in running:
                if process.poll():
                    said = process.communicate()[1].strip()
                    if process.returncode == 2:
                        raise UserError(said)
                    if process.returncode == os.EX_IOERR:
                        raise OSError(int(said), os.strerror(int(said)), str(folder))
                    if process.returncode == -signal.SIGBUS:
                        # So it ends that meets a full or failing disk in a map.
                        number = errno.EIO
                        raise OSError(number, os.strerror(number), str(folder))
                    raise RuntimeError(
                        f"a process that decodes pictures ended with "
                        f"{process.returncode}: {said}"
                    )
            running = [process for process in running if process.returncode is None]
        tell()


def _main(arguments: list[str]) -> int:
    folder, prepared, recipe, share, shares, parent = arguments
    try:
        _fill(
            Path(folder),
            Path(prepared),
            json.loads(recipe),
            int(share),
            int(shares),
            # One that was killed can end nobody.
            lambda: os.getppid() == int(parent),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        if not is_of_storage(error):
            raise
        print(error.errno, file=sys.stderr)
        return os.EX_IOERR
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
