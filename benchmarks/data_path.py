"""The way of a picture: files to tfds, tfds to uint8 maps, maps to the device."""

import contextlib
import functools
import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered
from tensorflow_datasets.proto import tf_example_pb2

from benchmarks.timing import in_turn, rates
from vae_jax.data import (
    batches,
    cache,
    celeba,
    celeba_files,
    celeba_labels,
    celeba_layouts,
    synthetic_faces,
    writing,
)
from vae_jax.data.crops import CROPS

SIZE = 64
BATCH_SIZE = 64
_DRAWN = 200  # faces; with the noise on them no two pictures are the same
_BOX = CROPS["notebook"]
RAW = tfds.decode.DeserializeMethod.RAW_BYTES


def official_files(folder: Path, count: int) -> None:
    """Writes a zip of drawn faces of some 8 kB and label files, as CelebA's are."""
    rng = np.random.default_rng(0)
    faces = [
        synthetic_faces.draw(synthetic_faces.sample_factors(rng))
        for _ in range(min(count, _DRAWN))
    ]
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    with zipfile.ZipFile(folder / celeba_files.ZIP, "w") as archive:
        for index, name in enumerate(names):
            noise = rng.integers(-6, 7, (218, 178, 1), np.int16)
            pixels = np.clip(faces[index % len(faces)] + noise, 0, 255)
            archive.writestr(
                f"{celeba_files.PICTURES}/{name}",
                simplejpeg.encode_jpeg(
                    pixels.astype(np.uint8), quality=80, colorsubsampling="420"
                ),
            )
    bits = rng.choice(["1", "-1"], (count, len(celeba_files.ATTRIBUTES)))
    rows = [f"{name} {' '.join(row)}" for name, row in zip(names, bits, strict=True)]
    header = [str(count), " ".join(celeba_files.ATTRIBUTES)]
    (folder / celeba_files.ATTRIBUTE_FILE).write_text("\n".join(header + rows))
    # The splits get 8, 1 and 1 of 10 pictures.
    rows = [f"{name} {max(0, i % 10 - 7)}" for i, name in enumerate(names)]
    (folder / celeba_files.PARTITION_FILE).write_text("\n".join(rows))


def prepare(source: Path, data_dir: Path) -> Path:
    """Makes the tfds data set anew, by vae_jax."""
    shutil.rmtree(data_dir, ignore_errors=True)
    # It says that these are not the official files.
    with contextlib.redirect_stderr(io.StringIO()):
        return celeba.prepare(source, data_dir)


with registered.skip_registration():

    class TfdsCelebA(tfds.core.GeneratorBasedBuilder):
        """The same data set as tfds' guide has one write it; no picture is checked."""

        name = "celeb_a"
        VERSION = tfds.core.Version(celeba.VERSION)

        def __init__(self, source: Path, data_dir: Path):
            self._source = source
            super().__init__(data_dir=data_dir, file_format="array_record")

        def _info(self) -> tfds.core.DatasetInfo:
            return writing.Info(
                builder=self,
                description="CelebA",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(
                            shape=(218, 178, 3), encoding_format="jpeg"
                        ),
                        "file_name": tfds.features.Text(),
                        "attributes": dict.fromkeys(celeba_files.ATTRIBUTES, np.bool_),
                    }
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            with celeba_layouts.open_files(self._source) as (files, _):
                labels = celeba_labels.read_labels(files)
            return {
                split: self._generate_examples(labels, index)
                for index, split in enumerate(celeba_files.SPLITS)
            }

        def _generate_examples(
            self, labels: celeba_labels.Labels, split: int
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            with zipfile.ZipFile(self._source / celeba_files.ZIP) as archive:
                for row in np.flatnonzero(labels.partition == split):
                    name = labels.names[row]
                    bits = labels.attributes[row]
                    jpeg = archive.read(f"{celeba_files.PICTURES}/{name}")
                    yield (
                        int(row),
                        {
                            "image": io.BytesIO(jpeg),
                            "file_name": name,
                            "attributes": dict(
                                zip(celeba_files.ATTRIBUTES, bits, strict=True)
                            ),
                        },
                    )


def prepare_by_tfds(source: Path, data_dir: Path) -> Path:
    """Makes the tfds data set anew, by tfds' own writer."""
    shutil.rmtree(data_dir, ignore_errors=True)
    builder = TfdsCelebA(source, data_dir)
    # Bars and announcements.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        builder.download_and_prepare(download_dir=data_dir / "downloads")
    return Path(builder.data_dir)


def decode(data_dir: Path) -> dict[str, np.ndarray]:
    """Returns the pictures by split, [N,SIZE,SIZE,1] uint8, decoded by vae_jax."""
    shutil.rmtree(data_dir / "vae_jax_cache", ignore_errors=True)
    dataset = cache.load("celeb_a", data_dir, size=SIZE)
    return {name: split.images for name, split in dataset.splits.items()}


def gray(picture: Image.Image) -> np.ndarray:
    """Returns a picture as [SIZE,SIZE,1] uint8, as torchvision's transforms have it."""
    small = (
        picture.crop(_BOX).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    )
    return np.asarray(small)[..., None]


class Pictures:
    """A data set's pictures of a split, decoded by PIL one at a time."""

    def __init__(self, prepared: Path, split: str):
        self._origin = (prepared, split)
        builder: Any = tfds.builder_from_directory(prepared)
        self._source = builder.as_data_source(split, deserialize_method=RAW)

    def __reduce__(self) -> tuple[Any, ...]:
        # To another process, which opens the files itself.
        return Pictures, self._origin

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        message: Any = tf_example_pb2.Example  # pyright: ignore
        record = message.FromString(self._source[index]).features.feature
        return gray(Image.open(io.BytesIO(record["image"].bytes_list.value[0])))


def decode_by_pil(prepared: Path) -> dict[str, np.ndarray]:
    """Returns what `decode` does, by PIL in this process."""
    found = {}
    for split in celeba_files.SPLITS:
        pictures = Pictures(prepared, split)
        found[split] = np.stack([pictures[i] for i in range(len(pictures))])
    return found


def torch_decoder(prepared: Path) -> Callable[[], dict[str, np.ndarray]]:
    """Returns what does as `decode`, by PIL in two workers of PyTorch's DataLoader.

    They are started once, and stay.
    """
    from torch.utils.data import (  # pyright: ignore[reportMissingImports]
        ConcatDataset,
        DataLoader,
    )

    splits = [Pictures(prepared, split) for split in celeba_files.SPLITS]
    ends = np.cumsum([len(split) for split in splits])[:-1]
    loader = DataLoader(
        ConcatDataset(splits),  # pyright: ignore
        BATCH_SIZE,
        num_workers=2,
        persistent_workers=True,
        # JAX has threads, with which a fork may hang.
        multiprocessing_context="forkserver",
    )

    def run() -> dict[str, np.ndarray]:
        images = np.concatenate([batch.numpy() for batch in loader])
        return dict(zip(celeba_files.SPLITS, np.split(images, ends), strict=True))

    return run


def decode_by_tfds(prepared: Path) -> dict[str, np.ndarray]:
    """Returns what `decode` does, by tfds' own parser and decoder, then PIL."""
    builder: Any = tfds.builder_from_directory(prepared)
    return {
        split: np.stack(
            [
                gray(Image.fromarray(example["image"]))
                for example in builder.as_data_source(split)
            ]
        )
        for split in celeba_files.SPLITS
    }


def feeder(split: cache.Split, kind: str) -> Callable[[int], jax.Array]:
    """Returns feed(num_batches) -> the last batch; all have been on the device."""
    feed = batches.build_feed(kind, split, seed=0, batch_size=BATCH_SIZE)
    data = jax.device_put(feed.data)
    gather = jax.jit(feed.gather)

    def run(num_batches: int) -> jax.Array:
        image = None
        for xs in feed.stream([(k, 1) for k in range(num_batches)]):
            image = gather(data, jax.device_put(xs))["image"]
            # As a step would, which needs its batch.
            image.block_until_ready()
        assert image is not None
        return image[0]

    return run


def feed_by_torch(images: np.ndarray) -> Callable[[int], Any]:
    """Returns the same by PyTorch's DataLoader over a tensor."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.data import (  # pyright: ignore[reportMissingImports]
        DataLoader,
        TensorDataset,
    )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = TensorDataset(torch.from_numpy(np.array(images)))

    def forever() -> Iterator[Any]:
        while True:
            for (batch,) in DataLoader(
                dataset, BATCH_SIZE, shuffle=True, drop_last=len(dataset) >= BATCH_SIZE
            ):
                yield batch.to(device)
                if device == "cuda":
                    torch.cuda.synchronize()

    loader = forever()

    def run(num_batches: int) -> Any:
        batch = None
        for _ in range(num_batches):
            batch = next(loader)
        return batch

    return run


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return True


def _line(name: str, turns: dict[str, Callable[[], Any]], repeats: int, count: int):
    found = rates(in_turn(turns, repeats=repeats), count)
    return {"name": name, "unit": "images/s", "rivals": found}


def measure(repeats: int, num_images: int) -> list[dict[str, Any]]:
    """Returns the rates of the data path's three parts, beside their rivals'.

    Args:
      repeats: turns of each rival.
      num_images: pictures prepared and decoded in a turn, and fed, about.
    """
    partial = functools.partial
    with tempfile.TemporaryDirectory() as temporary:
        source, ours, theirs = (Path(temporary) / name for name in ("zip", "a", "b"))
        source.mkdir()
        official_files(source, num_images)
        lines = [
            _line(
                "prepare: zip to tfds",
                {
                    "vae_jax": partial(prepare, source, ours),
                    "tfds writer": partial(prepare_by_tfds, source, theirs),
                },
                repeats,
                num_images,
            )
        ]
        prepared = ours / "celeb_a" / celeba.VERSION
        turns: dict[str, Callable[[], Any]] = {
            "vae_jax": partial(decode, ours),
            "PIL in one process": partial(decode_by_pil, prepared),
        }
        if _has_torch():
            turns["PIL, DataLoader of 2 workers"] = torch_decoder(prepared)
        turns["tfds default decoding"] = partial(decode_by_tfds, prepared)
        name = "decode, crop, resize to cache"
        lines.append(_line(name, turns, repeats, num_images))
        split = cache.load("celeb_a", ours, size=SIZE).splits["train"]
        feeds: dict[str, Callable[[int], Any]] = {
            "vae_jax": feeder(split, "device"),
            "vae_jax, stream feed": feeder(split, "stream"),
        }
        if _has_torch():
            feeds["PyTorch, DataLoader"] = feed_by_torch(split.images)
        num_batches = max(1, num_images // BATCH_SIZE)
        turns = {rival: partial(run, num_batches) for rival, run in feeds.items()}
        name = f"batches of {BATCH_SIZE} to the device"
        lines.append(_line(name, turns, repeats, num_batches * BATCH_SIZE))
    return lines
