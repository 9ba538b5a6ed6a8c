"""CelebA's files in the layouts in which people have them; all pictures are drawn."""

import io
import os
import shlex
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vae_jax.data import (
    cache,
    celeba,
    celeba_files,
    celeba_labels,
    celeba_layouts,
    celeba_pictures,
    folder,
)
from vae_jax.errors import UserError

COUNT = 40
NAMES = [f"{number:06}" for number in range(1, COUNT + 1)]
PARTITION = [0] * 30 + [1] * 5 + [2] * 5
rng = np.random.default_rng(0)
BITS = rng.choice([-1, 1], (COUNT, 40))
LANDMARKS = rng.integers(0, 178, (COUNT, 10))


def encode(kind, size=(178, 218)):
    pixels = rng.integers(0, 256, (8, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, kind)
    return file.getvalue()


JPEG, PNG, WEBP = encode("jpeg"), encode("png"), encode("webp")


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def text(rows, header=(), end=".jpg", newline="\n"):
    lines = [f"{n}{end}  {' '.join(map(str, row))}" for n, row in rows]
    if header:
        lines = [str(COUNT), " ".join(header) + " ", *lines]
    return newline.join([*lines, ""]).encode()


def csv(rows, header, end=".jpg", newline="\n", comma=","):
    lines = [comma.join(map(str, [f"{name}{end}", *row])) for name, row in rows]
    return newline.join([comma.join(["image_id", *header]), *lines, ""]).encode()


def rows(values):
    return list(zip(NAMES, values, strict=True))


PARTITION_ROWS = rows([[value] for value in PARTITION])
ATTRIBUTES, MARKS = celeba_files.ATTRIBUTES, celeba_files.LANDMARKS
TEXTS = {
    "list_attr_celeba.txt": text(rows(BITS), ATTRIBUTES),
    "list_eval_partition.txt": text(PARTITION_ROWS),
    "list_landmarks_align_celeba.txt": text(rows(LANDMARKS), MARKS),
}
IN_16_BITS = {name: file.decode().encode("utf-16-be") for name, file in TEXTS.items()}
CSVS = {
    "list_attr_celeba.csv": csv(rows(BITS), ATTRIBUTES),
    "list_eval_partition.csv": csv(PARTITION_ROWS, ["partition"]),
    "list_landmarks_align_celeba.csv": csv(rows(LANDMARKS), MARKS),
    "list_bbox_celeba.csv": b"image_id,x_1,y_1,width,height\n000001.jpg,95,71,226,9\n",
}
BOM = "\ufeff".encode()


def pictures(place, end=".jpg", content=JPEG, names=NAMES):
    return {f"{place}{name}{end}": content for name in names}


def under(place, files):
    return {f"{place}/{name}": content for name, content in files.items()}


KAGGLE = pictures("img_align_celeba/img_align_celeba/") | CSVS
GOOGLE = under("CelebA/Anno", TEXTS) | {
    "CelebA/Eval/list_eval_partition.txt": TEXTS["list_eval_partition.txt"],
    # Not cut to faces, under the same names.
    "CelebA/Img/img_celeba/000001.jpg": encode("jpeg", (90, 70)),
}
del GOOGLE["CelebA/Anno/list_eval_partition.txt"]
ZIP = zipped(pictures("img_align_celeba/"))
GOOGLE_ZIP = GOOGLE | {"CelebA/Img/img_align_celeba.zip": ZIP}
FOLDER = pictures("img_align_celeba/") | TEXTS
PNGS = pictures("img_align_celeba/", ".png", PNG)

# The files, and --source among them.
LAYOUTS = {
    "official": (TEXTS | {"img_align_celeba.zip": ZIP}, ""),
    "the zip": (
        TEXTS | {"img_align_celeba.zip": ZIP},
        "img_align_celeba.zip",
    ),
    "official, unpacked": (FOLDER, ""),
    "pictures' folder": (FOLDER, "img_align_celeba"),
    "torchvision": (under("celeba", FOLDER), ""),
    "flat": (TEXTS | pictures(""), ""),
    "Kaggle": (KAGGLE, ""),
    "Kaggle, above": (under("archive", KAGGLE), ""),
    "Kaggle, outer": (KAGGLE, "img_align_celeba"),
    "Kaggle, inner": (KAGGLE, "img_align_celeba/img_align_celeba"),
    "Kaggle, packed": ({"archive.zip": zipped(KAGGLE)}, "archive.zip"),
    "Kaggle, packed, above": ({"archive.zip": zipped(KAGGLE)}, ""),
    "Kaggle, renamed": ({"a b (1).ZIP": zipped(KAGGLE)}, "a b (1).ZIP"),
    "Kaggle beside its zip": (KAGGLE | {"archive.zip": b"cut"}, ""),
    "Google": (GOOGLE_ZIP, "CelebA"),
    "Google, above": (GOOGLE_ZIP, ""),
    "Google, Img": (GOOGLE_ZIP, "CelebA/Img"),
    "Google, the zip": (GOOGLE_ZIP, "CelebA/Img/img_align_celeba.zip"),
    "Google, unpacked": (GOOGLE | pictures("CelebA/Img/img_align_celeba/"), "CelebA"),
    "Google, PNG": (
        GOOGLE | pictures("CelebA/Img/img_align_celeba_png/", ".png", PNG),
        "CelebA",
    ),
    "PNG": (TEXTS | PNGS, ""),
    "PNG, packed": (TEXTS | {"img_align_celeba.zip": zipped(PNGS)}, ""),
    "PNG, named in the labels": (
        {
            "list_attr_celeba.txt": text(rows(BITS), ATTRIBUTES, ".png"),
            "list_eval_partition.txt": text(PARTITION_ROWS, end=".png"),
        }
        | PNGS,
        "",
    ),
    "PNG under the names of JPEG": (
        TEXTS | pictures("img_align_celeba/", content=PNG),
        "",
    ),
    "JPG": (TEXTS | pictures("img_align_celeba/", ".JPG"), ""),
    "jpeg, packed": (
        TEXTS | {"img_align_celeba.zip": zipped(pictures("x/y/", ".jpeg"))},
        "",
    ),
    "split by hand": (
        TEXTS
        | pictures("img_align_celeba/1/", names=NAMES[:7])
        | pictures("img_align_celeba/2/", names=NAMES[7:]),
        "",
    ),
    "from a spreadsheet": (
        pictures("img_align_celeba/")
        | {
            "list_attr_celeba.csv": BOM
            + csv(rows(BITS), map(str.upper, ATTRIBUTES), newline="\r\n", comma=" ; "),
            "list_eval_partition.csv": BOM
            + csv(PARTITION_ROWS, ["Partition"], newline="\r\n", comma='","')[:-2],
        },
        "",
    ),
    "marks and line ends of Windows": (
        pictures("img_align_celeba/")
        | {name: BOM + file.replace(b"\n", b"\r\n") for name, file in TEXTS.items()},
        "",
    ),
    "hidden and other files": (
        FOLDER
        | {
            "img_align_celeba/._000001.jpg": b"x",
            "img_align_celeba/Thumbs.db": b"x",
            ".git/000001.jpg": b"x",
            "__MACOSX/img_align_celeba/._000002.jpg": b"x",
        },
        "",
    ),
}


def lay(place, files):
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def test_layouts_are_taken_as_they_are(tmp_path):
    for number, (layout, (files, source)) in enumerate(LAYOUTS.items()):
        place = lay(tmp_path / f"{number}", files)
        with celeba_layouts.open_files(place / source) as (label_files, found):
            labels = celeba_labels.read_labels(label_files)
            celeba_pictures.check_names(labels, found, allow_missing=False)
            assert labels.names == [f"{name}.jpg" for name in NAMES], layout
            assert labels.partition.tolist() == PARTITION
            np.testing.assert_array_equal(labels.attributes, BITS > 0)
            if labels.landmarks is not None:
                np.testing.assert_array_equal(labels.landmarks, LANDMARKS)
            for name in (labels.names[0], labels.names[-1]):
                picture = found.read(found.files[name])
                assert len(picture) == found.sizes[name]
                assert picture in (JPEG, PNG), layout
                assert celeba_pictures.damage(picture) is None


def test_links_are_followed_and_one_that_leads_back_is_not(tmp_path):
    place = lay(tmp_path / "here", pictures("deep/"))
    os.symlink(place, place / "deep" / "back")
    os.symlink(place / "nowhere", place / "deep" / "000099.jpg")
    source = lay(tmp_path / "source", TEXTS)
    os.symlink(place, source / "img_align_celeba")
    with celeba_layouts.open_files(source) as (_, found):
        assert len(found.files) == COUNT


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "img_align_celeba.zip")
    with pytest.raises(UserError, match="^--source is .* allowed is a folder"):
        celeba.prepare(tmp_path / "img_align_celeba.zip", tmp_path / "data")
    os.mkfifo(tmp_path / "000002.jpg")
    lay(tmp_path, {"000001.jpg": JPEG})
    with celeba_pictures.open_pictures(tmp_path) as found:
        assert list(found.files) == ["000001.jpg"]


def test_png_is_stored_under_its_official_name_and_trains(tmp_path):
    png = {f"img_align_celeba/{name}.png": encode("png") for name in NAMES}
    source = lay(tmp_path / "source", CSVS | png)
    prepared = celeba.prepare(source, tmp_path / "data")
    first = tfds.builder_from_directory(prepared).as_data_source("train")[0]
    assert first["file_name"] == b"000001.jpg"
    pixels = np.asarray(Image.open(io.BytesIO(png["img_align_celeba/000001.png"])))
    np.testing.assert_array_equal(first["image"], pixels)
    dataset = cache.load("celeb_a", tmp_path / "data", size=8)
    np.testing.assert_array_equal(dataset.splits["test"].attributes, BITS[35:] > 0)
    metadata = tfds.builder_from_directory(prepared).info.metadata
    assert "list_attr_celeba.csv" in metadata["sources_md5"]


# The files, --source among them, and what is said.
REFUSED = {
    "UTF-16": (
        FOLDER | {name: b"\xfe\xff" + file for name, file in IN_16_BITS.items()},
        "",
        ["list_eval_partition.txt is UTF-16, or no text; save it as UTF-8"],
    ),
    "UTF-16 without its mark": (
        FOLDER | IN_16_BITS,
        "",
        ["list_eval_partition.txt is UTF-16"],
    ),
    "names that look alike": (
        FOLDER
        | {
            "list_eval_partition.txt": TEXTS["list_eval_partition.txt"].replace(
                b"000003", "00000\u0417".encode()
            )
        },
        "",
        ["('000003.jpg'), 1 only in the latter ('00000\\u0417.jpg')"],
    ),
    "several faults": (
        KAGGLE
        | {
            "list_attr_celeba.csv": csv(
                rows([[7] * (40 if i % 2 else 39) for i in range(COUNT)]),
                [*ATTRIBUTES[1:], "Old"],
            )
        },
        "",
        ["line 1, the header: 1 column(s) ('Old') to remove; line 1, the header: 1 "]
        + ["('5_o_Clock_Shadow') are missing; line 2: got", "; and 32 more"],
    ),
    "an index of pandas": (
        KAGGLE
        | {
            "list_eval_partition.csv": b",image_id,partition\n"
            + b"".join(b"%d,000001.jpg,0\n" % i for i in range(3))
        },
        "",
        ["list_eval_partition.csv: line 2: got '000001.jpg' for '0', expected 1"],
    ),
    "columns in another order": (
        KAGGLE | {"list_attr_celeba.csv": csv(rows(BITS), ATTRIBUTES[::-1])},
        "",
        ["line 1, the header: column 2 is 'Young', expected '5_o_Clock_Shadow'"],
    ),
    "webp": (
        TEXTS | pictures("img_align_celeba/", ".webp", WEBP),
        "",
        [
            "lacks img_align_celeba.zip (or, unp",
            "passed over: 40 .webp file(s); ",
            "TRAIN",
        ],
    ),
    "an incomplete zip beside the folder": (
        FOLDER | {"img_align_celeba.zip": zipped(pictures("", names=NAMES[3:]))},
        "",
        [
            "3 of the 40",
            "('000001.jpg', ",
            "; passed over: ",
            "/img_align_celeba; comp",
        ],
    ),
    "the first of them": (
        TEXTS | pictures("img_align_celeba/", names=NAMES[:30]),
        "",
        ["10 of the 40 ", "validation has 0 of 5 pictures, 000031 to 000035"]
        + [", test has 0 of 5 pictures, 000036 to 000040", "TRAIN"],
    ),
    "too few to train on as they are": (
        TEXTS | pictures("img_align_celeba/", names=NAMES[:2]),
        "",
        ["test has 0 of 5 pictures, 000036 to 000040"],
    ),
    "labels twice in a zip": (
        {"archive.zip": zipped(under("a", KAGGLE) | under("b", CSVS))},
        "archive.zip",
        ["holds 'a/list_eval_partition.csv' as well as 'b/list_eval_partition.csv'"],
    ),
    "a split that is not listed": (
        FOLDER | {"list_eval_partition.txt": text(rows([[0]] * COUNT))},
        "",
        ["list_eval_partition.txt lists no picture of split validation"],
    ),
    "twice": (
        FOLDER | {"img_align_celeba/more/000003.PNG": PNG},
        "",
        ["'000003.jpg' is there twice, as '000003.jpg' and as 'more/000003.PNG'"],
    ),
    "two copies": (
        under("a", FOLDER) | under("b", FOLDER),
        "",
        [
            "which holds ",
            "/a/img_align_celeba as well as ",
            "/b/img_align_celeba; give",
        ],
    ),
    "empty": ({"file": b""}, "nothing", ["holds no files in it and two folders deep"]),
    "other pictures": (
        {f"faces/a{name}.png": PNG for name in NAMES},
        "faces",
        ["faces lacks list_eval_partition.txt (or .csv), list_attr_celeba", "TRAIN"],
    ),
    "other pictures in a zip": (
        {"it's.zip": zipped(pictures(""))},
        "it's.zip",
        ["lacks list_eval_partition.txt (or .csv)", "beside it", "TRAIN"],
    ),
    "other pictures with CelebA's labels": (
        TEXTS | {f"x{name}.jpg": JPEG for name in NAMES},
        "",
        ["holds 40 picture(s) ('x000001.jpg', ", "not among the 40 ", "TRAIN"],
    ),
    "pictures alone": (
        pictures("a/"),
        "a",
        ["partition.txt (or .csv), list_attr_celeba.txt (or .csv) in it and", "TRAIN"],
    ),
    "a label file": (FOLDER, "list_attr_celeba.txt", ["allowed is a folder with "]),
    "packed otherwise": (
        TEXTS | {"img align.tar.gz": b"x"},
        "img align.tar.gz",
        ["allowed is a folder", "; unpack img align.tar.gz: tar -xf '", "' -C '"],
    ),
    "packed within": (
        TEXTS | {"Img/img_align_celeba_png.7z/img_align_celeba_png.7z.001": b"x"},
        "",
        [
            "; unpack img_align_celeba_png.7z.001: 7z x '",
            "Img/img_align_celeba_png.7z' ",
        ],
    ),
    "packed twice": (
        {"CelebA-1.zip": zipped(TEXTS | {"CelebA/Img/img_align_celeba.zip": ZIP})},
        "CelebA-1.zip",
        ["; unpack img_align_celeba.zip: python -m zipfile -e '", "/CelebA-1.zip' "],
    ),
    "an address": ({}, None, ["--source is 'gs://celeba'; allowed is a path on this"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_and_nothing_is_written(case, tmp_path):
    files, source, parts = REFUSED[case]
    place = lay(tmp_path / "a place", files)
    (place / "nothing").mkdir(parents=True)
    source = "gs://celeba" if source is None else place / source
    with pytest.raises(UserError) as caught:
        celeba.prepare(source, tmp_path / "data", allow_missing="zip" not in case)
    said = str(caught.value)
    assert "\n" not in said
    assert not (tmp_path / "data").exists()
    command = said.partition("to train on these pictures without labels: ")[2]
    assert bool(command) == ("TRAIN" in parts), said
    for part in parts:
        assert part == "TRAIN" or part in said, said
    if command:
        assert shlex.split(command)[3:5] == [
            "--config=configs/vae.py",
            "--config.dataset.name=folder",
        ]
        data_dir = shlex.split(command)[5].removeprefix("--config.dataset.data_dir=")
        assert len(shlex.split(command)) == 6
        # What the command does before it trains.
        assert folder.prepare(data_dir, tmp_path / "folders").exists()


@pytest.mark.parametrize(
    "data_dir",
    [
        ".",
        "img_align_celeba",
        "img_align_celeba/new",
        "link",
        "others",
        "gs://place",
        "",
    ],
)
def test_nothing_is_written_among_pictures(data_dir, tmp_path):
    place = lay(tmp_path, FOLDER | {"others/a.png": PNG})
    os.symlink(place / "img_align_celeba", place / "link")
    before = sorted(place.rglob("*"))
    given = data_dir if "://" in data_dir or not data_dir else place / data_dir
    with pytest.raises(UserError, match="^--data_dir is '"):
        celeba.prepare(place, given)
    assert sorted(place.rglob("*")) == before


def test_the_official_ranges_come_from_the_partition_file(tmp_path):
    # As long as the official one, with a picture of each split but the last.
    numbers = np.arange(1, 202600)
    names = [f"{number:06}.jpg" for number in numbers]
    labels = celeba_labels.Labels(
        names=names,
        partition=np.searchsorted([162770, 182637], numbers, side="left"),
        attributes=np.zeros((len(names), 40), bool),
        landmarks=None,
        identity=None,
        listed_in="list_eval_partition.txt",
        md5={},
    )
    lay(tmp_path, {"000001.jpg": JPEG, "162771.jpg": JPEG})
    with celeba_pictures.open_pictures(tmp_path) as found:
        with pytest.raises(UserError) as caught:
            celeba_pictures.check_names(labels, found, allow_missing=True)
    assert "test has 0 of 19962 pictures, 182638 to 202599" in str(caught.value)
    assert "validation" not in str(caught.value)
