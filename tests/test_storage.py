"""Places that cannot be written, that have no locks, or that hold pictures."""

import errno
import fcntl
import json
import os
import shutil
import stat
import threading
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import app
from PIL import Image
from tensorflow_datasets.core import constants

from experiments import command_line as experiments_lib
from vae_jax import command_line, errors, main, storage
from vae_jax import run as run_lib
from vae_jax.data import cache, celeba, decoding, folder, places, prepare
from vae_jax.data import synthetic_faces as faces_lib
from vae_jax.errors import UserError
from vae_jax.training import checkpoint, orbax_files
from vae_jax.training import step as step_lib

REFUSALS = [
    getattr(errno, name)
    for name in (
        "EROFS EACCES EPERM EDQUOT ENOSPC ENOLCK EIO ENAMETOOLONG EFBIG ESTALE"
    ).split()
]
NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


def refuse(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), "/mnt/a name")

    return fail


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Where this user's files are kept during a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "vae_jax"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A tfds folder with a few faces and nothing else; not to be written."""
    root = tmp_path_factory.mktemp("prepared")
    faces_lib.prepare(root, {"train": 6, "validation": 2, "test": 2})
    return root


@pytest.fixture
def read_only(prepared, tmp_path):
    """A copy of it in which nothing can be made, as even root cannot in a file."""
    shutil.copytree(prepared, tmp_path / "tfds")
    (tmp_path / "tfds" / "vae_jax_cache").write_text("in the way")
    return tmp_path / "tfds"


def load(data_dir, size=8):
    return cache.load("synthetic_faces", data_dir, size=size)


def pictures(path, count=30):
    path.mkdir(parents=True)
    for number in range(count):
        level = np.full((12, 12), number, np.uint8)
        Image.fromarray(level).save(path / f"{number:03}.png")
    return path


def below(path):
    """Everything under a folder with its time of change."""
    return {p: p.stat().st_mtime_ns for p in [path, *path.rglob("*")]}


@pytest.mark.parametrize(
    ("xdg", "home", "expected"),
    [
        ("/c", "/h", "/c/vae_jax/pictures"),
        ("relative", "/h", "/h/.cache/vae_jax/pictures"),
        ("", "/h", "/h/.cache/vae_jax/pictures"),
        (None, "/h", "/h/.cache/vae_jax/pictures"),
        (None, None, None),
    ],
)
def test_the_users_cache_is_where_the_specification_has_it(
    monkeypatch, xdg, home, expected
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    # Where HOME is not set, the system's list of users says.
    monkeypatch.setattr(
        os.path, "expanduser", lambda path: path.replace("~", home or "~")
    )
    found = storage.user_cache("pictures")
    assert found == (None if expected is None else Path(expected))


def test_a_data_set_that_is_only_to_be_read_is_decoded_into_the_users_cache(
    read_only, user_cache, capsys, monkeypatch
):
    before = below(read_only)
    first = load(read_only)
    assert below(read_only) == before
    out = capsys.readouterr().out
    (kept,) = (p for p in (user_cache / "pictures").iterdir() if p.is_dir())
    assert out.startswith(f"note: kept in {kept}, since {read_only}/vae_jax_cache/")
    assert "(Not a directory)" in out or "(File exists)" in out
    monkeypatch.setattr(cache, "_write", None)
    again = load(read_only)
    np.testing.assert_array_equal(
        again.splits["train"].images, first.splits["train"].images
    )
    assert not capsys.readouterr().out


def test_what_is_decoded_already_is_opened_without_writing(
    prepared, tmp_path, monkeypatch
):
    shutil.copytree(prepared, tmp_path / "tfds")
    load(tmp_path / "tfds")
    before = below(tmp_path)
    for module, name in ((os, "mkdir"), (os, "rename"), (storage, "locked")):
        monkeypatch.setattr(module, name, refuse(errno.EROFS))
    assert len(load(tmp_path / "tfds").splits["train"].images) == 6
    assert below(tmp_path) == before


def test_data_sets_of_two_places_do_not_mix_in_the_users_cache(
    read_only, tmp_path, user_cache
):
    shutil.copytree(read_only, tmp_path / "other")
    assert load(read_only).recipe == load(tmp_path / "other").recipe
    folders = [p for p in (user_cache / "pictures").iterdir() if p.is_dir()]
    assert len(folders) == 2
    # A link is the same place.
    (tmp_path / "link").symlink_to(read_only)
    load(tmp_path / "link")
    assert len([p for p in (user_cache / "pictures").iterdir() if p.is_dir()]) == 2


def test_what_another_user_has_closed_is_as_if_it_were_not_there(
    prepared, tmp_path, user_cache, monkeypatch
):
    shutil.copytree(prepared, tmp_path / "tfds")
    load(tmp_path / "tfds")
    read = Path.read_text

    def closed(path, *arguments, **kwargs):
        if path.name == "recipe.json" and user_cache not in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, *arguments, **kwargs)

    monkeypatch.setattr(Path, "read_text", closed)
    assert len(load(tmp_path / "tfds").splits["train"].images) == 6
    assert len(list((user_cache / "pictures").glob("*/recipe.json"))) == 1


@pytest.mark.parametrize("number", REFUSALS)
def test_where_no_place_can_be_written_both_are_named(tmp_path, number):
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(UserError) as error:
        places.in_first([one, two], refuse(number))
    message = str(error.value)
    said = os.strerror(number)
    assert message.startswith(f"cannot write {one} ({said}) nor {two} ({said}): ")
    for name in ("XDG_CACHE_HOME", "TFDS_DATA_DIR", "config.dataset.data_dir"):
        assert name in message
    assert "\n" not in message


def test_a_refusal_leaves_nothing_half_written(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "tfds")
    monkeypatch.setattr(cache, "_write", refuse(errno.ENOSPC))
    with pytest.raises(UserError, match="No space left on device"):
        load(tmp_path / "tfds")
    left = [p.name for p in tmp_path.rglob("*") if "unfinished" in p.name]
    assert left == []


def test_what_a_killed_process_left_is_removed(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "tfds")
    load(tmp_path / "tfds")
    (here,) = (p for p in (tmp_path / "tfds" / "vae_jax_cache").iterdir() if p.is_dir())
    shutil.rmtree(here)
    for left in (f"{here.name}.unfinished", f"{here.name}.0123abc.unfinished"):
        (here.parent / left / "half").mkdir(parents=True)
    load(tmp_path / "tfds")
    assert {p.name for p in here.parent.iterdir()} == {here.name, f"{here.name}.lock"}


@pytest.mark.parametrize(
    ("ending", "said"),
    [("echo 28 >&2; exit 74", "No space"), ("kill -BUS $$", "Input")],
)
def test_a_full_disk_in_a_process_that_decodes_is_told(
    prepared, tmp_path, monkeypatch, ending, said
):
    shutil.copytree(prepared, tmp_path / "tfds")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{ending}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(decoding, "_SHARE", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(decoding.sys, "executable", str(python))
    with pytest.raises(UserError, match=rf"vae_jax_cache/.* \({said}"):
        load(tmp_path / "tfds")


def test_a_process_that_decodes_says_which_refusal_it_was(monkeypatch, capsys):
    monkeypatch.setattr(decoding, "_fill", refuse(errno.EDQUOT))
    assert decoding._main(["a", "b", "{}", "0", "1", "2"]) == os.EX_IOERR
    assert capsys.readouterr().err == f"{errno.EDQUOT}\n"
    monkeypatch.setattr(decoding, "_fill", refuse(errno.ENOENT))
    with pytest.raises(FileNotFoundError):
        decoding._main(["a", "b", "{}", "0", "1", "2"])


# Whole files


@pytest.mark.parametrize("step", ["open", "fsync", "rename"])
def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch, step):
    path = tmp_path / "run.json"
    storage.write_json(path, {"seed": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, refuse(errno.EROFS))
        with pytest.raises(
            UserError, match=r"cannot write .*run\.json: Read-only file"
        ):
            storage.write_json(path, {"seed": 2})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [*tmp_path.iterdir()] == [path]


# Locks


def test_a_lock_keeps_out_threads_and_is_waited_for(tmp_path):
    order = []

    def second():
        with storage.locked(tmp_path / "lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    with storage.locked(tmp_path / "lock") as locked:
        assert locked
        with pytest.raises(BlockingIOError):
            with storage.locked(tmp_path / "lock", wait=False):
                pass
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_whose_file_was_taken_away_is_none(tmp_path, monkeypatch):
    lock, real = tmp_path / "lock", fcntl.flock

    def after_its_holder_left(*arguments):
        lock.unlink()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", after_its_holder_left)
    with pytest.raises(BlockingIOError, match="taken away"):
        with storage.locked(lock, wait=False):
            pass


@pytest.fixture(params=NO_LOCKS)
def without_locks(request, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse(request.param))
    return os.strerror(request.param)


def test_data_is_prepared_without_locks(
    without_locks, prepared, tmp_path, monkeypatch, capsys
):
    shutil.copytree(prepared, tmp_path / "tfds")
    load(tmp_path / "tfds")
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "own"))
    version = folder.prepare(pictures(tmp_path / "faces"))
    assert version.exists()
    notes = [x for x in capsys.readouterr().out.splitlines() if x.startswith("note: ")]
    assert len(notes) == 2
    assert notes[0].startswith(
        f"note: {tmp_path / 'tfds' / 'vae_jax_cache'} has no locks ({without_locks})"
    )


def test_who_loses_a_race_without_locks_uses_what_the_winner_made(
    without_locks, prepared, tmp_path, monkeypatch, user_cache
):
    shutil.copytree(prepared, tmp_path / "tfds")
    write = cache._write

    def overtaken(*arguments):
        monkeypatch.setattr(cache, "_write", write)
        load(tmp_path / "tfds")
        write(*arguments)

    monkeypatch.setattr(cache, "_write", overtaken)
    assert len(load(tmp_path / "tfds").splits["train"].images) == 6
    own = pictures(tmp_path / "faces")
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "own"))
    records = folder.Folder._records

    def overtaken_too(*arguments):
        monkeypatch.setattr(folder.Folder, "_records", records)
        folder.prepare(own)
        return records(*arguments)

    monkeypatch.setattr(folder.Folder, "_records", overtaken_too)
    version = folder.prepare(own)
    assert sorted(p.name for p in version.parent.iterdir()) == ["1.0.0"]
    left = [p for p in tmp_path.rglob("*") if ".unfinished" in p.name]
    assert left == [] and not user_cache.exists()


def test_training_goes_on_without_locks_and_orbax_gets_a_place_with_some(
    without_locks, tmp_path, monkeypatch, capsys
):
    asked, save = [], orbax_files.save
    monkeypatch.setattr(orbax_files, "save", lambda p, s: asked.append(p) or save(p, s))
    params = {"w": jnp.ones(3)}
    state = step_lib.create_state(params, {}, optax.sgd(0.1), float16=False)
    with checkpoint.Checkpoints(tmp_path / "checkpoints", writable=True) as checkpoints:
        checkpoints.save(state, 1, 0.5)
    out = capsys.readouterr().out
    assert out.startswith(
        f"note: {tmp_path / 'checkpoints'} has no locks ({without_locks})"
    )
    assert out.count("\n") == 1
    (place,) = asked
    assert tmp_path not in place.parents and not place.exists()
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore("best", state)
    np.testing.assert_array_equal(restored.params["w"], np.ones(3))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_lock_that_is_refused_is_no_missing_lock(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    with pytest.raises(UserError, match=os.strerror(number)):
        with checkpoint.Checkpoints(tmp_path / "checkpoints", writable=True):
            pass


# The last net


@pytest.mark.parametrize("number", REFUSALS)
def test_what_nobody_named_is_one_line_with_its_file(monkeypatch, capsys, number):
    line = f"cannot read or write '/mnt/a name': {os.strerror(number)}\n"
    monkeypatch.setattr(app, "run", refuse(number))
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(main, "quieten_failed_saves", lambda: None)
    monkeypatch.setattr(experiments_lib, "quieten_failed_saves", lambda: None)
    monkeypatch.setattr(celeba, "prepare", refuse(number))
    for program, cli in (
        ("vae_jax", main.cli),
        ("experiments", lambda: experiments_lib.cli(refuse(number))),
    ):
        with pytest.raises(SystemExit) as left:
            cli()
        assert left.value.code == 2
        assert capsys.readouterr().err == f"{program}: {line}"
    assert prepare.main(["--source=x"]) == 2
    assert capsys.readouterr().err == f"prepare: {line}"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        # Of no file: a signal to another's process, say.
        PermissionError(errno.EPERM, "Operation not permitted"),
        TimeoutError("Orbax has waited"),
    ],
)
def test_what_may_be_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        with errors.naming_files():
            raise error


def test_a_file_without_a_name_and_two_of_them():
    with pytest.raises(UserError, match="write a file: No space left on device"):
        with errors.naming_files():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"write 'a' -> 'b\\xa0': Read-only file"):
        with errors.naming_files():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a", None, "b\xa0")


@pytest.mark.parametrize("number", REFUSALS)
def test_faces_and_celeba_that_cannot_be_written_are_one_line(
    tmp_path, monkeypatch, number
):
    monkeypatch.setattr(faces_lib, "_draw_all", refuse(number))
    said = os.strerror(number)
    with pytest.raises(UserError, match=f"cannot draw faces into {tmp_path}.*{said}"):
        faces_lib.prepare(tmp_path / "tfds")
    monkeypatch.setattr(celeba, "open_files", refuse(number))
    with pytest.raises(UserError, match=f"cannot prepare {tmp_path}.*{said}"):
        celeba.prepare(tmp_path / "source", tmp_path / "tfds")


def test_folders_are_prepared_in_the_users_cache_where_tfds_cannot_be_written(
    tmp_path, user_cache, monkeypatch, capsys
):
    (tmp_path / "tfds").write_text("in the way")
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds" / "deeper"))
    own = pictures(tmp_path / "faces")
    version = folder.prepare(own)
    assert user_cache / "pictures" in version.parents
    assert "note: kept in" in capsys.readouterr().out
    monkeypatch.setattr(storage, "locked", refuse(errno.EROFS))
    assert folder.prepare(own) == version


def test_programs_are_kept_only_where_jax_would_not_warn_of_each(
    user_cache, monkeypatch, capsys
):
    class Settings:
        jax_compilation_cache_dir = None

        def update(self, name, value):
            setattr(self, name, value)

    settings = Settings()
    monkeypatch.setattr(command_line.jax, "config", settings)
    monkeypatch.setattr(command_line.warnings, "filterwarnings", lambda *_: None)
    for number in (errno.ENOLCK, errno.ENOSPC, errno.EROFS):
        with monkeypatch.context() as patch:
            patch.setattr(command_line.filelock, "FileLock", refuse(number))
            command_line.keep_compiled_programs()
        err = capsys.readouterr().err
        assert os.strerror(number) in err and err.count("\n") == 1
        assert settings.jax_compilation_cache_dir is None
    with monkeypatch.context() as patch:
        patch.setattr(storage, "user_cache", lambda kind: None)
        command_line.keep_compiled_programs()
    assert "there is no home folder" in capsys.readouterr().err
    command_line.keep_compiled_programs()
    assert settings.jax_compilation_cache_dir == str(user_cache / "compiled")


# Pictures


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    root.mkdir(exist_ok=True)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ["a.JPG"],
        ["notes.txt", "class one/a.png"],
        ["img_align_celeba.zip"],
        ["celeba/list_attr_celeba.csv"],
        ["downloads/x", "deep/img_align_celeba/000001.jpg"],
    ],
)
@pytest.mark.parametrize("name", ["auto", "synthetic_faces", "celeb_a"])
def test_no_data_set_is_made_among_pictures(tmp_path, names, name):
    root = touch(tmp_path / "my pictures", *names)
    before = below(tmp_path)
    with pytest.raises(UserError) as error:
        cache.load(cache.resolve_name(name, root), root)
    message = str(error.value)
    assert message.startswith(f"config.dataset.data_dir is '{root}', which holds '")
    command = f"--config.dataset.name=folder --config.dataset.data_dir='{root}'"
    assert command in message and "\n" not in message
    official = "celeba" in names[-1]
    assert ("python -m vae_jax.data.prepare --source='" in message) == official
    with pytest.raises(UserError, match="nothing is written among pictures"):
        faces_lib.prepare(root)
    assert below(tmp_path) == before


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["img_align_celeba.zip"], "img_align_celeba.zip"),
        (["list_attr_celeba.txt"], ""),
        (["official/img_align_celeba/000001.jpg"], "official"),
    ],
)
def test_official_files_are_answered_with_what_prepares_them(tmp_path, names, source):
    root = touch(tmp_path / "celeba", *names)
    with pytest.raises(UserError, match=f"--source={root / source};"):
        places.check(root)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["notes.txt", "models/model.bin"],
        [".thumbnails/a.png", ".a.png"],
        ["downloads/manual/a.jpg", "downloads/a.jpg"],
        ["vae_jax_folders/faces-1/a.jpg", "deep/deeper/deepest/a.png"],
        ["celeb_a/2.1.0/dataset_info.json", "img_align_celeba.zip", "a.jpg"],
        ["synthetic_faces/1.0.0/dataset_info.json", "synthetic_faces/preview.png"],
    ],
)
def test_what_is_tfds_own_or_holds_no_pictures_is_written(tmp_path, names):
    places.check(touch(tmp_path / "tfds", *names))
    places.check(tmp_path / "absent")


def test_a_large_folder_is_looked_at_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_NAMES", 3)
    monkeypatch.setattr(places, "_FOLDERS", 2)
    root = touch(tmp_path / "large", *(f"{n}/x{m}" for n in range(9) for m in range(9)))
    looked = []
    monkeypatch.setattr(places, "_is_picture", looked.append)
    assert places.find_picture(root) is None
    # Of the folder itself and of two in it.
    assert len(looked) == 3 * 3


def test_a_data_dir_that_is_no_folder_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("a.jpg", b"")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="faces.zip', which is a zip;.*name=folder"):
        cache.resolve_name("auto", tmp_path / "faces.zip")
    with pytest.raises(UserError, match="file', which is a file;") as error:
        cache.load("synthetic_faces", tmp_path / "file")
    assert "name=folder" not in str(error.value)
    with pytest.raises(UserError, match="~nobody-here/x'; allowed is a path"):
        cache.load("synthetic_faces", "~nobody-here/x")


def test_tfds_own_folder_may_not_be_one_of_pictures(tmp_path, monkeypatch):
    own = pictures(tmp_path / "faces")
    monkeypatch.setattr(constants, "DATA_DIR", str(own))
    before = below(own)
    for prepare_it in (
        lambda: folder.prepare(own),
        lambda: cache.resolve_name("auto", None),
        lambda: faces_lib.prepare(None),
    ):
        with pytest.raises(
            UserError, match=r"tfds' folder \(TFDS_DATA_DIR\) is '.*fac"
        ):
            prepare_it()
    assert below(own) == before


def test_no_run_begins_among_pictures(tiny_config, tmp_path):
    own = pictures(tmp_path / "faces")
    before = below(own)
    with pytest.raises(UserError, match=r"^workdir is '.*faces', which holds no run"):
        run_lib.train(tiny_config, own)
    tiny_config.dataset.name = "folder"
    tiny_config.dataset.data_dir = str(own)
    with pytest.raises(UserError, match="run', within the pictures to train on"):
        run_lib.train(tiny_config, own / "run")
    assert below(own) == before
