"""What `tfds.load("celeb_a")` leaves is read as what this package prepares."""

import json
import re
import shutil

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from tensorboardX import record_writer
from tensorflow_datasets.proto import tf_example_pb2

from vae_jax.data import cache, celeba, decoding, tfrecords
from vae_jax.errors import UserError

ATTRIBUTES, MARKS = celeba.ATTRIBUTES, celeba.LANDMARKS
PARTITION = [0] * 7 + [1] * 2 + [2] * 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A celeb_a of this package, of several shards, from drawn noise."""
    rng = np.random.default_rng(0)
    source = tmp_path_factory.mktemp("source")
    names = [f"{number:06}.jpg" for number in range(1, len(PARTITION) + 1)]
    (source / "img_align_celeba").mkdir()
    for name in names:
        noise = rng.integers(0, 256, (218, 178, 3), np.uint8)
        (source / "img_align_celeba" / name).write_bytes(simplejpeg.encode_jpeg(noise))
    for file, columns, values in (
        ("list_attr_celeba", ATTRIBUTES, rng.choice([-1, 1], (len(names), 40))),
        ("list_landmarks_align_celeba", MARKS, rng.integers(0, 178, (len(names), 10))),
        ("list_eval_partition", ["partition"], np.array(PARTITION)[:, None]),
    ):
        rows = [",".join([n, *map(str, v)]) for n, v in zip(names, values, strict=True)]
        header = ",".join(["image_id", *columns])
        (source / f"{file}.csv").write_text("\n".join([header, *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(celeba.CelebA, "per_file", 4)
        return celeba.prepare(source, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def as_tfds_leaves_it(prepared, tmp_path_factory):
    """The same in tfds' own features and format, by another writer of TFRecord."""
    folder = tmp_path_factory.mktemp("tfds") / "celeb_a" / "2.1.0"
    folder.mkdir(parents=True)
    tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
            "landmarks": {name: np.int64 for name in MARKS},
            "attributes": {name: np.bool_ for name in ATTRIBUTES},
        }
    ).save_config(folder)
    info = (prepared / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    builder = tfds.builder_from_directory(prepared)
    for split, described in builder.info.splits.items():
        records = list(raw(builder, split))
        template = f"celeb_a-{split}.tfrecord-{{:05}}-of-{described.num_shards:05}"
        for shard, length in enumerate(described.shard_lengths):
            writer = record_writer.RecordWriter(str(folder / template.format(shard)))
            for record in records[:length]:
                example = tf_example_pb2.Example.FromString(record)
                del example.features.feature["file_name"]
                writer.write(example.SerializeToString())
            del records[:length]
            writer.close()
    return folder


def raw(builder, split):
    return builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )


@pytest.fixture
def copy(as_tfds_leaves_it, tmp_path):
    """A folder of the latter's to be changed."""
    return shutil.copytree(as_tfds_leaves_it, tmp_path / "celeb_a" / "2.1.0")


def load(version):
    return cache.load("celeb_a", version.parents[1], size=16, channels=3)


@pytest.mark.slow
@pytest.mark.parametrize("share", [2, 5_000])
def test_pixels_and_attributes_are_those_of_array_record(
    prepared, copy, share, monkeypatch
):
    # With few pictures a share, by several processes.
    monkeypatch.setattr(decoding, "_SHARE", share)
    expected, found = load(prepared), load(copy)
    assert found.attribute_names == expected.attribute_names
    for name, split in expected.splits.items():
        np.testing.assert_array_equal(found.splits[name].images, split.images)
        np.testing.assert_array_equal(found.splits[name].attributes, split.attributes)
    assert found.splits["train"].images.std() > 3


def test_a_description_of_old_names_no_format(copy):
    path = copy / "dataset_info.json"
    info = json.loads(path.read_text())
    del info["fileFormat"]
    path.write_text(json.dumps(info))
    assert len(load(copy).splits["train"].images) == 7


SHARD = "celeb_a-train.tfrecord-00001-of-00002"


def flip(place):
    def change(data):
        data[place] ^= 1
        return data

    return change


DAMAGES = {
    "length": (flip(3), f"{SHARD} is no TFRecord file: the checksum at byte 8 is"),
    "length's checksum": (flip(9), f"{SHARD} is no TFRecord file"),
    "data": (
        flip(5000),
        f"picture 4 of .*{SHARD}: the checksum at byte [0-9]* is wrong",
    ),
    "last byte": (flip(-1), f"picture 6 of .*{SHARD}: the checksum at byte "),
    "cut": (lambda data: data[:-1], f"{SHARD} is cut off: it has "),
    "cut in a head": (
        lambda data: data + data[:7],
        f"{SHARD} is damaged: the checksum",
    ),
    "more": (lambda data: data + data, f"{SHARD} has 6 records, expected 3"),
    "empty": (lambda data: b"", f"{SHARD} has 0 records, expected 3"),
    "text": (lambda data: b"version https://git-lfs.github.com/spec", "no TFRecord"),
    "missing": (None, f"No such file .*{SHARD}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_the_way_on(damage, copy):
    change, said = DAMAGES[damage]
    path = copy / SHARD
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(UserError) as caught:
        load(copy)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(copy))
    assert re.search(said, str(caught.value)), caught.value
    assert "; delete that folder and prepare it again, or " in str(caught.value)
    assert "prepare --source=PATH_OF_THE_FILES --data_dir=" in str(caught.value)


def rewrite(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    "change",
    [
        rewrite("dataset_info.json", "{", ""),
        rewrite("dataset_info.json", '"4"', '"x"'),
        rewrite("dataset_info.json", '"name": "celeb_a",', '"name": 3,'),
        rewrite("features.json", "{", ""),
        rewrite("features.json", '"attributes"', '"others"'),
        lambda folder: (folder / "features.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_description_is_named(change, copy):
    change(copy)
    with pytest.raises(UserError, match=f"^{copy}: cannot be read .*prepare it again"):
        load(copy)


@pytest.mark.parametrize("count", ["-9", "42000000000"])
def test_counts_that_cannot_be_are_refused_before_the_disk_is_full(count, copy):
    rewrite("dataset_info.json", '"4"', f'"{count}"')(copy)
    with pytest.raises(UserError, match=f"^{copy}: split train should have [-4][0-9]*"):
        load(copy)


def test_a_damaged_array_record_is_named(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "celeb_a" / "2.1.0")
    (shard,) = folder.glob("celeb_a-test*")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=f"^{folder}: picture 0 of split test cannot be "
    ):
        load(folder)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}.*; delete that folder"):
        load(folder)


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        ({"2.1.0": "array_record", "3.0.0": "riegeli"}, "2.1.0"),
        ({"2.1.0": "tfrecord", "10.0.0": "array_record", "9.0.0": "x"}, "10.0.0"),
        ({"2.0.1": None, "2.1.0": "array_record", "3.0.0": None}, "2.1.0"),
    ],
)
def test_the_newest_version_that_can_be_read_is_taken(versions, newest, tmp_path):
    write_versions(tmp_path, versions)
    assert cache.resolve_name("auto", tmp_path) == "celeb_a"
    assert cache.find_prepared("celeb_a", tmp_path) == tmp_path / "celeb_a" / newest


def write_versions(place, versions):
    for version, file_format in versions.items():
        folder = place / "celeb_a" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(f'{{"fileFormat": "{file_format}"}}')
        if file_format is not None:
            (folder / "features.json").touch()


def test_versions_that_cannot_be_read_are_named_with_the_way_on(tmp_path):
    write_versions(tmp_path, {"2.1.0": "parquet", "2.0.1": None})
    assert cache.resolve_name("auto", tmp_path) == "synthetic_faces"
    with pytest.raises(UserError) as caught:
        cache.load("celeb_a", tmp_path)
    assert f"{tmp_path}/celeb_a/2.1.0 is parquet, which" in str(caught.value)
    assert "2.0.1 is a format of tfds before 3.3" in str(caught.value)
    assert str(caught.value).endswith(" --data_dir=ANOTHER_FOLDER")
    assert "\n" not in str(caught.value)


def test_a_data_set_without_a_split_is_answered_with_the_way_on(copy):
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"] = [s for s in info["splits"] if s["name"] != "validation"]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError) as caught:
        load(copy)
    assert f"{copy} has pictures: train 7, validation 0, test 2;" in str(caught.value)
    assert "prepare --source=PATH_OF_THE_FILES --data_dir=ANOTHER" in str(caught.value)


@pytest.mark.parametrize("name", ["auto", "celeb_a", "synthetic_faces"])
@pytest.mark.parametrize("data_dir", ["gs://bucket/tfds", ""])
def test_an_address_is_no_data_dir(name, data_dir):
    with pytest.raises(UserError, match="^config.dataset.data_dir is '"):
        cache.load(cache.resolve_name(name, data_dir), data_dir)


@pytest.mark.parametrize("size", [0, 1, 8, 255, 256, 257, 1000])
def test_crc32c_is_that_of_castagnoli(size):
    # RFC 3720, B.4.
    assert tfrecords.crc32c(bytes(32)) == 0x8A9136AA
    assert tfrecords.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecords.crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert tfrecords.crc32c(data) == crc ^ 0xFFFFFFFF
