import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vae_jax.data import cache, decoding, synthetic_faces
from vae_jax.errors import UserError


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
    decode, calls = decoding._decode, iter(range(100))

    def dies(*arguments):
        if next(calls) == 45:
            raise KeyboardInterrupt
        return decode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", dies)
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

    monkeypatch.setattr(decoding, "_decode", damaged)
    with pytest.raises(UserError, match="picture 0 of split train.*Premature"):
        cache.load("synthetic_faces", data_dir, size=9)


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
    (tmp_path / "celeb_a" / "2.1.0" / "dataset_info.json").touch()
    assert cache.resolve_name("auto", tmp_path) == "celeb_a"
    assert cache.resolve_name("synthetic_faces", tmp_path) == "synthetic_faces"
