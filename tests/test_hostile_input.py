"""Whatever bytes and flags come: a result, or one line that says what is wrong.

And nothing is executed, unpacked beyond bounds, or written elsewhere.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import pickle
import shutil
import struct
import sys
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from absl.testing import flagsaver
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags
from PIL import Image

from vae_jax import config as config_lib
from vae_jax import main
from vae_jax.command_line import parse_flags
from vae_jax.data import (
    attribute_file,
    cache,
    celeba_files,
    celeba_labels,
    celeba_pictures,
    folder,
    folder_files,
    zips,
)
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError
from vae_jax.settings import SETTINGS
from vae_jax.training import step as step_lib
from vae_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = {"crop": "centre", "channels": 1, "size": 8, "resampler": "bilinear"}


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw, *whole):
    """One of some files with bytes changed, put in, taken out, and its end cut off."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@contextlib.contextmanager
def one_line():
    """Lets pass a UserError of one line, and nothing else."""
    try:
        yield
    except UserError as error:
        assert str(error) and "\n" not in str(error)


NAMES = [f"{number:06}.jpg" for number in (1, 2, 3)]


def table(columns, value):
    header = f"{len(NAMES)}\n{' '.join(columns)}\n" if columns else ""
    row = " ".join([value] * max(1, len(columns)))
    return (header + "".join(f"{name} {row}\n" for name in NAMES)).encode()


LABELS = {
    celeba_files.PARTITION_FILE: table((), "1"),
    celeba_files.ATTRIBUTE_FILE: table(celeba_files.ATTRIBUTES, "-1"),
    celeba_files.LANDMARK_FILE: table(celeba_files.LANDMARKS, "70"),
    celeba_files.IDENTITY_FILE: table((), "9295"),
}


ROWS = [",".join([name] + 40 * ["-1"]) for name in NAMES]
HEADED = ["image_id", *celeba_files.ATTRIBUTES]
KAGGLES = {"list_attr_celeba.csv": "\n".join([",".join(HEADED), *ROWS]).encode()}


@pytest.mark.parametrize("name", [*LABELS, *KAGGLES])
def test_label_files_of_any_bytes(name):
    contents = {**LABELS, **KAGGLES}

    def read():
        files = {each: label_file(each, contents[each]) for each in LABELS}
        if name in KAGGLES:
            files[celeba_files.ATTRIBUTE_FILE] = label_file(name, contents[name])
        return celeba_labels.read_labels(files)

    assert read().names == NAMES
    words = st.sampled_from([b" ", b"\n", b"-1", b"3", b"000002.jpg", b"\xff", b"\0"])

    @fuzz(60)
    @given(damaged(contents[name]) | st.lists(words).map(b"".join))
    def check(content):
        contents[name] = content
        with one_line():
            assert len(read().names) > 0

    check()


def label_file(name, content):
    return celeba_labels.LabelFile(name, name, lambda: content)


def encode(kind, size=(12, 10), mode="RGB"):
    levels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(file, kind)
    return file.getvalue()


PICTURES = [
    encode("JPEG", (178, 218)),
    encode("JPEG"),
    encode("PNG"),
    encode("PNG", mode="P"),
    encode("WEBP"),
    encode("BMP"),
    encode("GIF"),
    encode("TIFF"),
]
CSV = b"file_name,Smiling,Male\na.jpg,1,0\nb/c.png,-1,true\n"


def source_of(file):
    return folder_files.Source(pathlib.Path("p"), {"a": (0, 0)}, lambda name: file)


def test_pictures_of_any_bytes(tmp_path):
    @fuzz(150)
    @given(damaged(*PICTURES))
    def check(file):
        celeba_pictures.damage(file)
        _, stored, problem = folder_files.read_picture(source_of(file), "a")
        assert bool(stored) != bool(problem)
        (tmp_path / "picture").write_bytes(file)
        with one_line():
            found = read_pictures([str(tmp_path / "picture")], RECIPE)
            assert found.shape == (1, 8, 8, 1)

    check()


def pack(files, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


ZIPPED = {"a.jpg": PICTURES[1], "b/c.png": PICTURES[2], "attributes.csv": CSV}


def test_zips_of_any_bytes(tmp_path):
    path = tmp_path / "pictures.zip"
    whole = [pack(ZIPPED), pack(ZIPPED, zipfile.ZIP_STORED), pack({"ü.jpg": b"x"})]
    # Where a zip says what is in it.
    tails = [data[data.index(b"PK\x01\x02") :] for data in whole]

    @st.composite
    def damaged_tails(draw):
        index = draw(st.integers(0, len(whole) - 1))
        return whole[index][: -len(tails[index])] + draw(damaged(tails[index]))

    @fuzz(200)
    @given(damaged(*whole) | damaged_tails())
    def check(content):
        path.write_bytes(content)
        with one_line(), celeba_pictures.open_pictures(path) as pictures:
            for name in (*pictures.files.values(), *pictures.others):
                with contextlib.suppress(*zips.UNREADABLE):
                    pictures.read(name)
        with one_line(), folder_files.open_source(path) as source:
            for name in source.names:
                folder_files.read_picture(source, name)
            attribute_file.read_attributes(source)

    check()


def test_a_name_in_a_zip_that_is_no_utf_8_is_refused(tmp_path):
    path = tmp_path / "pictures.zip"
    path.write_bytes(pack({"ü.jpg": b"x"}).replace("ü".encode(), b"\xff\xff"))
    for reader in (celeba_pictures.open_pictures, folder_files.open_source):
        with pytest.raises(UserError, match="no whole zip"), reader(path):
            pass


def claiming(size, files):
    """A zip whose directory says that its first entry has a size, in bytes."""
    data = bytearray(pack(files))
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", size)
    return bytes(data)


READERS = [celeba_pictures.open_pictures, folder_files.open_source]


@pytest.mark.parametrize("reader", READERS)
def test_a_zip_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path, reader):
    path = tmp_path / "bomb.zip"
    path.write_bytes(claiming(2**31, {"a.jpg": bytes(1000)}))
    with pytest.raises(UserError, match=r"bomb.zip: entry 'a.jpg' has 2147483648"):
        with reader(path):
            pass
    path.write_bytes(pack({"a.jpg": bytes(1000)}, zipfile.ZIP_BZIP2))
    with pytest.raises(UserError, match="'a.jpg' is packed by method 12; allowed"):
        with reader(path):
            pass


@pytest.mark.parametrize("reader", READERS)
def test_an_entry_unpacks_to_no_more_than_it_claims(tmp_path, reader):
    path = tmp_path / "bomb.zip"
    path.write_bytes(claiming(100, {"a.jpg": bytes(2**26)}))
    with reader(path) as source:
        tracemalloc.start()
        with contextlib.suppress(*zips.UNREADABLE):
            source.read("a.jpg")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**22


def test_a_huge_file_in_a_folder_is_refused_and_a_pipe_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(PICTURES[1])
    with folder_files.open_source(tmp_path) as source:
        assert source.names == ["a.jpg"]
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(zips.LARGEST + 1)
    with pytest.raises(UserError, match=r"huge.png has 268435457 bytes"):
        with folder_files.open_source(tmp_path):
            pass


def test_a_jpeg_of_gigapixels_is_named_and_not_decoded(tmp_path):
    data = bytearray(PICTURES[1])
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    assert celeba_pictures.damage(bytes(data)) == "60000x60000 pixels, expected 178x218"
    *_, problem = folder_files.read_picture(source_of(bytes(data)), "a")
    assert "3600000000 pixels" in problem
    (tmp_path / "bomb.jpg").write_bytes(data)
    with pytest.raises(UserError, match="bomb.jpg is no picture .*3600000000 pixels"):
        read_pictures([str(tmp_path / "bomb.jpg")], RECIPE)


def test_no_program_is_asked_to_draw_a_picture(tmp_path):
    # PIL would hand it to Ghostscript.
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(UserError, match="a.eps is no picture .none of JPEG"):
        read_pictures([str(tmp_path / "a.eps")], RECIPE)


def test_a_zip_with_paths_writes_into_the_data_dir_alone(tmp_path):
    files = {f"{number}.jpg": PICTURES[1] for number in range(50)}
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in ("../up.jpg", "../../up.jpg", f"{tmp_path}/absolute.jpg"):
            archive.writestr(name, PICTURES[1])
        archive.writestr("..\\windows.jpg", PICTURES[1])
    place = folder.prepare(tmp_path / "pictures.zip", tmp_path / "deep" / "data")
    assert place.is_relative_to(tmp_path / "deep" / "data")
    assert {p.name for p in tmp_path.iterdir()} == {"pictures.zip", "deep"}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"data"}
    assert not list((tmp_path / "deep").rglob("*.jpg"))
    # A link in a zip is a file that holds a path: no picture.
    with zipfile.ZipFile(tmp_path / "pictures.zip", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="link.jpg .none of JPEG"):
        folder.prepare(tmp_path / "pictures.zip", tmp_path / "deep" / "data")


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_what_is_planted_in_the_cache_is_not_executed(data_dir, tmp_path):
    shutil.copytree(data_dir / "synthetic_faces", tmp_path / "synthetic_faces")
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Planted(trace)))
    trace.unlink()
    objects = io.BytesIO()
    np.save(objects, np.array([Planted(trace)], object), allow_pickle=True)
    cache.load("synthetic_faces", tmp_path, size=8)
    (made,) = tmp_path.glob("vae_jax_cache/*8*[!k]")
    for name in ("train_images.npy", "test_attributes.npy", "recipe.json"):
        whole = (made / name).read_bytes()
        narrow = io.BytesIO()
        np.save(narrow, np.zeros(3, np.uint8))
        pickled = pickle.dumps(Planted(trace))
        for content in (pickled, objects.getvalue(), narrow.getvalue(), b""):
            (made / name).write_bytes(content)
            with pytest.raises(UserError, match="is damaged .*; delete it"):
                cache.load("synthetic_faces", tmp_path, size=8)
        (made / name).write_bytes(whole)
    assert len(cache.load("synthetic_faces", tmp_path, size=8).splits["train"].images)
    assert not trace.exists()


def test_what_is_planted_in_a_checkpoint_is_not_executed(tmp_path):
    params = {"w": jnp.arange(3.0)}
    state = step_lib.create_state(params, {}, optax.sgd(0.1), float16=False)
    place, trace = tmp_path / "checkpoints", tmp_path / "executed"
    with Checkpoints(place, writable=True) as checkpoints:
        checkpoints.save(state, 3, 1.0)
    files = [path for path in (place / "3").rglob("*") if path.is_file()]
    planted = pickle.dumps(Planted(trace))
    for path in files:
        path.with_name("more.pkl").write_bytes(planted)
    assert Checkpoints(place).restore("latest", state) is not None
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(planted)
        with pytest.raises(UserError, match="no checkpoint is whole"):
            Checkpoints(place).restore("latest", state)
        path.write_bytes(whole)
    assert len(files) > 3 and not trace.exists()


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "None", "True", "-1", "0", "1e999", "nan", "1,2", "(1, 2)", "auto", "../x"]
)
RECIPES = st.sampled_from(
    ["configs/vae.py", "configs/conv_vae.py", "configs/vae.py:beta", "setup.cfg", "."]
)
SETTING = st.builds("--config.{}={}".format, st.sampled_from(list(SETTINGS)), TEXTS)


# ml_collections', where Python has deprecated what it does.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@fuzz(120)
@given(st.builds("--config={}".format, RECIPES), st.lists(SETTING | TEXTS, max_size=3))
def test_settings_of_any_text(recipe, words):
    values, path = flags.FlagValues(), list(sys.path)
    config = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    try:
        with one_line():
            file = recipe.removeprefix("--config=")
            parse_flags(values, config, ["vae_jax", f"--config={ROOT / file}", *words])
            if config.value is not None:
                config_lib.validate(config.value)
    finally:
        sys.path[:] = path


FLAGS = [*main.VALUES, "mode", "x"]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_setting_may_stand_apart_from_its_value(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    argv = ["vae_jax", f"--config={ROOT / 'configs/vae.py'}"]
    argv += ["--config.seed", "5", "--config.model.latent_dim=7"]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv
    )
    parse_flags(values, config, argv)
    assert (config.value.seed, config.value.model.latent_dim) == (5, 7)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_recipe_may_stand_apart_from_its_flag(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def parsed(*argv):
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", None, flag_values=values)
        parse_flags(values, config, ["vae_jax", *argv])
        return config.value

    assert parsed("--config", f"{ROOT / 'configs/beta_vae.py'}").objective.beta == 4
    with pytest.raises(UserError, match="^--config is '/nowhere.py', which is no file"):
        parsed("--config=/nowhere.py")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_epochs_by_themselves_replace_the_steps_of_a_recipe(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def parsed(*words):
        argv = ["vae_jax", f"--config={ROOT / 'configs/vae.py'}", *words]
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file(
            "config", flag_values=values, sys_argv=argv
        )
        parse_flags(values, config, argv)
        return config.value.train.num_steps, config.value.train.num_epochs

    steps, epochs = parsed()
    assert steps is not None
    assert parsed("--config.train.num_epochs=5") == (None, 5)
    both = ["--config.train.num_epochs=5", "--config.train.num_steps=7"]
    assert parsed(*both) == parsed(*both[::-1]) == (7, 5)
    assert parsed("--config.train.num_steps=None") == (None, epochs)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "text"),
    [("train.num_steps", "abc"), ("train.num_epochs", "x y"), ("train.mirror", "2")],
)
def test_a_value_of_another_type_is_answered_with_what_is_allowed(
    name, text, monkeypatch
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    recipe = f"--config={ROOT / 'configs/vae.py'}"
    argv = ["vae_jax", recipe, f"--config.{name}={text}"]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv
    )
    with pytest.raises(UserError) as caught:
        parse_flags(values, config, argv)
    allowed = SETTINGS[name].allowed
    assert str(caught.value) == f"config.{name} is {text!r}; allowed is {allowed}"


def test_lists_of_numbers():
    def parse(flag, text):
        with flagsaver.flagsaver():
            main.flags.FLAGS(["vae_jax", f"--{flag}={text}"])
            return main.flags.FLAGS[flag].value

    assert parse("alpha", "-2,1.5") == [-2.0, 1.5]
    assert parse("indices", "3," + "1" * 400) == [3, int("1" * 400)]
    for text in ("x", "nan", "1,inf", "1,,2", "1;2", ""):
        with pytest.raises(UserError, match="^--alpha is .* allowed are numbers"):
            parse("alpha", text)
    with pytest.raises(UserError, match="^--seeds is '1.5'; allowed are whole numbers"):
        parse("seeds", "1.5")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "x"])
def test_temperatures_that_are_none(text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vae_jax", f"--temperature={text}"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        main.cli()
    assert ended.value.code == 2
    assert "temperature" in capsys.readouterr().err


def test_flags_of_any_text(monkeypatch, capsys):
    flag = st.builds("--{}={}".format, st.sampled_from(FLAGS), TEXTS)
    mode = st.builds("--mode={}".format, st.sampled_from([*main.COMMANDS]))
    known = st.sampled_from(["--workdir=w", "--spherical", "--nospherical", "--seed"])
    for name, command in main.COMMANDS.items():
        idle = dataclasses.replace(command, work=lambda config, workdir: [workdir])
        monkeypatch.setitem(main.COMMANDS, name, idle)
    codes = set()

    @fuzz(150)
    @given(st.lists(mode, max_size=1), st.lists(flag | known | TEXTS, max_size=4))
    @example(["--mode=eval"], ["--workdir=w"])
    def check(modes, words):
        monkeypatch.setattr(sys, "argv", ["vae_jax", *modes, *words])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            main.cli()
        said = capsys.readouterr().err.splitlines()
        codes.add(ended.value.code or 0)
        if ended.value.code:
            assert ended.value.code == 2
            assert len(said) == 1 and said[0].startswith("vae_jax: ")

    check()
    assert codes == {0, 2}
