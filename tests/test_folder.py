"""A user's own pictures, in folders and zips of the tests' own making."""

import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants
from tensorflow_datasets.proto import tf_example_pb2

from vae_jax import run as run_lib
from vae_jax.data import cache, folder, folder_files
from vae_jax.data.faces.drawing import draw
from vae_jax.data.faces.jpegs import factors_of
from vae_jax.errors import UserError
from vae_jax.settings import SETTINGS


@pytest.fixture(autouse=True)
def tfds_dir(tmp_path, monkeypatch):
    """Where tfds keeps data sets during a test."""
    place = tmp_path / "tfds"
    monkeypatch.setattr(constants, "DATA_DIR", str(place))
    return place


def noise(seed, size=(40, 30), mode="RGB"):
    """A picture with smooth colours, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(picture, kind="jpeg", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


JPEG = encode(noise(0), quality=95)


def plain(count=40):
    """Enough small pictures that no split is empty."""
    return {f"{n:03}.jpg": encode(noise(n)) for n in range(count)}


def write(path, files):
    for name, content in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pack(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def csv(names, header="file_name,Smiling,Male"):
    rows = [f"{name},{n % 2},{(n // 2) % 2}" for n, name in enumerate(names)]
    return "\n".join([header, *rows]) + "\n"


def stored(path):
    """Returns what was prepared: by file name, split, bytes and attributes."""
    builder = tfds.builder_from_directory(folder.prepare(path))
    found = {}
    for split in builder.info.splits:
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        for record in source:
            features = tf_example_pb2.Example.FromString(record).features.feature
            found[features["file_name"].bytes_list.value[0].decode()] = (
                split,
                features["image"].bytes_list.value[0],
                {
                    key.removeprefix("attributes/"): bool(value.int64_list.value[0])
                    for key, value in features.items()
                    if key.startswith("attributes/")
                },
            )
    return found


def shown(path, name):
    """Returns a stored picture as PIL sees it."""
    return np.asarray(Image.open(io.BytesIO(stored(path)[name][1])))


def kept(tfds_dir):
    """Returns the places where something was prepared whole."""
    return sorted(p.parents[1] for p in tfds_dir.glob("vae_jax_folders/*/folder/1.0.0"))


def refusal(path):
    with pytest.raises(UserError) as caught:
        folder.prepare(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


NAMES_OF_ALL_KINDS = {
    "a.jpg": encode(noise(1, (64, 48))),
    "b.JPEG": encode(noise(2, (20, 90))),
    "deep/er/c d.png": encode(noise(3, (33, 31)), "png"),
    "deep/Ünïcödé 顔.PNG": encode(noise(4, (8, 8)), "png"),
    "deep/e.WebP": encode(noise(5), "webp", lossless=True),
    "f.bmp": encode(noise(6), "bmp"),
    "gray.jpg": encode(noise(7, mode="L")),
    "really a png.jpg": encode(noise(8), "png"),
}
PASSED_OVER = {
    ".hidden.jpg": b"no picture",
    ".git/x.jpg": b"no picture",
    "__MACOSX/a.jpg": b"no picture",
    "deep/._e.jpg": b"no picture",
    "notes.txt": b"text",
    "Thumbs.db": b"",
}


def test_pictures_of_all_kinds_and_sizes_are_found_and_others_passed_over(tmp_path):
    path = write(tmp_path / "my pics", plain() | NAMES_OF_ALL_KINDS | PASSED_OVER)
    found = stored(path)
    assert set(found) == set(plain()) | set(NAMES_OF_ALL_KINDS)
    for name, file in NAMES_OF_ALL_KINDS.items():
        original = Image.open(io.BytesIO(file))
        np.testing.assert_array_equal(shown(path, name), np.asarray(original), name)
        # What needs no change is stored as it is.
        assert (found[name][1] == file) == (original.format in ("JPEG", "PNG")), name
    assert all(attributes == {} for _, _, attributes in found.values())


def test_others_read_the_prepared_data_set(tmp_path):
    path = write(tmp_path / "faces", plain() | {"attributes.csv": csv(plain())})
    place = folder.prepare(path).parents[1]
    source = tfds.data_source("folder", split="train", data_dir=place)
    example = source[0]
    assert example["image"].shape == (30, 40, 3)
    assert sorted(example["attributes"]) == ["Male", "Smiling"]


def test_a_zip_gives_the_same_bits_as_the_folder(tmp_path):
    files = plain() | NAMES_OF_ALL_KINDS | PASSED_OVER
    names = [*plain(), *NAMES_OF_ALL_KINDS]
    files["attributes.csv"] = csv(names)
    loose = cache.load("folder", write(tmp_path / "loose", files), crop="centre")
    # Folders have entries of their own, and the order is another.
    zipped = dict(reversed(files.items())) | {"deep/": b""}
    packed = cache.load("folder", pack(tmp_path / "packed.zip", zipped), crop="centre")
    assert loose.recipe == packed.recipe
    assert loose.attribute_names == packed.attribute_names
    assert sorted(loose.attribute_names) == ["Male", "Smiling"]
    for split in cache.SPLITS:
        for kind in ("images", "attributes"):
            a, b = (getattr(d.splits[split], kind) for d in (loose, packed))
            np.testing.assert_array_equal(a, b)


def test_splits_are_a_hash_of_the_name_and_stay_when_pictures_come_and_go(tmp_path):
    files = plain(60) | NAMES_OF_ALL_KINDS
    path = write(tmp_path / "faces", files)
    before = {name: split for name, (split, _, _) in stored(path).items()}
    for name, split in before.items():
        number = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest(), "big")
        expected = ["train"] * 8 + ["validation", "test"]
        assert split == expected[number % 10]
    write(path, {f"new/{n}.jpg": JPEG for n in range(50)})
    for name in list(plain())[::7]:
        (path / name).unlink()
    after = {name: split for name, (split, _, _) in stored(path).items()}
    common = before.keys() & after.keys()
    assert 50 < len(common) < len(after)
    assert all(before[name] == after[name] for name in common)
    assert before["000.jpg"] == folder.split_of("000.jpg")


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (31, 40), (40, 31), (32, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_centre_is_the_largest_square_in_the_middle(tmp_path, size, channels):
    picture = noise(1, size)
    name = next(f"{n}.png" for n in range(99) if folder.split_of(f"{n}.png") == "test")
    others = {k: v for k, v in plain().items() if folder.split_of(k) != "test"}
    path = write(tmp_path / "faces", others | {name: encode(picture, "png")})
    dataset = cache.load("folder", path, crop="centre", size=16, channels=channels)
    side = min(size)
    left, upper = (size[0] - side) // 2, (size[1] - side) // 2
    square = picture.crop((left, upper, left + side, upper + side))
    assert square.size == (side, side)
    expected = square.convert("L" if channels == 1 else "RGB").resize(
        (16, 16), Image.Resampling.BILINEAR
    )
    (actual,) = dataset.splits["test"].images
    np.testing.assert_array_equal(actual.squeeze(), np.asarray(expected))


def test_celebas_boxes_are_refused_for_other_sizes_and_taken_for_its_own(tmp_path):
    path = write(tmp_path / "faces", plain())
    for crop in ("notebook", "cc140", "cc148"):
        with pytest.raises(UserError) as caught:
            cache.load("folder", path, crop=crop)
        for part in (f"config.dataset.crop is '{crop}'", "40x30", "178x218", "centre"):
            assert part in str(caught.value)
    files = {name: encode(noise(1, (178, 218)), "png") for name in plain()}
    aligned = cache.load("folder", write(tmp_path / "a", files), crop="cc148", size=148)
    np.testing.assert_array_equal(
        aligned.splits["test"].images[0].squeeze(),
        np.asarray(noise(1, (178, 218)).crop((15, 35, 163, 183)).convert("L")),
    )


def test_the_centre_of_celebas_pictures_is_178_wide(data_dir):
    whole = cache.load("synthetic_faces", data_dir, crop="centre", size=178, channels=3)
    source = tfds.data_source("synthetic_faces", split="test", data_dir=data_dir)
    for actual, example in zip(whole.splits["test"].images, source, strict=True):
        assert np.abs(actual.astype(int) - example["image"][20:198]).mean() < 0.1


def test_enlarged_pictures_are_counted_aloud_once(tmp_path, capsys):
    files = plain() | {"large.jpg": encode(noise(1, (80, 70)))}
    path = write(tmp_path / "faces", files)
    cache.load("folder", path, crop="centre", size=31)
    said = capsys.readouterr().out
    assert "40 of 41 pictures of folder are smaller than 31x31" in said
    cache.load("folder", path, crop="centre", size=31)
    cache.load("folder", path, crop="centre", size=30)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "0"), ("1", "-1"), ("true", "false"), ("True", "FALSE"), (" 1 ", " 0 ")],
)
def test_attributes_follow_their_names_in_whatever_order(tmp_path, yes, no):
    files = plain() | {"in a, folder/x.jpg": JPEG}
    rows = {name: (n % 2 == 0, n % 3 == 0) for n, name in enumerate(files)}
    lines = ["Smiling,file_name,Male"] + [
        f'{yes if a else no},"{name}",{yes if b else no}'
        for name, (a, b) in reversed(rows.items())
    ]
    # As a spreadsheet saves it: a byte order mark, CRLF, and an empty line.
    text = "\ufeff" + "\r\n".join([*lines, "", ""])
    found = stored(write(tmp_path / "faces", files | {"attributes.csv": text}))
    for name, (smiling, male) in rows.items():
        assert found[name][2] == {"Smiling": smiling, "Male": male}


@pytest.mark.parametrize("put", [write, pack])
def test_a_faulty_attribute_file_is_named_and_nothing_is_kept(tmp_path, tfds_dir, put):
    files = plain() | {"attributes.csv": csv(plain()).replace("004.jpg", "400.jpg")}
    path = put(tmp_path / "faces", files)
    assert refusal(path) == (
        f"{path}/attributes.csv:6: there is no picture '400.jpg'; attributes.csv has "
        "no row for 1 of 40 pictures: '004.jpg'"
    )
    assert kept(tfds_dir) == []


def test_attributes_of_any_number_and_odd_names_are_kept(tmp_path):
    odd = ["a b", "Café", "Age>40?", "x" * 100, "a.b:c", "'\"", "é" * 100, "-"]
    names = [*odd, *map(str, range(500))]
    header = ",".join(
        ["file_name", *(f'"{n.replace(chr(34), 2 * chr(34))}"' for n in names)]
    )
    rows = [f"{picture},{','.join('01' * 254)}" for picture in plain()]
    files = plain() | {"attributes.csv": "\n".join([header, *rows])}
    dataset = cache.load("folder", write(tmp_path / "faces", files), crop="centre")
    assert dataset.attribute_names == tuple(sorted(names))
    ones = dict(
        zip(
            dataset.attribute_names,
            dataset.splits["test"].attributes[0],
            strict=True,
        )
    )
    assert [ones[name] for name in names] == [False, True] * 254


@pytest.mark.parametrize("name", ["faces/attributes.csv", "Attributes.CSV"])
def test_an_attribute_file_that_would_be_passed_over_is_refused(tmp_path, name):
    message = refusal(pack(tmp_path / "faces.zip", plain() | {name: csv(plain())}))
    assert (
        f"holds {name}; attributes are read from attributes.csv in its root" in message
    )


def test_a_damaged_picture_is_named_and_nothing_is_kept(tmp_path, tfds_dir):
    path = write(tmp_path / "faces", plain() | {"line\nend.jpg": JPEG[:-2]})
    assert refusal(path) == (
        f"1 of 41 pictures in {path} are damaged: 'line\\nend.jpg' (Premature end of "
        "JPEG file); mend or remove them"
    )
    assert kept(tfds_dir) == []


@pytest.mark.parametrize(
    ("count", "said"), [(3, "3 of 40 pictures"), (14, "10 or more of 40 pictures")]
)
def test_damaged_pictures_are_told_together_up_to_ten(
    tmp_path, monkeypatch, count, said
):
    monkeypatch.setattr(folder.Folder, "per_file", 4)
    files = plain()
    files |= dict.fromkeys(list(files)[:count], JPEG[:500])
    message = refusal(write(tmp_path / "faces", files))
    assert said in message
    assert message.count(".jpg (") == min(count, 10)


def test_a_zip_with_a_wrong_checksum_names_the_picture(tmp_path):
    path = pack(tmp_path / "faces.zip", plain() | {"bad.jpg": JPEG})
    data = bytearray(path.read_bytes())
    data[data.index(JPEG) + 400] ^= 255
    path.write_bytes(data)
    assert "bad.jpg (not readable: Bad CRC-32" in refusal(path)


def test_an_encrypted_zip_and_a_name_that_occurs_twice_are_refused(tmp_path):
    path = pack(tmp_path / "faces.zip", {"a.jpg": JPEG})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "'a.jpg' is encrypted" in refusal(path)
    path = pack(tmp_path / "twice.zip", {"a.jpg": JPEG, "./a.jpg": JPEG})
    assert "'a.jpg' occurs twice" in refusal(path)


def test_what_is_no_folder_of_pictures_is_answered_with_what_is_allowed(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    write(tmp_path / "empty", PASSED_OVER | {"attributes.csv": "file_name\n"})
    pack(tmp_path / "empty.zip", PASSED_OVER)
    for path, reason in {
        None: "None",
        tmp_path / "nowhere": "does not exist",
        tmp_path / "text.zip": "no whole zip",
        tmp_path / "empty": "holds no pictures",
        tmp_path / "empty.zip": "holds no pictures",
    }.items():
        message = refusal(path)
        shown_path = None if path is None else str(path)
        assert message.startswith(f"config.dataset.data_dir is {shown_path!r}")
        assert reason in message
        assert (
            "a folder or a zip of pictures (.jpg, .jpeg, .png, .webp, .bmp)" in message
        )


def test_an_empty_split_is_explained(tmp_path):
    message = refusal(write(tmp_path / "faces", {"a.jpg": JPEG, "b.jpg": JPEG}))
    assert "faces holds 2 picture(s): train " in message
    assert "8 of 10 for train" in message and "50 pictures" in message


def test_names_that_are_no_text_are_refused(tmp_path):
    path = write(tmp_path / "faces", plain())
    (pathlib.Path(os.fsdecode(os.fsencode(path) + b"/caf\xe9.jpg"))).write_bytes(JPEG)
    assert r"1 name(s) are no UTF-8: 'caf\udce9.jpg'; rename" in refusal(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path, tfds_dir):
    tfds_dir.write_text("in the way")
    message = refusal(write(tmp_path / "faces", plain()))
    assert f"(TFDS_DATA_DIR) is '{tfds_dir}', which is a file" in message


def test_the_users_folder_is_only_read(tmp_path):
    files = plain() | {"deep/x.png": encode(noise(1), "png")}
    path = write(tmp_path / "faces", files | {"attributes.csv": csv(files)})
    before = {p: p.stat().st_mtime_ns for p in [path, *path.rglob("*")]}
    for place in before:
        place.chmod(0o555 if place.is_dir() else 0o444)
    cache.load("folder", path, crop="centre", size=8)
    assert {p: p.stat().st_mtime_ns for p in [path, *path.rglob("*")]} == before
    for place in before:
        place.chmod(0o755)


def test_a_second_load_reads_no_picture_and_another_size_prepares_nothing(
    tmp_path, tfds_dir, monkeypatch
):
    path = write(tmp_path / "faces", plain())
    first = cache.load("folder", path, crop="centre", size=8)
    monkeypatch.setattr(folder_files, "read_picture", None)
    cache.load("folder", path, crop="centre", size=9)
    monkeypatch.setattr(cache, "_write", None)
    again = cache.load("folder", path, crop="centre", size=8)
    assert again.recipe == first.recipe
    np.testing.assert_array_equal(
        again.splits["train"].images, first.splits["train"].images
    )
    (place,) = kept(tfds_dir)
    assert place.name.startswith("faces-")


def add(path):
    write(path, {"new.jpg": JPEG})


def remove(path):
    (path / "000.jpg").unlink()


def same_size(path):
    """Another picture in as many bytes."""
    old, new = path / "000.png", encode(noise(77), "bmp")
    assert old.stat().st_size == len(new) and old.read_bytes() != new
    old.write_bytes(new)


def relabel(path):
    text = (path / "attributes.csv").read_text()
    (path / "attributes.csv").write_text(text.replace("001.jpg,1", "001.jpg,0"))


@pytest.fixture
def labelled(tmp_path):
    files = plain() | {"000.png": encode(noise(7), "bmp")}
    return write(tmp_path / "faces", files | {"attributes.csv": csv(files)})


@pytest.mark.parametrize("change", [same_size, relabel])
def test_a_changed_folder_is_prepared_anew(labelled, tfds_dir, change):
    first = cache.load("folder", labelled, crop="centre", size=8)
    change(labelled)
    second = cache.load("folder", labelled, crop="centre", size=8)
    assert len(kept(tfds_dir)) == 2
    assert first.recipe["pictures"] == second.recipe["pictures"]
    assert first.recipe["fingerprint"] != second.recipe["fingerprint"]


def test_a_copy_of_the_folder_elsewhere_has_the_same_recipe(
    labelled, tmp_path, tfds_dir
):
    first = cache.load("folder", labelled, crop="centre", size=8)
    labelled.rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "000.jpg")
    moved = cache.load("folder", tmp_path / "moved", crop="centre", size=8)
    assert moved.recipe == first.recipe
    assert len(kept(tfds_dir)) == 2


def test_folders_of_one_name_do_not_mix(tmp_path, tfds_dir):
    for parent in "ab":
        folder.prepare(write(tmp_path / parent / "faces", plain()))
    assert len(kept(tfds_dir)) == 2


def test_an_interrupted_preparation_is_not_taken_for_whole(
    tmp_path, tfds_dir, monkeypatch
):
    path = write(tmp_path / "faces", plain())
    read, calls = folder_files.read_picture, iter(range(100))

    def dies(*arguments):
        if next(calls) == 35:
            raise KeyboardInterrupt
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folder_files, "read_picture", dies)
        with pytest.raises(KeyboardInterrupt):
            folder.prepare(path)
    assert kept(tfds_dir) == []
    (place,) = (tfds_dir / "vae_jax_folders").glob("faces-*[!k]")
    # As a run leaves it that was killed.
    (place / "folder" / "incomplete.ABCDEF_1.0.0").mkdir()
    assert len(stored(path)) == 40
    assert [p.name for p in (place / "folder").iterdir()] == ["1.0.0"]


def prepare_elsewhere(path, place, results):
    results.put(str(folder.prepare(path, place)))


@pytest.mark.slow
def test_two_processes_prepare_it_once_between_them(tmp_path, tfds_dir):
    path = write(tmp_path / "faces", plain(200))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    both = [
        context.Process(target=prepare_elsewhere, args=(path, tfds_dir, results))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    places = {results.get(timeout=120) for _ in both}
    for process in both:
        process.join()
    assert len(places) == 1 and len(kept(tfds_dir)) == 1
    assert len(stored(path)) == 200


def test_auto_is_the_centre_for_a_folder_and_the_notebooks_box_otherwise(
    tiny_config, tmp_path
):
    assert tiny_config.dataset.crop == "auto"
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path / "a")
    assert run.config.dataset.crop == run.dataset.recipe["crop"] == "notebook"
    # A run of another crop goes on with it where none is asked for.
    tiny_config.dataset.crop = "cc148"
    run_lib.train(tiny_config, tmp_path / "b")
    tiny_config.dataset.crop = "auto"
    assert run_lib.train(tiny_config, tmp_path / "b").config.dataset.crop == "cc148"
    tiny_config.dataset.crop = "cc140"
    with pytest.raises(UserError, match="dataset.crop: 'cc148' in the run, 'cc140'"):
        run_lib.train(tiny_config, tmp_path / "b")
    assert "centre" in SETTINGS["dataset.crop"].allowed


@pytest.fixture
def own_faces(tmp_path):
    """Drawn faces as a user may have them, with attributes."""
    files = {}
    for n in range(48):
        face = Image.fromarray(draw(factors_of("train", n)))
        files[f"p{n % 3}/{n}.png"] = encode(face.resize((70 + n, 90)), "png")
    return write(tmp_path / "own faces", files | {"attributes.csv": csv(files)})


@pytest.fixture
def own_config(tiny_config, own_faces):
    tiny_config.dataset.name = "folder"
    tiny_config.dataset.data_dir = str(own_faces)
    return tiny_config


@pytest.mark.slow
def test_a_run_trains_on_a_folder_and_goes_on_with_it(own_config, tmp_path):
    own_config.train.num_steps = 4
    run = run_lib.train(own_config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    names = list(run.dataset.attribute_names)
    assert record["dataset"] == run.dataset.recipe | {"attribute_names": names}
    assert record["config"]["dataset"]["crop"] == "centre"
    assert record["dataset"]["name"] == "folder"
    assert sum(record["dataset"]["pictures"].values()) == 48
    assert sorted(run.dataset.attribute_names) == ["Male", "Smiling"]
    own_config.train.num_steps = 8
    assert run_lib.train(own_config, tmp_path / "run").step == 8
    loaded = run_lib.load(tmp_path / "run")
    assert loaded.dataset.recipe == run.dataset.recipe


@pytest.mark.slow
def test_a_run_needs_its_folder_no_more_once_it_is_prepared(
    own_config, own_faces, tmp_path
):
    own_config.train.num_steps = 4
    run = run_lib.train(own_config, tmp_path / "run")
    own_faces.rename(tmp_path / "elsewhere")
    loaded = run_lib.load(tmp_path / "run").dataset
    assert loaded.recipe == run.dataset.recipe
    own_config.train.num_steps = 8
    assert run_lib.train(own_config, tmp_path / "run").step == 8
    # Another run knows of no copy.
    with pytest.raises(UserError, match="which does not exist"):
        run_lib.train(own_config, tmp_path / "other")
    for version in folder.copies():
        (version / "metadata.json").unlink()
    with pytest.raises(UserError, match="which does not exist"):
        print(run_lib.load(tmp_path / "run").dataset)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["same number", "another number", "moved"])
def test_a_run_goes_on_with_the_same_pictures_alone(
    own_config, own_faces, tmp_path, capsys, change
):
    own_config.train.num_steps = 4
    run_lib.train(own_config, tmp_path / "run")
    own_config.train.num_steps = 8
    if change == "moved":
        own_config.dataset.data_dir = str(own_faces.rename(tmp_path / "moved"))
        assert run_lib.train(own_config, tmp_path / "run").step == 8
        return
    if change == "same number":
        (own_faces / "p0" / "0.png").write_bytes(encode(noise(5), "png"))
    else:
        (own_faces / "attributes.csv").unlink()
        (own_faces / "p0" / "0.png").unlink()
    with pytest.raises(UserError, match="trained on other pictures of folder"):
        run_lib.train(own_config, tmp_path / "run")
    # To look into it they do, and that is said.
    capsys.readouterr()
    assert run_lib.load(tmp_path / "run").dataset.splits
    assert "was trained on other pictures of folder" in capsys.readouterr().out
