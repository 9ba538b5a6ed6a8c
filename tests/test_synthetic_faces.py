import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vae_jax.data import synthetic_faces
from vae_jax.data.faces import factors as face_factors
from vae_jax.data.faces import geometry, hair, jpegs
from vae_jax.data.synthetic_faces import (
    Factors,
    attributes,
    draw,
    factors_of,
    prepare,
    sample_factors,
)
from vae_jax.errors import UserError

NAMES = [field.name for field in dataclasses.fields(Factors)]
SIZES = {"train": 5, "validation": 2, "test": 3}
# What has to be there for a factor of it to show.
SHOWN_WITH = {"glasses_tone": {"glasses": 0.95}, "hat_hue": {"hat": 0.97}}
# Faces of CelebA, as this project crops them.
CROP = (slice(40, 188), slice(15, 163))
CELEBA = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips "
    "Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby "
    "Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin "
    "Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
).split()


def face(**changes) -> Factors:
    """A plain face that looks straight ahead, with some factors changed."""
    values = dict.fromkeys(NAMES, 0.5)
    values |= dict.fromkeys([*face_factors.POSE, *face_factors.SIGNED], 0.0)
    values |= {"hair_gray": 0.0, "skin_melanin": 0.2, **changes}
    return Factors(**values)


def ends(name: str) -> tuple[float, float]:
    if name in face_factors.POSE:
        bound = face_factors.POSE[name][1]
        return -bound, bound
    return (-1.0 if name in face_factors.SIGNED else 0.0), 1.0


def contrast(name: str) -> tuple[float, float]:
    """Two values of a factor that differ most; a hue comes round at its end."""
    return (0.0, 0.5) if name.endswith("hue") else ends(name)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    data_dir = tmp_path_factory.mktemp("faces")
    prepare(data_dir, SIZES)
    return data_dir


def test_a_face_is_an_rgb_picture_of_celebas_size():
    picture = draw(face())
    assert picture.shape == (218, 178, 3)
    assert picture.dtype == np.uint8
    assert picture.max() > 180 and picture.min() < 60


def test_the_same_factors_give_the_same_bytes_in_another_process():
    factors = factors_of("test", 3)
    first = draw(factors)
    draw(face(hat=0.99))
    np.testing.assert_array_equal(first, draw(factors))
    code = (
        "import sys; from vae_jax.data.synthetic_faces import draw, factors_of;"
        "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules;"
        "sys.stdout.buffer.write(draw(factors_of('test', 3)).tobytes())"
    )
    root = pathlib.Path(synthetic_faces.__file__).parents[2]
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True
    )
    assert other.stdout == first.tobytes()


def test_factors_are_independent_and_spread_as_stated():
    rng = np.random.default_rng(0)
    count = 4000
    drawn = np.array(
        [dataclasses.astuple(sample_factors(rng)) for _ in range(count)], np.float64
    )
    correlation = np.corrcoef(drawn, rowvar=False) - np.eye(len(NAMES))
    # Over about 1,200 pairs, 5 standard errors are never passed by chance.
    assert np.abs(correlation).max() < 5.0 / np.sqrt(count)
    for name, values in zip(NAMES, drawn.T, strict=True):
        low, high = ends(name)
        assert values.min() >= low and values.max() <= high, name
        if name in face_factors.POSE:
            deviation = face_factors.POSE[name][0]
            assert values.std() == pytest.approx(deviation, rel=0.05), name
        else:
            assert values.mean() == pytest.approx((low + high) / 2, abs=0.05), name
            assert values.std() == pytest.approx((high - low) / 12**0.5, rel=0.05), name


def test_factors_are_what_float32_can_hold():
    values = dataclasses.astuple(factors_of("train", 0))
    assert values == tuple(float(np.float32(value)) for value in values)


@pytest.mark.parametrize("name", NAMES)
def test_each_factor_changes_the_picture_where_it_is_cropped(name):
    shown = SHOWN_WITH.get(name, {})
    first, last = (draw(face(**{**shown, name: end})) for end in contrast(name))
    change = np.abs(first.astype(int) - last)
    if name.startswith("clothes"):
        assert change[195:].mean() > 3.0
        return
    # Not one stray pixel, but a patch at least the size of the irises.
    assert np.count_nonzero(change[CROP].max(axis=-1) > 12) > 60


@pytest.mark.parametrize(
    ("attribute", "name", "threshold", "above"),
    [
        ("Arched_Eyebrows", "brow_arch", 0.7, True),
        ("Bald", "hair_length", face_factors.BALD_BELOW, False),
        ("Bangs", "fringe", 0.7, True),
        ("Big_Lips", "lip_fullness", 0.7, True),
        ("Big_Nose", "nose_width", 0.75, True),
        ("Black_Hair", "hair_tone", 0.25, False),
        ("Blond_Hair", "hair_tone", 0.75, True),
        ("Brown_Hair", "hair_tone", 0.3, True),
        ("Brown_Hair", "hair_tone", 0.65, False),
        ("Bushy_Eyebrows", "brow_thickness", 0.75, True),
        ("Eyeglasses", "glasses", face_factors.GLASSES_FROM, True),
        ("Goatee", "beard", face_factors.BEARD_FROM, True),
        ("Gray_Hair", "hair_gray", face_factors.GRAY_FROM, True),
        ("Mustache", "mustache", face_factors.MUSTACHE_FROM, True),
        ("Narrow_Eyes", "eye_openness", 0.2, False),
        ("No_Beard", "beard", face_factors.BEARD_FROM, False),
        ("No_Beard", "mustache", face_factors.MUSTACHE_FROM, False),
        ("Pale_Skin", "skin_melanin", 0.08, False),
        ("Rosy_Cheeks", "blush", 0.85, True),
        ("Smiling", "mouth_curvature", face_factors.SMILE_FROM, True),
        ("Straight_Hair", "hair_wave", 0.3, False),
        ("Wavy_Hair", "hair_wave", 0.6, True),
        ("Wearing_Hat", "hat", face_factors.HAT_FROM, True),
        ("Wearing_Lipstick", "lip_redness", face_factors.LIPSTICK_FROM, True),
    ],
)
def test_attributes_turn_at_their_thresholds(attribute, name, threshold, above):
    over = attributes(face(**{name: threshold + 1e-3}))[attribute]
    under = attributes(face(**{name: threshold - 1e-3}))[attribute]
    assert (over, under) == (above, not above)


def test_attributes_are_celebas_and_true_bools():
    found = attributes(face())
    assert set(found) <= set(CELEBA)
    assert list(found) == sorted(found)
    assert all(type(value) is bool for value in found.values())


def test_attributes_of_hidden_and_missing_hair():
    bald = {"hair_length": 0.0}
    assert attributes(face(**bald, hair_gray=1.0))["Gray_Hair"] is False
    assert attributes(face(**bald, hair_tone=0.0))["Black_Hair"] is False
    assert attributes(face(**bald, hat=1.0))["Bald"] is False
    assert attributes(face(fringe=1.0, hat=1.0))["Bangs"] is False


def test_the_mouth_opens_by_opening_and_by_a_broad_smile():
    assert not attributes(face(mouth_curvature=0.2))["Mouth_Slightly_Open"]
    assert attributes(face(mouth_opening=0.8))["Mouth_Slightly_Open"]
    assert attributes(face(mouth_curvature=1.0))["Mouth_Slightly_Open"]


def test_every_attribute_occurs_and_none_is_constant():
    rng = np.random.default_rng(1)
    rows = [list(attributes(sample_factors(rng)).values()) for _ in range(2000)]
    rates = np.mean(rows, axis=0)
    assert rates.min() > 0.01 and rates.max() < 0.9


def lip_line(picture: np.ndarray, column: int) -> int:
    """The row of the darkest pixel across the mouth in a column."""
    return 138 + int(picture[138:168, column].sum(axis=-1).argmin())


def test_a_smile_lifts_the_corners_of_the_mouth_and_a_frown_drops_them():
    still = {"light_strength": 0.0, "lip_redness": 0.0, "mouth_width": 1.0}
    rises = []
    for curvature in (-1.0, -0.5, 0.0, 0.3):
        picture = draw(face(mouth_curvature=curvature, **still))
        corner = (lip_line(picture, 76) + lip_line(picture, 101)) / 2
        rises.append(lip_line(picture, 88) - corner)
    assert np.all(np.diff(rises) > 0.5), rises
    assert rises[0] <= -2.0 and rises[-1] >= 1.0, rises


def test_only_a_broad_smile_shows_teeth():
    rows, columns = slice(146, 160), slice(76, 102)
    neutral = draw(face(mouth_curvature=0.0))[rows, columns].astype(int)
    broad = draw(face(mouth_curvature=1.0))[rows, columns].astype(int)

    def whitish(part):
        return np.count_nonzero((part.min(axis=-1) > 150) & (np.ptp(part, -1) < 40))

    assert whitish(broad) > whitish(neutral) + 40


def test_eyes_lie_where_celeba_has_them():
    # Dark irises are the darkest thing in the upper face of a bald head.
    picture = draw(face(hair_length=0.0, iris=0.0, brow_thickness=0.0, gaze=0.0))
    dark = 255.0 - picture.mean(axis=-1)
    for column in (69, 108):
        part = dark[104:119, column - 9 : column + 10] - 150.0
        weight = np.maximum(part, 0.0)
        rows, columns = np.mgrid[104:119, column - 9 : column + 10]
        assert (weight * columns).sum() / weight.sum() == pytest.approx(column, abs=2)
        assert (weight * rows).sum() / weight.sum() == pytest.approx(111, abs=2)


def test_pipes_give_the_same_faces_in_the_same_order(monkeypatch):
    alone = list(jpegs.jpegs("validation", 5))
    monkeypatch.setattr(jpegs, "FEWEST_TO_SHARE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert list(jpegs.jpegs("validation", 5)) == alone
    assert len(set(alone)) == 5


def test_a_process_whose_reader_is_gone_ends_without_a_word():
    work = f"from {jpegs.__name__} import _write_jpegs; "
    work += "_write_jpegs('train', range(0, 10_000))"
    process = subprocess.Popen(
        [sys.executable, "-c", work], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert len(process.stdout.read(100)) == 100
    process.stdout.close()
    assert process.wait(timeout=60) and process.stderr.read() == b""
    process.stderr.close()


def test_a_process_that_dies_is_an_error(monkeypatch):
    monkeypatch.setattr(jpegs, "FEWEST_TO_SHARE", 0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="before face 0"):
        list(jpegs.jpegs("train", 4))


@pytest.mark.parametrize("split", SIZES)
def test_readers_get_back_what_was_drawn(prepared, split):
    source = tfds.data_source("synthetic_faces", split=split, data_dir=prepared)
    assert len(source) == SIZES[split]
    for index, example in enumerate(source):
        factors = factors_of(split, index)
        assert example["file_name"] == b"%06d.jpg" % (index + 1)
        assert {k: bool(v) for k, v in example["attributes"].items()} == attributes(
            factors
        )
        assert {k: float(v) for k, v in example["factors"].items()} == vars(factors)
        error = example["image"].astype(float) - draw(factors)
        assert np.sqrt(np.mean(error**2)) < 4.0


def test_the_folder_reads_without_the_class(prepared):
    builder = tfds.builder_from_directory(prepared / "synthetic_faces" / "1.0.0")
    assert type(builder) is not synthetic_faces.SyntheticFaces
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == SIZES
    assert builder.info.file_format.value == "array_record"


def test_no_two_splits_share_a_face():
    firsts = {factors_of(split, 0) for split in SIZES}
    assert len(firsts) == 3


def test_preparing_again_does_nothing(prepared, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in sorted(prepared.rglob("*"))}
    monkeypatch.setattr(synthetic_faces, "draw", None)
    folder = prepare(prepared, SIZES)
    assert folder == prepared / "synthetic_faces" / "1.0.0"
    assert {p: p.stat().st_mtime_ns for p in sorted(prepared.rglob("*"))} == before


def test_other_sizes_are_not_taken_for_the_default(prepared):
    with pytest.raises(UserError, match=r"'train': 5.*10000"):
        prepare(prepared)


def test_a_missing_file_is_named(tmp_path):
    folder = prepare(tmp_path, SIZES)
    (shard,) = folder.glob("*-test.array_record-*")
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        prepare(tmp_path, SIZES)


def test_an_interrupted_run_is_not_taken_for_whole(tmp_path, monkeypatch):
    whole, drawn = synthetic_faces.draw, []

    def stopping(factors):
        if len(drawn) == 6:
            raise KeyboardInterrupt
        drawn.append(factors)
        return whole(factors)

    with monkeypatch.context() as patch:
        patch.setattr(jpegs, "draw", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, SIZES)
    assert len(drawn) == 6
    assert not (tmp_path / "synthetic_faces" / "1.0.0").exists()
    folder = prepare(tmp_path, SIZES)
    assert len(tfds.builder_from_directory(folder).as_data_source("test")) == 3


def test_what_a_killed_run_left_is_cleared(tmp_path):
    left = tmp_path / "synthetic_faces" / "incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"half")
    prepare(tmp_path, SIZES)
    assert not left.exists()


def test_who_comes_second_waits_and_draws_nothing(tmp_path, monkeypatch, capfd):
    """The first run draws while the second one already waits for its lock."""
    threads, write = [], synthetic_faces.writing.write

    def started(builder):
        threads.append(threading.Thread(target=prepare, args=(tmp_path, SIZES)))
        threads[-1].start()
        write(builder)

    monkeypatch.setattr(synthetic_faces.writing, "write", started)
    folder = prepare(tmp_path, SIZES)
    (second,) = threads
    second.join(timeout=60)
    assert not second.is_alive() and len(threads) == 1
    assert capfd.readouterr().out.count("drawing") == 1
    assert [p.name for p in folder.parent.iterdir()] == ["1.0.0"]


def test_preparing_says_one_line_where_there_is_no_terminal(tmp_path, capfd):
    folder = prepare(tmp_path, SIZES)
    number = sum(SIZES.values())
    assert capfd.readouterr() == (f"drawing {number} faces into {folder}\n", "")
    prepare(tmp_path, SIZES)
    assert capfd.readouterr() == ("", "")


def test_preparing_leaves_nothing_among_temporary_files(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare(tmp_path, SIZES)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_faces_are_drawn_in_single_precision():
    # A stray double doubles the time of all that it touches.
    for index in range(20):
        look = hair.comb(geometry.pose(factors_of("train", index)))
        if look is not None:
            arrays = (look.colour, look.across, look.within)
            assert {a.dtype for a in arrays} == {np.dtype("float32")}
