"""The data path's rivals make the same pictures, and the lines can be tabulated."""

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from benchmarks import data_path

COUNT = 30


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zip")
    data_path.official_files(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def data_dir(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data_path.prepare(source, folder)
    return folder


def test_pictures_are_as_large_as_celeba_s(source):
    size = (source / "img_align_celeba.zip").stat().st_size / COUNT
    assert 5_000 < size < 12_000


@pytest.mark.slow
def test_both_writers_write_the_same_examples(source, data_dir, tmp_path):
    data_path.prepare_by_tfds(source, tmp_path / "tfds")
    for split in ("train", "validation", "test"):
        ours, theirs = (
            list(tfds.data_source("celeb_a", split=split, data_dir=folder))
            for folder in (data_dir, tmp_path / "tfds")
        )
        assert len(ours) == len(theirs) == COUNT * (8 if split == "train" else 1) // 10
        for one, other in zip(ours, theirs, strict=True):
            assert one.pop("image").tolist() == other.pop("image").tolist()
            assert one == other


@pytest.mark.parametrize("rival", ["pil", "torch", "tfds"])
def test_all_decode_to_the_same_pictures(data_dir, rival):
    prepared = data_dir / "celeb_a" / "2.1.0"
    ours = data_path.decode(data_dir)
    if rival == "torch":
        pytest.importorskip("torch")
        theirs = data_path.torch_decoder(prepared)()
    else:
        theirs = getattr(data_path, f"decode_by_{rival}")(prepared)
    assert ours.keys() == theirs.keys()
    for split, images in ours.items():
        assert images.shape == theirs[split].shape
        assert images.std() > 10
        # Two JPEG decoders may round differently.
        assert np.abs(images.astype(int) - theirs[split]).mean() < 0.02


def test_both_feeds_bring_the_same_batches(data_dir):
    split = data_path.cache.load("celeb_a", data_dir, size=8).splits["train"]
    device, stream = (data_path.feeder(split, kind)(3) for kind in ("device", "stream"))
    assert isinstance(device, jax.Array) and device.shape == (64, 8, 8, 1)
    np.testing.assert_array_equal(device, stream)


def test_lines_are_of_the_form_of_the_other_benchmarks():
    lines = data_path.measure(repeats=1, num_images=20)
    assert [line["name"] for line in lines] == [
        "prepare: zip to tfds",
        "decode, crop, resize to cache",
        "batches of 64 to the device",
    ]
    for line in lines:
        assert line["unit"] == "images/s"
        assert next(iter(line["rivals"])) == "vae_jax"
        for figures in line["rivals"].values():
            assert figures.keys() >= {"median", "lowest", "highest", "ratio"}
            assert figures["median"] > 0
