import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants
from tensorflow_datasets.proto import tf_example_pb2

from vae_jax import storage
from vae_jax.data import celeba, celeba_files, celeba_pictures
from vae_jax.errors import UserError

PARTITION = (0, 2, 0, 1, 0, 2)
NAMES = [f"{number:06}.jpg" for number in range(1, len(PARTITION) + 1)]
BITS = np.random.default_rng(0).random((len(NAMES), 40)) < 0.5
LANDMARKS = np.random.default_rng(1).integers(-5, 218, (len(NAMES), 10))
IDENTITY = (2880, 2937, 8692, 5805, 9295, 4153)


def draw(seed, size=(178, 218), mode="RGB", kind="jpeg"):
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (28, 23, 3), np.uint8))
    file = io.BytesIO()
    picture.resize(size).convert(mode).save(file, kind)
    return file.getvalue()


JPEGS = {name: draw(seed) for seed, name in enumerate(NAMES)}


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def pack(folder, jpegs):
    write_zip(
        folder / "img_align_celeba.zip",
        {f"img_align_celeba/{name}": data for name, data in jpegs.items()},
    )


def write_table(path, rows, header=None):
    lines = [f"{name} {' '.join(map(str, row))}" for name, row in rows.items()]
    if header:
        lines = [str(len(lines)), " ".join(header) + " ", *lines]
    path.write_bytes("".join(line + "\r\n" for line in lines).encode())


@pytest.fixture
def source(tmp_path):
    """The official files in small, from `img_align_celeba.zip`, without options."""
    folder = tmp_path / "official"
    folder.mkdir()
    pack(folder, JPEGS)
    write_table(
        folder / "list_attr_celeba.txt",
        {
            name: np.where(row, " 1", "-1")
            for name, row in zip(NAMES, BITS, strict=True)
        },
        celeba.ATTRIBUTES,
    )
    write_table(
        folder / "list_eval_partition.txt",
        {name: [split] for name, split in zip(NAMES, PARTITION, strict=True)},
    )
    return folder


def add_options(folder):
    write_table(
        folder / "list_landmarks_align_celeba.txt",
        dict(zip(NAMES, LANDMARKS, strict=True)),
        celeba.LANDMARKS,
    )
    # In another order than the other files.
    rows = {name: [identity] for name, identity in zip(NAMES, IDENTITY, strict=True)}
    write_table(folder / "identity_CelebA.txt", dict(reversed(rows.items())))


def unpack(folder):
    pictures = folder / "img_align_celeba"
    pictures.mkdir()
    for name, data in JPEGS.items():
        (pictures / name).write_bytes(data)
    (folder / "img_align_celeba.zip").unlink()
    return folder


def read(data_dir, split):
    return tfds.data_source("celeb_a:2.1.0", split=split, data_dir=data_dir)


def stored_jpegs(data_dir, split):
    records = tfds.data_source(
        "celeb_a:2.1.0",
        split=split,
        data_dir=data_dir,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    )
    examples = [tf_example_pb2.Example.FromString(record) for record in records]
    return [ex.features.feature["image"].bytes_list.value[0] for ex in examples]


def expected(split):
    index = celeba_files.SPLITS.index(split)
    return [row for row, part in enumerate(PARTITION) if part == index]


def kept(data_dir):
    return sorted(path.name for path in (data_dir / "celeb_a").glob("*"))


def test_attributes_are_the_official_ones():
    assert len(celeba.ATTRIBUTES) == len(set(celeba.ATTRIBUTES)) == 40
    assert celeba.ATTRIBUTES[0] == "5_o_Clock_Shadow"
    assert celeba.ATTRIBUTES.index("Male") == 20
    assert celeba.ATTRIBUTES.index("Smiling") == 31
    assert celeba.ATTRIBUTES[-1] == "Young"
    digest = hashlib.sha256(" ".join(celeba.ATTRIBUTES).encode()).hexdigest()
    assert digest.startswith("b1336d224fff3e0b")


@pytest.mark.parametrize("kind", ["zip beside", "zip path", "folder"])
def test_round_trip(source, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(celeba.CelebA, "per_file", 2)  # train then has two shards
    if kind == "folder":
        unpack(source)
        for name in ("Thumbs.db", "._000001.jpg"):
            (source / "img_align_celeba" / name).write_bytes(b"not a picture")
    path = source / "img_align_celeba.zip" if kind == "zip path" else source
    folder = celeba.prepare(path, tmp_path / "data")
    assert folder == tmp_path / "data" / "celeb_a" / "2.1.0"
    assert kept(tmp_path / "data") == ["2.1.0"]
    for split in celeba_files.SPLITS:
        rows = expected(split)
        examples = list(read(tmp_path / "data", split))
        assert [ex["file_name"].decode() for ex in examples] == [NAMES[r] for r in rows]
        assert stored_jpegs(tmp_path / "data", split) == [JPEGS[NAMES[r]] for r in rows]
        for row, example in zip(rows, examples, strict=True):
            assert set(example) == {"image", "file_name", "attributes"}
            assert example["image"].shape == (218, 178, 3)
            bits = [example["attributes"][name] for name in celeba.ATTRIBUTES]
            np.testing.assert_array_equal(bits, BITS[row])


def test_landmarks_and_identity_follow_their_names(source, tmp_path):
    add_options(source)
    celeba.prepare(source, tmp_path)
    for split in celeba_files.SPLITS:
        for row, example in zip(expected(split), read(tmp_path, split), strict=True):
            assert example["identity"] == {"Identity_No": IDENTITY[row]}
            assert example["landmarks"] == dict(
                zip(celeba.LANDMARKS, LANDMARKS[row], strict=True)
            )


def test_metadata(source, tmp_path):
    add_options(source)
    folder = celeba.prepare(source, tmp_path)
    info = tfds.builder_from_directory(folder).info
    assert info.metadata["pictures"] == info.metadata["of"] == len(NAMES)
    assert info.metadata["sources_md5"] == {
        path.name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in source.iterdir()
    }
    assert "non-commercial" in (folder / "LICENSE").read_text()


def test_allow_missing_records_how_many(source, tmp_path):
    subset(4)(source)
    folder = celeba.prepare(source, tmp_path, allow_missing=True)
    info = tfds.builder_from_directory(folder).info
    assert (info.metadata["pictures"], info.metadata["of"]) == (4, 6)
    splits = {name: split.num_examples for name, split in info.splits.items()}
    assert splits == {"train": 2, "test": 1, "validation": 1}
    assert stored_jpegs(tmp_path, "train") == [JPEGS[NAMES[0]], JPEGS[NAMES[2]]]


READER = """
import sys
import tensorflow_datasets as tfds
for name in ("celeb_a", "celeb_a:2.1.0"):
    data = tfds.data_source(name, data_dir=sys.argv[1], download=False)
    example = data["train"][1]
    print(len(data["train"]), example["image"].shape, example["attributes"]["Bald"],
          example["identity"]["Identity_No"], example["landmarks"]["nose_y"])
print(tfds.builder_from_directory(sys.argv[1] + "/celeb_a/2.1.0").info.full_name)
assert not {"vae_jax", "jax", "tensorflow"} & set(sys.modules)
"""


def test_others_read_it_without_this_package(source, tmp_path):
    add_options(source)
    celeba.prepare(source, tmp_path)
    out = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    ).stdout.splitlines()
    bald = BITS[2, celeba.ATTRIBUTES.index("Bald")]
    row = f"3 (218, 178, 3) {bald} {IDENTITY[2]} {LANDMARKS[2, 5]}"
    assert out == [row, row, "celeb_a/2.1.0"]


def test_importing_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys; import vae_jax.data.prepare; "
        "sys.exit(bool({'jax', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def edit(name, change):
    """An edit of a label file's lines."""

    def apply(folder):
        path = folder / name
        lines = path.read_text().splitlines()
        change(lines)
        path.write_text("\n".join(lines) + "\n")

    return apply


def remove(name):
    return lambda folder: (folder / name).unlink()


def replace(line, old, new):
    def change(lines):
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)

    return change


def repack(**changes):
    """Replaces pictures in the zip, by number."""
    jpegs = {f"{int(key[1:]):06}.jpg": data for key, data in changes.items()}
    return lambda folder: pack(folder, JPEGS | jpegs)


def subset(count):
    return lambda folder: pack(folder, {name: JPEGS[name] for name in NAMES[:count]})


def add_entry(name):
    def apply(folder):
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "a") as archive:
            archive.writestr(name, JPEGS[NAMES[0]])

    return apply


def change_zip(change):
    def apply(folder):
        path = folder / "img_align_celeba.zip"
        path.write_bytes(change(bytearray(path.read_bytes())))

    return apply


def encrypt(data):
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return data


def corrupt_third(data):
    data[data.index(JPEGS[NAMES[2]]) + 400] ^= 255
    return data


def and_options(apply):
    def both(folder):
        add_options(folder)
        apply(folder)

    return both


ATTR, PART = "list_attr_celeba.txt", "list_eval_partition.txt"
LAND, IDENT = "list_landmarks_align_celeba.txt", "identity_CelebA.txt"
OFFICIAL = "mmlab.ie.cuhk.edu.hk"
MIDDLE = JPEGS[NAMES[2]][:1500] + bytes(200) + JPEGS[NAMES[2]][1700:]

ERRORS = {
    "no attributes": (remove(ATTR), ["lacks", ATTR, OFFICIAL]),
    "no partition": (remove(PART), ["lacks", PART, OFFICIAL]),
    "no pictures": (
        remove("img_align_celeba.zip"),
        ["lacks img_align_celeba.zip (or, unpacked, img_align_celeba/)", OFFICIAL],
    ),
    "count line": (
        edit(ATTR, lambda lines: lines.pop()),
        [f"{ATTR}: line 1: the number of rows is '6', and 5 follow"],
    ),
    "no count line": (
        edit(ATTR, lambda lines: lines.pop(0)),
        [f"{ATTR}: line 1: the number of rows is '', and 6 follow the header"],
    ),
    "empty attributes": (
        edit(ATTR, lambda lines: lines.clear()),
        [f"{ATTR}: line 1: the number of rows is '', and 0 ", "it lists no picture"],
    ),
    "header name": (
        edit(ATTR, replace(2, "Male", "Mail")),
        [f"{ATTR}: line 2, the header: 1 column(s) ('Mail') to remove; "]
        + ["1 column(s) ('Male') are missing"],
    ),
    "header too short": (
        edit(ATTR, replace(2, " Young", "")),
        [f"{ATTR}: line 2, the header: 1 column(s) ('Young') are missing"],
    ),
    "header too long": (
        edit(ATTR, replace(2, " Young", " Young Old")),
        [f"{ATTR}: line 2, the header: 1 column(s) ('Old') to remove"],
    ),
    "39 values": (
        edit(ATTR, lambda lines: lines.__setitem__(4, lines[4][:-3])),
        [f"{ATTR}: line 5: got 39 value(s) for '000003.jpg', expected 40 value(s) of"],
    ),
    "blank row": (
        edit(ATTR, lambda lines: lines.__setitem__(4, "")),
        [f"{ATTR}: line 5: got 0 value(s) for ''"],
    ),
    "attribute 0": (
        edit(ATTR, lambda lines: lines.__setitem__(4, lines[4][:-2] + " 0")),
        [f"{ATTR}: line 5: got ", "for '000003.jpg', expected 40 value(s) of -1, 1"],
    ),
    "partition 3": (
        edit(PART, replace(4, " 1", " 3")),
        [f"{PART}: line 4: got '3' for '000004.jpg', expected 1 value(s) of 0, 1, 2"],
    ),
    "partition without value": (
        edit(PART, replace(4, " 1", "")),
        [f"{PART}: line 4: got 0 value(s) for '000004.jpg', expected 1"],
    ),
    "empty partition": (
        edit(PART, lambda lines: lines.clear()),
        [f"{PART}: it lists no picture"],
    ),
    "attributes twice": (
        edit(ATTR, replace(7, NAMES[4], NAMES[1])),
        [f"{ATTR}: line 7: '000002.jpg' is listed twice, first in line 4"],
    ),
    "partition twice": (
        edit(PART, replace(5, NAMES[4], NAMES[1])),
        [f"{PART}: line 5: '000002.jpg' is listed twice, first in line 2"],
    ),
    "names disagree": (
        edit(PART, lambda lines: lines.pop(1)),
        [ATTR, PART, "disagree: 1 name(s) only in the former ('000002.jpg'), 0 only"],
    ),
    "identities disagree": (
        and_options(edit(IDENT, lambda lines: lines.__delitem__(slice(1, None)))),
        [IDENT, "0 name(s) only in the former, 5 only in the latter (", "..."],
    ),
    "identity no number": (
        and_options(edit(IDENT, replace(2, "9295", "who"))),
        [f"{IDENT}: line 2: got 'who' for '000005.jpg', expected 1 value(s) integers"],
    ),
    "identity too large": (
        and_options(edit(IDENT, replace(2, "9295", "9" * 30))),
        [f"{IDENT}: line 2: got '999"],
    ),
    "landmark header": (
        and_options(edit(LAND, replace(2, "nose_x", "chin_x"))),
        [f"{LAND}: line 2, the header: ", "('chin_x')", "('nose_x')"],
    ),
    "landmarks too few": (
        and_options(edit(LAND, lambda lines: lines.__setitem__(3, "000002.jpg 1 2"))),
        [f"{LAND}: line 4: got 2 value(s)", "expected 10"],
    ),
    "pictures missing": (
        subset(4),
        ["2 of the 6 pictures listed in", PART, "('000005.jpg', '000006.jpg')"]
        + ["--allow_missing to prepare the 4"],
    ),
    "all pictures missing": (subset(0), ["holds no files", OFFICIAL]),
    "pictures not listed": (
        add_entry("img_align_celeba/000007.jpg"),
        ["holds 1 picture(s) ('img_align_celeba/000007.jpg') not among the 6 ", PART],
    ),
    "cut by one byte": (
        repack(n3=JPEGS[NAMES[2]][:-1]),
        ["1 of 6 pictures", "000003.jpg' (no whole JPEG: "],
    ),
    "cut by two bytes": (
        repack(n3=JPEGS[NAMES[2]][:-2]),
        ["1 of 6 pictures", "000003.jpg' (no whole JPEG: "],
    ),
    "cut in the middle": (
        repack(n3=JPEGS[NAMES[2]][:1500]),
        ["1 of 6 pictures", "000003.jpg' (no whole JPEG: "],
    ),
    "cut in the header": (
        repack(n3=JPEGS[NAMES[2]][:50]),
        ["1 of 6 pictures", "000003.jpg' (no whole JPEG: "],
    ),
    "zeros in the middle": (
        repack(n3=MIDDLE),
        ["1 of 6 pictures", "000003.jpg' (no whole JPEG: "],
    ),
    "empty": (repack(n3=b""), ["000003.jpg' (no whole JPEG: "]),
    "cut PNG": (
        repack(n3=draw(0, kind="png")[:-9]),
        ["000003.jpg' (no whole PNG: "],
    ),
    "gray PNG": (
        repack(n3=draw(0, mode="L", kind="png")),
        ["000003.jpg' (L, expected RGB of 8 bits"],
    ),
    "small PNG": (
        repack(n3=draw(0, (17, 21), kind="png")),
        ["000003.jpg' (17x21 pixels, expected 178x218)"],
    ),
    "GIF": (repack(n3=draw(0, kind="gif")), ["000003.jpg' (no whole JPEG: "]),
    "wrong sizes": (
        repack(n3=draw(0, (218, 178)), n6=draw(0, (178, 217))),
        ["2 of 6 pictures", "000003.jpg' (218x178 pixels, expected 178x218), "]
        + ["000006.jpg' (178x217 pixels"],
    ),
    "gray": (repack(n4=draw(0, mode="L")), ["000004.jpg' (Gray, expected colour)"]),
    "wrong checksum": (
        change_zip(corrupt_third),
        ["1 of 6 pictures", "000003.jpg' (not readable: Bad CRC-32"],
    ),
    "cut zip": (
        change_zip(lambda data: data[:-200]),
        ["img_align_celeba.zip is no whole zip (File is not a zip file)", OFFICIAL],
    ),
    "absolute entry": (
        add_entry("/etc/000007.jpg"),
        ["entry '/etc/000007.jpg' points outside the zip"],
    ),
    "parent entry": (
        add_entry("img_align_celeba/../../000007.jpg"),
        ["entry 'img_align_celeba/../../000007.jpg' points outside the zip"],
    ),
    "parent entry of Windows": (
        add_entry("img_align_celeba\\..\\000007.jpg"),
        ["points outside the zip"],
    ),
    "drive": (add_entry("C:/000007.jpg"), ["entry 'C:/000007.jpg' points outside"]),
    "encrypted": (
        change_zip(encrypt),
        ["entry 'img_align_celeba/000001.jpg' is encrypted"],
    ),
    "entry twice": (
        add_entry("more/000002.jpg"),
        ["'000002.jpg' is there twice, as 'img_align_celeba/000002.jpg' and"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(source, tmp_path, case):
    apply, parts = ERRORS[case]
    apply(source)
    with pytest.raises(UserError) as caught:
        celeba.prepare(source, tmp_path / "data")
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(tmp_path / "data") == []


@pytest.mark.parametrize("case", ["wrong checksum", "cut by two bytes", "gray"])
def test_allow_missing_lets_no_damage_pass(source, tmp_path, case):
    apply, parts = ERRORS[case]
    apply(source)
    with pytest.raises(UserError, match="damaged"):
        celeba.prepare(source, tmp_path, allow_missing=True)


def test_entries_are_refused_before_anything_is_read(source, tmp_path, monkeypatch):
    add_entry("../000007.jpg")(source)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(UserError, match="points outside"):
        celeba.prepare(source, tmp_path)


@pytest.mark.parametrize(
    ("count", "text"), [(3, "3 of 12 pictures"), (11, "10 or more of 12 pictures")]
)
def test_reports_the_first_damaged_pictures(source, tmp_path, count, text, monkeypatch):
    monkeypatch.setattr(celeba.CelebA, "per_file", 2)
    names = [f"{number:06}.jpg" for number in range(1, 13)]
    jpegs = dict.fromkeys(names[:count], JPEGS[NAMES[0]][:900])
    pack(source, dict.fromkeys(names, JPEGS[NAMES[0]]) | jpegs)
    bits = np.full(40, 1)
    write_table(source / ATTR, dict.fromkeys(names, bits), celeba.ATTRIBUTES)
    write_table(source / PART, {n: [i % 3] for i, n in enumerate(names)})
    with pytest.raises(UserError) as caught:
        celeba.prepare(source, tmp_path)
    assert text in str(caught.value)
    assert str(caught.value).count(".jpg' (") == min(count, 10)
    assert kept(tmp_path) == []


def test_paths_may_start_at_home(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = celeba.prepare(f"~/{source.name}", "~/data")
    assert folder == tmp_path / "data" / "celeb_a" / "2.1.0"
    assert folder.exists()


@pytest.mark.parametrize("name", ["nowhere", "nowhere/img_align_celeba.zip"])
def test_source_missing(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}', which does not exist.*{OFFICIAL}"):
        celeba.prepare(tmp_path / name, tmp_path)


def test_zip_path_wants_label_files_beside_it(source, tmp_path):
    (tmp_path / "alone").mkdir()
    path = (source / "img_align_celeba.zip").rename(tmp_path / "alone" / "faces.zip")
    with pytest.raises(UserError, match=f"faces.zip lacks {PART} .* beside it;"):
        celeba.prepare(path, tmp_path)


def test_data_dir_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot prepare .*file/celeb_a/2.1.0: .*irec"):
        celeba.prepare(source, tmp_path / "file")


def test_md5_that_is_not_official_is_told(source, tmp_path, capsys, monkeypatch):
    found = {path.name: celeba_files.md5(path) for path in source.iterdir()}
    official = celeba_files.OFFICIAL_MD5
    monkeypatch.setitem(official, PART, found[PART])
    celeba.prepare(source, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for name, line in zip((ATTR, "img_align_celeba.zip"), lines, strict=True):
        assert line.startswith(f"warning: {name} is not the official file")
        assert found[name] in line and official[name] in line


def test_second_run_does_nothing(source, tmp_path, capsys):
    folder = celeba.prepare(source, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    # The same pictures, unpacked.
    assert celeba.prepare(unpack(source), tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "holds these pictures already" in capsys.readouterr().out


def other_first_picture(folder):
    jpegs = {name: JPEGS[name] for name in NAMES[:5]}
    pack(folder, jpegs | {NAMES[0]: draw(99)})


@pytest.mark.parametrize("change", [subset(6), other_first_picture, add_options])
def test_other_pictures_or_labels_do_not_replace(source, tmp_path, change):
    subset(5)(source)
    folder = celeba.prepare(source, tmp_path, allow_missing=True)
    change(source)
    with pytest.raises(UserError) as caught:
        celeba.prepare(source, tmp_path, allow_missing=True)
    assert f"{folder} holds a celeb_a with 5 pictures" in str(caught.value)
    assert "delete that folder" in str(caught.value)
    assert len(stored_jpegs(tmp_path, "train")) == 3


@pytest.mark.parametrize("content", [None, "{}", "torn {"])
def test_strange_folder_in_the_place(source, tmp_path, content):
    folder = tmp_path / "celeb_a" / "2.1.0"
    folder.mkdir(parents=True)
    if content:
        (folder / "metadata.json").write_text(content)
    with pytest.raises(UserError, match=f"{folder} holds a celeb_a with unknown pict"):
        celeba.prepare(source, tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, RuntimeError])
def test_interruption_leaves_nothing(source, tmp_path, monkeypatch, error):
    seen = []

    def interrupt(jpeg):
        seen.append(jpeg)
        if len(seen) == 5:
            # Shards are being written at this point, and the place is still empty.
            (folder,) = kept(tmp_path)
            assert folder.startswith("incomplete.")
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(celeba_pictures, "damage", interrupt)
        with pytest.raises(error):
            celeba.prepare(source, tmp_path)
    assert kept(tmp_path) == []
    celeba.prepare(source, tmp_path)
    assert stored_jpegs(tmp_path, "test") == [JPEGS[NAMES[r]] for r in expected("test")]


KILLED = """
import os, signal, sys
from vae_jax.data import celeba, celeba_files, celeba_pictures
damage = celeba_pictures.damage
def kill(jpeg, seen=[]):
    seen.append(1)
    if len(seen) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return damage(jpeg)
celeba_pictures.damage = kill
celeba.prepare(sys.argv[1], sys.argv[2])
"""


def test_killed_run_leaves_nothing_that_is_taken_for_whole(source, tmp_path):
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path)]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (stale,) = kept(tmp_path)
    assert stale.startswith("incomplete.")
    celeba.prepare(source, tmp_path)
    assert kept(tmp_path) == ["2.1.0"]
    assert len(stored_jpegs(tmp_path, "train")) == 3


def test_two_runs_at_once(source, tmp_path):
    (tmp_path / "celeb_a").mkdir()
    (tmp_path / "celeb_a" / "incomplete.ABCDEF_2.1.0").mkdir()
    with storage.locked(tmp_path / "celeb_a.lock"):
        with pytest.raises(UserError, match=f"another run is preparing {tmp_path}"):
            celeba.prepare(source, tmp_path)
    assert kept(tmp_path) == ["incomplete.ABCDEF_2.1.0"]
    celeba.prepare(source, tmp_path)
    assert kept(tmp_path) == ["2.1.0"]


def test_default_data_dir_is_that_of_tfds(source, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "default"))
    folder = celeba.prepare(source)
    assert folder == tmp_path / "default" / "celeb_a" / "2.1.0"
    assert json.loads((folder / "metadata.json").read_text())["pictures"] == 6


def test_the_same_files_come_out_in_every_process(source, tmp_path):
    contents = []
    for seed in "12":
        code = (
            "import sys; from vae_jax.data import celeba; celeba.prepare(*sys.argv[1:])"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(source), str(tmp_path / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        folder = tmp_path / seed / "celeb_a" / "2.1.0"
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_the_info_says_what_is_there(source, tmp_path, monkeypatch):
    monkeypatch.setattr(celeba.CelebA, "per_file", 2)
    folder = celeba.prepare(source, tmp_path)
    splits = tfds.builder_from_directory(folder).info.splits
    assert splits["train"].shard_lengths == [2, 1]
    assert splits["test"].shard_lengths == [2]
    for split in splits.values():
        sizes = [os.path.getsize(path) for path in split.filepaths]
        assert split.num_bytes == sum(sizes) and len(sizes) == split.num_shards


def problem(jpeg):
    try:
        simplejpeg.decode_jpeg(jpeg, strict=True)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart": 4}])
def test_damage_is_what_a_decoder_of_all_pixels_finds(options):
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (28, 23, 3), np.uint8)
    kwargs = {"progressive": True} if "progressive" in options else {}
    if "restart" in options:
        kwargs["restart_marker_blocks"] = options["restart"]
    Image.fromarray(pixels).resize((178, 218)).save(file, "jpeg", **kwargs)
    whole = file.getvalue()
    start = whole.index(b"\xff\xda")
    found = 0
    for _ in range(400):
        data = bytearray(whole)
        for at in rng.integers(start, len(data), rng.integers(1, 4)):
            data[at] ^= 1 << rng.integers(8)
        if rng.random() < 0.2:
            del data[rng.integers(start, len(data)) :]
        expected = problem(bytes(data))
        found += expected is not None
        assert (celeba_pictures.damage(bytes(data)) is None) == (expected is None)
    assert found > 50


def test_nothing_else_is_left_in_the_data_dir(source, tmp_path, capsys):
    celeba.prepare(source, tmp_path / "data")
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert left == {"celeb_a", "celeb_a.lock"}
    assert capsys.readouterr().out == ""
