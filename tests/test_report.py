import base64
import errno
import io
import json
import os
import shutil
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.test_checkpoint import files_of_at_most
from vae_jax.errors import UserError
from vae_jax.report import grids, plots, tables
from vae_jax.report.writer import Writer, read_lines

LINES = [{"step": 1, "split": "train", "loss": 1.0}]


def write(workdir, steps, start=0, **kwargs):
    with Writer(workdir, start, **kwargs) as writer:
        for step in steps:
            writer.write_metrics(step, step / 8, "train", {"loss": 1 / 3 + step})
            writer.write_timing(step, 100.0)


def test_lines_hold_every_digit(tmp_path):
    write(tmp_path, [1])
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line == {"step": 1, "epoch": 0.125, "split": "train", "loss": 1 / 3 + 1}
    assert list(line) == ["step", "epoch", "split", "loss"]


def test_whoever_watches_sees_each_line_of_metrics_once_it_can_be_read(tmp_path):
    seen = []

    def watch(line):
        seen.append(line)
        assert read_lines(tmp_path / "metrics.jsonl") == seen

    write(tmp_path, [1, 2], size=16, on_line=watch)
    assert [(line["step"], line["size"]) for line in seen] == [(1, 16), (2, 16)]
    write(tmp_path, [3], start=2, muted=True, on_line=watch)
    assert len(seen) == 2


def test_resuming_drops_what_will_be_written_again(tmp_path):
    write(tmp_path / ".", [10, 20, 30])
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 40, "spl')
    write(tmp_path, [20, 30], start=10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    assert [x["step"] for x in read_lines(tmp_path / "timing.jsonl")] == [10, 20, 30]


def test_a_torn_last_line_is_left_out_even_if_it_reads_as_json(tmp_path):
    path = tmp_path / "timing.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert read_lines(path) == [{"step": 1}]


def test_a_line_damaged_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = b'{"step": 1, "split": "train"}'
    # Some are no JSON, and some no line of a log.
    none = (b'{"step": \x00}', b'{"st\xffep": 2}', b"")
    for damaged in (*none, b"5", b'{"step": 2}', b'{"split": "train"}'):
        path.write_bytes(b"\n".join([line, damaged, line, b""]))
        with pytest.raises(UserError, match=r"metrics\.jsonl is damaged in line 2"):
            read_lines(path)


class Full(io.StringIO):
    """A file on a full disk."""

    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("method", ["flush", "to_disk"])
def test_a_full_disk_is_one_error_that_names_the_workdir(tmp_path, monkeypatch, method):
    write(tmp_path, [1])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with Writer(tmp_path, 1) as writer:
        writer.write_metrics(2, 0.1, "train", {"loss": 1.0})
        monkeypatch.setitem(writer._logs, "metrics", Full())
        with pytest.raises(UserError) as error:
            getattr(writer, method)()
    assert str(error.value).startswith(f"cannot write {tmp_path}: No space left on dev")
    monkeypatch.undo()
    write(tmp_path, [], start=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_metrics_do_not_depend_on_speed(tmp_path):
    for name, speed in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        with Writer(tmp_path / name, 0) as writer:
            writer.write_metrics(1, 0.1, "train", {"loss": 1.0})
            writer.write_timing(1, speed)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("a", "b")]
    assert logs[0] == logs[1]


def test_tensorboard_gets_the_same_scalars(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    write(tmp_path, [3, 6], start=2, tensorboard=True)
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    content, events = path.read_bytes(), []
    while content:
        size, checksum = struct.unpack("<QI", content[:12])
        event, content = content[12 : 12 + size], content[12 + size :]
        assert checksum == masked_crc32c(struct.pack("<Q", size))
        assert struct.unpack("<I", content[:4]) == (masked_crc32c(event),)
        events.append(event_pb2.Event.FromString(event))
        content = content[4:]
    assert events[0].file_version == "brain.Event:2"
    assert events[1].step == 3 and events[1].session_log.status == 1
    assert [
        (event.step, value.tag, value.simple_value)
        for event in events[2:]
        for value in event.summary.value
    ] == [
        (step, tag, np.float32(value))
        for step in (3, 6)
        for tag, value in (
            ("train/loss", 1 / 3 + step),
            ("timing/images_per_second", 100.0),
        )
    ]


# Of what is left in the buffers of files that cannot take it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("limit", "flushed"), [(100, True), (9_000, True), (9_000, False)]
)
def test_a_full_disk_in_an_event_file_is_one_error_and_no_thread(
    tmp_path, limit, flushed
):
    pytest.importorskip("tensorboardX")
    write(tmp_path, [1], tensorboard=True)
    logs = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "tensorboard")
    threads = threading.active_count()
    with pytest.raises(UserError), files_of_at_most(limit):
        with Writer(tmp_path, 1, tensorboard=True) as writer:
            assert threading.active_count() == threads
            # Closing, which fails as well, must not be what tells it.
            with pytest.raises(UserError) as error:
                for step in range(2, 400):
                    writer._scalars(step, "train", {"loss": 1.0})
                    if flushed:
                        writer.flush()
    assert str(error.value).startswith(f"cannot write {tmp_path}")
    assert "File too large" in str(error.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == logs
    write(tmp_path, [], start=1, tensorboard=True)


def test_tensorboard_absent_is_answered_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"vae_jax\[tensorboard\]"):
        Writer(tmp_path, 0, tensorboard=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_each_image_in_its_cell(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.2, 1.2, (2, 3, 4, 5, channels)).astype(np.float32)
    grids.image_grid(images, tmp_path / "grid.png", scale=3)
    with Image.open(tmp_path / "grid.png") as picture:
        drawn = np.asarray(picture, float)
    margin, height, width = grids.MARGIN, 12, 15
    assert drawn.shape[:2] == (
        2 * (height + margin) + margin,
        3 * (width + margin) + margin,
    )
    top, left = margin + height + margin, margin + 2 * (width + margin)
    cell = drawn[top : top + height : 3, left : left + width : 3].reshape(
        4, 5, channels
    )
    np.testing.assert_allclose(cell, 255 * np.clip(images[1, 2], 0, 1), atol=0.51)
    assert (drawn[:margin] == 255).all()


@pytest.mark.parametrize("size", [16, 64, 128, 256])
def test_what_a_screen_has_room_for_fits_it_with_its_words(tmp_path, size):
    rows, columns = grids.room(size)
    groups = 3 if columns % 3 == 0 else 1
    images = np.zeros((rows, columns, size, size, 1), np.float32)
    bar = grids.Bar("standard deviation", "0", "0.2 or more")
    grids.image_grid(
        images,
        tmp_path / "grid.png",
        columns=["a heading that is much too long for a single column"] * columns,
        caption=["One line.", "And another."],
        groups=groups,
        bars=[bar],
    )
    with Image.open(tmp_path / "grid.png") as picture:
        width, height = picture.size
        drawn = np.asarray(picture)
    assert width <= 1200 and height <= 900
    assert width > 1000 and height > 700
    # Headings stand above their columns, and the gaps between groups are white.
    last = grids.MARGIN + columns // groups * (grids._cap(size) * size + grids.MARGIN)
    if groups > 1:
        assert (drawn[:, last : last + grids.GAP - 2][grids.LINE : 700] == 255).all()
    # The bar goes from dark to bright.
    below = drawn[-3 * grids.LINE :].astype(int).sum(axis=-1)
    assert below.min() < 30


@pytest.mark.parametrize("channels", [1, 3])
def test_words_of_a_vector_picture_are_words_and_its_images_are_exact(
    tmp_path, channels
):
    images = np.random.default_rng(0).random((2, 3, 8, 8, channels), np.float32)
    words = {
        "columns": ["first", "$2 & more", "third"],
        "rows": ["<a>", "b"],
        "caption": ["It cost $5."],
    }
    for name in ("grid.png", "grid.svg", "again.svg", "grid.pdf", "again.pdf"):
        grids.image_grid(images, tmp_path / name, **words)
    for suffix in ("svg", "pdf"):
        # Equal pictures are equal files: nothing in them says when they were made.
        one, two = (tmp_path / f"{name}.{suffix}" for name in ("grid", "again"))
        assert one.read_bytes() == two.read_bytes()
    tree = ElementTree.parse(tmp_path / "grid.svg")
    told = {each.text for each in tree.findall(".//{*}text")}
    assert told == {"first", "$2 & more", "third", "<a>", "b", "It cost $5."}
    (embedded,) = tree.findall(".//{*}image")
    (address,) = (v for k, v in embedded.attrib.items() if k.endswith("href"))
    held = Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2])))
    mode = "L" if channels == 1 else "RGB"
    with Image.open(tmp_path / "grid.png") as picture:
        drawn = np.asarray(picture.convert(mode)).astype(int)
    assert "scale(1 -1)" in embedded.get("transform", "")
    held = np.asarray(held.convert(mode)).astype(int)[::-1]
    # The last column, and of it nothing is smoothed; names of rows may be wider.
    scale = grids._cap(8)
    last = [
        picture[grids.LINE :, -scale * 8 - grids.MARGIN :][: scale * 16]
        for picture in (held, drawn)
    ]
    np.testing.assert_array_equal(*last)
    for width in range(90, 130):
        levels = np.zeros((12, width), np.uint8)
        grids._save_with_words(levels, None, (), tmp_path / "plain.svg")
        (whole,) = ElementTree.parse(tmp_path / "plain.svg").findall(".//{*}image")
        assert float(whole.get("width")) == width * 72 / grids.DOTS
    pdf = (tmp_path / "grid.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"dc:date" not in pdf
    # Letters are those of a font that a reader has words of, not curves.
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert b"/Width %d" % held.shape[1] in pdf and b"/Height %d" % len(held) in pdf


def test_vector_pictures_do_not_depend_on_a_users_matplotlib(tmp_path):
    import matplotlib

    images = np.zeros((1, 2, 8, 8, 1), np.float32)

    def drawn(name):
        grids.image_grid(images, tmp_path / name, columns=["a_$1", "b"], rows=["c"])
        return (tmp_path / name).read_bytes()

    usual = {suffix: drawn(f"usual.{suffix}") for suffix in ("svg", "pdf")}
    own = {
        "savefig.bbox": "tight",
        "text.usetex": True,
        "text.color": "white",
        "font.family": "serif",
        "svg.fonttype": "path",
        "pdf.fonttype": 3,
    }
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        for suffix, expected in usual.items():
            assert drawn(f"own.{suffix}") == expected
        assert dict(matplotlib.rcParams) == before


def test_threads_that_draw_leave_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    images = np.zeros((1, 1, 8, 8, 1), np.float32)

    def draw(number):
        suffix = ("svg", "pdf")[number % 2]
        path = tmp_path / f"{number}.{suffix}"
        grids.image_grid(images, path, caption=[str(number)])

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(draw, range(24))]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_words_that_are_none_are_written_out(tmp_path, suffix):
    caption = "runs/\udcff\x1b $x^$ of <me>"
    images = np.zeros((1, 4, 64, 64, 1), np.float32)
    grids.image_grid(images, tmp_path / f"grid.{suffix}", caption=[caption])
    plots.loss_curves(LINES, tmp_path / f"curves.{suffix}", [caption])
    if suffix == "svg":
        for name in ("grid", "curves"):
            tree = ElementTree.parse(tmp_path / f"{name}.svg")
            told = {each.text for each in tree.findall(".//{*}text")}
            assert r"runs/\udcff\x1b $x^$ of <me>" in told


def test_no_line_of_a_vector_picture_is_wider_than_it(tmp_path):
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    words = "--alpha=-3,-2.5,-2,-1.5 --estimator=held --seeds=1,2,3,4 mmmm WWWW " * 6
    images = np.zeros((1, 3, 64, 64, 1), np.float32)
    bar = grids.Bar("standard deviation of a pixel " * 3, "0", "0.2 or more")
    grids.image_grid(images, tmp_path / "grid.svg", caption=[words], bars=[bar])
    plots.loss_curves(LINES, tmp_path / "curves.svg", [words, "The last line."])
    of_grid = grids.VECTOR_FONT_SIZE * 72 / grids.DOTS
    for name, size, family in (
        ("grid", of_grid, grids.VECTOR_FONT),
        ("curves", 9, "DejaVu Sans"),
    ):
        tree = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        width = float(tree.get("viewBox").split()[2])
        font = FontProperties(family=family)
        lines = [each.text for each in tree.findall(".//{*}text")]
        assert len([line for line in lines if "--seeds" in line]) > 2
        for line in lines:
            room = width
            if "deviation" in line:
                # It stands beside the colours.
                room -= grids.BAR[0] * 72 / grids.DOTS
            assert TextPath((0, 0), line, size, prop=font).get_extents().x1 < room
    assert "The last line." in lines


def test_curves_as_a_vector_picture_have_words(tmp_path):
    lines = [{"step": s, "split": "train", "elbo": -1.0 * s} for s in (1, 2)]
    plots.loss_curves(lines, tmp_path / "curves.svg", ["What is seen."])
    told = [
        each.text
        for each in ElementTree.parse(tmp_path / "curves.svg").findall(".//{*}text")
    ]
    assert {"elbo", "What is seen."} <= {*told}


def test_colours_of_deviations_rise_from_black():
    values = np.linspace(0, 2, 50, dtype=np.float32).reshape(1, 50, 1)
    colours = grids.heat(values.repeat(3, axis=-1), 1.0)
    assert colours.shape == (1, 50, 3) and colours[0, 0].max() < 0.02
    brightness = colours[0].sum(axis=-1)
    assert (np.diff(brightness[:25]) > 0).all()
    # What is above the largest looks as it does.
    assert np.ptp(brightness[25:]) == 0


def test_curves_are_drawn_for_every_metric(tmp_path):
    lines = [
        {"step": s, "epoch": 0.0, "split": split, "loss": 9.0 - s, "mse": 0.1}
        for s in (1, 2, 3)
        for split in ("train", "validation")
    ]
    plots.loss_curves(lines, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        width, height = picture.size
    assert 1.2 < width / height < 3
    many = [line | {f"metric {n}": 1.0 for n in range(10)} for line in lines]
    plots.loss_curves(many, tmp_path / "many.png", ["What is seen."])
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.size[0] <= 1200 and picture.size[1] <= 900
    plots.loss_curves([json.loads(json.dumps(lines[0]))], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6, -4e9])
def test_a_metric_that_never_changes_has_room_on_both_sides(value):
    low, high = plots.limits([{"elbo": value}] * 20, "elbo")
    assert np.float32(low) < np.float32(value) < np.float32(high)


def test_curves_pass_over_what_is_no_number_or_not_there(tmp_path):
    lines = [
        {"step": 1, "epoch": 0.0, "split": "train", "skipped": 50},
        {"step": 2, "epoch": 0.0, "split": "train", "loss": 2.0, "skipped": 0},
        {"step": 2, "epoch": 0.0, "split": "validation", "loss": float("nan")},
    ]
    for several in (lines, lines[2:]):
        plots.loss_curves(several, tmp_path / "curves.png")


def test_sharpness_is_a_table_of_its_own():
    of_reconstructions = {
        "sharpness": 0.291234,
        "bands": {"0-1/8": 0.99996, "1/2-1": None},
        "border_ratio": 1.2,
        "psnr": 21.51234,
    }
    of_pictures = of_reconstructions | {"sharpness": None, "border_ratio": None}
    del of_pictures["psnr"]
    report = {"validation": {}, "test": {}} | {
        "sharpness": {
            "num_images": 6,
            "reconstructions": of_reconstructions,
            "training_pictures": of_pictures,
        }
    }
    *_, table = tables.evaluation_table(report).split("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["sharpness", "reconstructions", "training_pictures"]
    assert rows[2:] == [
        ["sharpness", "0.2912"],
        ["amplitude,", "0-1/8", "1", "1"],
        ["border_ratio", "1.2"],
        ["psnr", "21.5123"],
    ]


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: grids.image_grid(np.zeros((1, 1, 4, 4, 1)), path),
        lambda path: grids.image_grid(
            np.zeros((1, 1, 4, 4, 1)), path.with_suffix(".pdf")
        ),
        lambda path: plots.animation(np.zeros((2, 4, 4, 1)), path.with_suffix(".gif")),
        lambda path: plots.loss_curves(LINES, path),
        lambda path: grids.single_images(np.zeros((2, 4, 4, 1)), path.parent),
    ],
)
def test_a_picture_that_cannot_be_written_is_one_error(tmp_path, draw):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    with pytest.raises(UserError, match=f"cannot write {in_the_way}"):
        draw(in_the_way / "picture.png")


def test_curves_of_images_of_different_sizes_are_apart():
    lines = [
        {"step": 1, "split": "train", "size": 16, "elbo": -1.0},
        {"step": 1, "split": "validation", "size": 16, "elbo": -2.0},
        {"step": 2, "split": "train", "size": 32, "elbo": -4.0},
        {"step": 3, "split": "train", "size": 32, "elbo": float("nan")},
    ]
    found = plots.curves(lines, "elbo")
    assert found == {
        ("train", 16): [(1, -1.0)],
        ("train", 32): [(2, -4.0)],
        ("validation", 16): [(1, -2.0)],
    }
    assert plots.legend("train", 16) == "training, 16 pixels"
    assert plots.logged_metrics(lines) == ["elbo"]
