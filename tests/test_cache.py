import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from vae_jax.data import cache, decoding, synthetic_faces, writing
from vae_jax.errors import UserError

JPEG = simplejpeg.encode_jpeg(np.full((218, 178, 3), 90, np.uint8))


def originals(data_dir, split="train"):
    return tfds.data_source("synthetic_faces", split=split, data_dir=data_dir)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("crop", "box"),
    [
        ("notebook", (15, 40, 163, 188)),
        ("cc140", (19, 39, 159, 179)),
        ("cc148", (15, 35, 163, 183)),
    ],
)
def test_pictures_are_cropped_then_grayed_then_resized(data_dir, crop, box, channels):
    dataset = cache.load(
        "synthetic_faces", data_dir, crop=crop, size=32, channels=channels
    )
    assert dataset.splits["train"].images.shape[1:] == (32, 32, channels)
    for index in (0, 17, 39):
        picture = Image.fromarray(originals(data_dir)[index]["image"]).crop(box)
        if channels == 1:
            picture = picture.convert("L")
        expected = picture.resize((32, 32), Image.Resampling.BILINEAR)
        actual = dataset.splits["train"].images[index].squeeze().astype(int)
        # Two JPEG decoders may round differently.
        assert np.abs(actual - np.asarray(expected, int)).mean() < 0.1


def test_resamplers_differ(data_dir):
    soft, sharp = (
        cache.load("synthetic_faces", data_dir, size=16, resampler=r)
        .splits["test"]
        .images
        for r in ("bilinear", "lanczos")
    )
    assert 0 < np.abs(soft.astype(int) - sharp).mean() < 10


def test_attributes_keep_their_names_and_order(data_dir, faces):
    for split, count in (("train", 40), ("validation", 10), ("test", 6)):
        assert faces.splits[split].attributes.shape == (
            count,
            len(faces.attribute_names),
        )
        for index, example in enumerate(originals(data_dir, split)):
            row = dict(
                zip(
                    faces.attribute_names,
                    faces.splits[split].attributes[index],
                    strict=True,
                )
            )
            assert row == {k: bool(v) for k, v in example["attributes"].items()}
    # tfds gives them in another order in each process.
    assert "Smiling" in faces.attribute_names
    assert list(faces.attribute_names) == sorted(faces.attribute_names)


def test_the_recipe_names_all_that_decides_the_pictures(faces):
    recipe = dict(faces.recipe)
    assert len(recipe.pop("fingerprint")) == 8
    assert recipe == {
        "name": "synthetic_faces",
        "version": "1.0.0",
        "crop": "notebook",
        "resampler": "bilinear",
        "size": 16,
        "channels": 1,
        "pictures": {"train": 40, "validation": 10, "test": 6},
    }


def test_a_second_load_decodes_nothing(data_dir, faces, monkeypatch):
    monkeypatch.setattr(cache, "_write", None)
    again = cache.load("synthetic_faces", data_dir, size=16)
    np.testing.assert_array_equal(
        again.splits["train"].images, faces.splits["train"].images
    )
    assert isinstance(again.splits["train"].images, np.memmap)


def test_an_interrupted_decoding_is_not_taken_for_whole(data_dir, monkeypatch):
    decode, calls = decoding.pixels_of, iter(range(100))

    def dies(*arguments):
        if next(calls) == 45:
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "pixels_of", dies)
        with pytest.raises(KeyboardInterrupt):
            cache.load("synthetic_faces", data_dir, size=12)
    whole = cache.load("synthetic_faces", data_dir, size=12)
    assert all(
        split.images.any(axis=(1, 2, 3)).all() for split in whole.splits.values()
    )


def test_another_data_set_of_the_same_version_is_decoded_anew(tmp_path):
    sizes = {"train": 4, "validation": 2, "test": 2}
    first = cache.find_prepared("synthetic_faces", tmp_path)
    assert first is None
    folder = synthetic_faces.prepare(tmp_path, sizes=sizes)
    cache.load("synthetic_faces", tmp_path, size=8)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["description"] = "another"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    cache.load("synthetic_faces", tmp_path, size=8)
    caches = [f for f in (tmp_path / "vae_jax_cache").iterdir() if f.is_dir()]
    assert len(caches) == 2


def test_a_damaged_record_is_named(data_dir, monkeypatch):
    def damaged(*arguments):
        raise ValueError("Premature end of JPEG file")

    monkeypatch.setattr(decoding, "pixels_of", damaged)
    with pytest.raises(UserError, match="picture 0 of split train.*Premature"):
        cache.load("synthetic_faces", data_dir, size=9)


@pytest.fixture
def shares(monkeypatch):
    monkeypatch.setattr(decoding, "_SHARE", 20)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_processes_decode_the_same_pictures(data_dir, faces, shares, capfd):
    folder = data_dir / "vae_jax_cache"
    here = next(f for f in folder.glob("*-notebook-bilinear-16-1") if f.is_dir())
    alone = {path.name: path.read_bytes() for path in here.iterdir()}
    shutil.rmtree(here)
    cache.load("synthetic_faces", data_dir, size=16)
    assert {path.name: path.read_bytes() for path in here.iterdir()} == alone
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_damaged_picture_is_named_by_its_process(tmp_path, shares):
    sizes = {"train": 36, "validation": 2, "test": 2}
    folder = synthetic_faces.prepare(tmp_path, sizes=sizes)
    (shard,) = folder.glob("*-train.*")
    records = list(originals(tmp_path))
    damaged = tmp_path / "damaged.array_record"
    writer = array_record_module.ArrayRecordWriter(str(damaged), "group_size:1")
    for index in range(len(records)):
        jpeg = b"\xff\xd8 no more" if index == 30 else JPEG
        writer.write(
            writing.record(
                {
                    "image": jpeg,
                    "attributes": dict.fromkeys(records[0]["attributes"], True),
                }
            )
        )
    writer.close()
    damaged.replace(shard)
    with pytest.raises(UserError) as caught:
        cache.load("synthetic_faces", tmp_path, size=8)
    assert f"{folder}: picture 30 of split train cannot be dec" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_process_that_dies_is_told_with_what_it_said(data_dir, shares, monkeypatch):
    monkeypatch.setattr(decoding, "_PROGRESS", "other.npy")
    with pytest.raises(RuntimeError, match="(?s)ended with 1: .*progress.npy"):
        cache.load("synthetic_faces", data_dir, size=10)


LOADED = """
import sys
from vae_jax.data import cache
from vae_jax.errors import UserError
try:
    cache.load("synthetic_faces", sys.argv[1], size=128)
except UserError as error:
    print(error)
"""


def test_full_disk(data_dir, tmp_path):
    # A limit on the size of a file fails writes as a full disk does.
    said = subprocess.run(
        [sys.executable, "-c", LOADED, str(data_dir)],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    ).stdout
    assert said.startswith(f"cannot write {data_dir}/vae_jax_cache/synthetic_faces")
    assert f" nor {tmp_path}/vae_jax/pictures/synthetic_faces" in said
    assert said.count("(File too large)") == 2 and said.count("\n") == 1


STARTED = """
import os, signal, sys
# A shell that starts the tests in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from vae_jax.data import cache, decoding
decoding._SHARE = 20
os.cpu_count = lambda: 2
wide = {"size": 512, "channels": 3, "resampler": "lanczos"}
cache.load("synthetic_faces", sys.argv[1], **wide)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path, sent):
    sizes = {"train": 1600, "validation": 2, "test": 2}
    synthetic_faces.prepare(tmp_path, sizes=sizes)
    # Not a file, which has no main guard either: nothing of it is run again.
    run = subprocess.Popen([sys.executable, "-c", STARTED, str(tmp_path)])
    path = None
    while path is None:
        time.sleep(0.01)
        path = next(tmp_path.glob("vae_jax_cache/*/progress.npy"), None)
    time.sleep(0.05)
    # Whole by now; mapped, for Ctrl-C has the file removed.
    progress = np.load(path, mmap_mode="r")
    # One is at work, the other may still start: a busy machine lets it wait.
    while not progress[:, 0].any():
        time.sleep(0.01)
    assert len(processes_about(tmp_path)) == 3
    run.send_signal(sent)
    run.wait(10)
    deadline = time.monotonic() + 10
    while processes_about(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_about(tmp_path) == []
    assert progress[:, 0].sum() < 1604


def processes_about(folder):
    """The processes whose arguments name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


def test_absent_celeba_is_answered_with_how_to_prepare_it(tmp_path):
    with pytest.raises(UserError) as error:
        cache.load("celeb_a", tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "python -m vae_jax.data.prepare --source" in str(error.value)


def test_auto_is_celeb_a_where_it_is_prepared(tmp_path):
    assert cache.resolve_name("auto", tmp_path) == "synthetic_faces"
    (tmp_path / "celeb_a" / "incomplete.XYZ_2.1.0").mkdir(parents=True)
    (tmp_path / "celeb_a" / "incomplete.XYZ_2.1.0" / "dataset_info.json").touch()
    assert cache.resolve_name("auto", tmp_path) == "synthetic_faces"
    (tmp_path / "celeb_a" / "2.1.0").mkdir(parents=True)
    assert cache.resolve_name("auto", tmp_path) == "synthetic_faces"
    (tmp_path / "celeb_a" / "2.1.0" / "features.json").touch()
    assert cache.resolve_name("auto", tmp_path) == "synthetic_faces"
    (tmp_path / "celeb_a" / "2.1.0" / "dataset_info.json").touch()
    assert cache.resolve_name("auto", tmp_path) == "celeb_a"
    assert cache.resolve_name("synthetic_faces", tmp_path) == "synthetic_faces"
