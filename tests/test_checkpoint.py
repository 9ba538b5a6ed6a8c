import json
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from vae_jax.errors import UserError
from vae_jax.training import manifest
from vae_jax.training import step as step_lib
from vae_jax.training.checkpoint import Checkpoints


def state_of(value, width=3, float16=True):
    params = {
        "layers": {0: jnp.full(width, 1.0 * value), 1: jnp.full((2, 2), 1.0 * value)}
    }
    state = step_lib.create_state(params, {}, optax.adamw(0.1), float16=float16)
    return state.replace(step=jnp.int32(value))


def save(folder, *steps, losses=None):
    with Checkpoints(folder, writable=True) as checkpoints:
        for i, step in enumerate(steps):
            checkpoints.save(state_of(step), step, losses[i] if losses else None)


def restore(folder, which="latest", like=None, writable=False):
    with Checkpoints(folder, writable=writable) as checkpoints:
        return checkpoints.restore(which, state_of(0) if like is None else like)


def restored_step(*arguments, **kwargs):
    state = restore(*arguments, **kwargs)
    return None if state is None else int(state.step)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


@contextmanager
def files_of_at_most(size):
    """Lets the system refuse larger files, as it does on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_folder_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("runs/vae/checkpoints"), 1, 2)
    assert restored_step(Path("runs/vae/checkpoints")) == 2


def test_the_whole_state_comes_back_in_kind(tmp_path):
    state = state_of(7).replace(state={"codebook": jnp.ones((4, 2), jnp.bfloat16)})
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        checkpoints.save(state, 7, loss=None)
    restored = restore(tmp_path, like=state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_latest_and_best_are_kept(tmp_path):
    assert restored_step(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()
    save(tmp_path, 1, 2, 3, 4, 5, losses=[5.0, -3.0, None, 2.0, np.nan])
    assert restored_step(tmp_path, "latest") == 5
    assert restored_step(tmp_path, "best") == 2
    assert names(tmp_path) == ["2", "5"]


def test_without_any_loss_the_latest_is_the_best(tmp_path):
    save(tmp_path, 9, 10)
    assert restored_step(tmp_path, "best") == 10
    assert names(tmp_path) == ["10"]


def test_saving_does_not_see_later_updates(tmp_path):
    # The state is donated to the next update while the save is still writing.
    bump = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)
    state = state_of(1, width=1_000_000)
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        checkpoints.save(state, 1, loss=None)
        for _ in range(20):
            state = bump(state)
    restored = restore(tmp_path, like=state)
    assert (np.asarray(restored.params["layers"][0]) == 1).all()


def test_threads_save_and_load_beside_one_another(tmp_path):
    """Without turns, about one of ten saves loses its folder to another's load."""

    def save_and_load(name):
        for step in range(8):
            save(tmp_path / name, step)
            assert restored_step(tmp_path / name) == step

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save_and_load, "abcd"))


def test_another_architecture_is_refused_leaf_by_leaf(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(UserError) as error:
        restore(tmp_path, like=state_of(1, width=4))
    message = str(error.value)
    assert "params/layers/0: float32[3] there, float32[4] expected" in message
    assert "params/layers/1" not in message
    with pytest.raises(UserError, match="loss_scale/scale: .* there, absent expected"):
        restore(tmp_path, like=state_of(1, float16=False))
    with pytest.raises(UserError, match=r"step: int32\[\] there, float32\[\] expected"):
        restore(tmp_path, like=state_of(1).replace(step=jnp.float32(1)))


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of steps 1 and 2, the first of them the best."""
    folder = tmp_path_factory.mktemp("two")
    save(folder, 1, 2, losses=[-1.0, None])
    return folder


def test_a_flipped_bit_is_seen_in_every_file(two, tmp_path, capsys):
    """In every bit of the first, the last and every 31st byte."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    files = [path for path in (folder / "2").rglob("*") if path.is_file()]
    assert {"manifest.json", "_METADATA", "manifest.ocdbt"} <= {f.name for f in files}
    flips = 0
    for path in files:
        whole = path.read_bytes()
        for bit in range(8 * len(whole)):
            if bit // 8 % 31 and bit // 8 != len(whole) - 1:
                continue
            flip(path, bit)
            with pytest.raises(manifest.Damaged) as damage:
                manifest.check_files(folder / "2", manifest.read(folder / "2"))
            assert path.name in str(damage.value) or path.name == manifest.NAME
            path.write_bytes(whole)
            flips += 1
    assert flips > 500
    assert restored_step(folder) == 2 and not capsys.readouterr().out


def damages(folder):
    data = max((folder / "orbax").rglob("d/*"), key=lambda path: path.stat().st_size)
    table = folder / "manifest.json"
    name = data.relative_to(folder).as_posix()
    return {
        "flipped": (lambda: flip(data, 99), f"{name} has other bytes"),
        "truncated": (
            lambda: data.write_bytes(data.read_bytes()[:-5]),
            f"{name} has {data.stat().st_size - 5} bytes, not {data.stat().st_size}",
        ),
        "emptied": (lambda: data.write_bytes(b""), f"{name} has 0 bytes"),
        "deleted": (data.unlink, f"{name} is missing"),
        "all deleted": (lambda: shutil.rmtree(folder / "orbax"), "is missing"),
        "no manifest": (table.unlink, "manifest.json is missing"),
        "torn manifest": (
            lambda: table.write_bytes(table.read_bytes()[:-9]),
            "manifest.json is damaged",
        ),
        "empty manifest": (lambda: table.write_text("{}"), "manifest.json is damaged"),
        "other format": (
            lambda: table.write_text(
                table.read_text().replace('"format": 2', '"format": 3')
            ),
            "manifest.json is damaged",
        ),
        "other loss": (
            lambda: table.write_text(
                table.read_text().replace('"loss": null', '"loss": -9.0')
            ),
            "manifest.json is damaged",
        ),
    }


KINDS = [
    "flipped",
    "truncated",
    "emptied",
    "deleted",
    "all deleted",
    "no manifest",
    "torn manifest",
    "empty manifest",
    "other format",
    "other loss",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    two, tmp_path, capsys, kind
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    damage, said = damages(folder / "2")[kind]
    damage()
    assert restored_step(folder) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"note: {folder / '2'} is damaged (")
    assert said in out and out.endswith(f"{folder / '1'} is used\n")
    assert out.count("\n") == 1
    # A reader leaves everything as it is; training sets the damaged one aside.
    assert names(folder) == ["1", "2"]
    assert restored_step(folder, writable=True) == 1
    assert said in capsys.readouterr().out
    assert names(folder) == ["1", "2.damaged"]
    save(folder, 2, losses=[-2.0])
    assert names(folder) == ["2", "2.damaged"]
    assert restored_step(folder) == 2 and not capsys.readouterr().out


@pytest.mark.parametrize("kind", ["flipped", "no manifest"])
def test_a_damaged_best_gives_way_to_the_latest(two, tmp_path, capsys, kind):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    damages(folder / "1")[kind][0]()
    assert restored_step(folder, "best") == 2
    out = capsys.readouterr().out
    assert f"{folder / '1'} is damaged" in out and f"{folder / '2'} is used" in out
    # Training looks at what it does not read as well: it is kept for later.
    assert restored_step(folder, "latest", writable=True) == 2
    assert f"{folder / '1'} is damaged" in capsys.readouterr().out


def test_none_whole_is_an_error_that_names_each(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    damages(folder / "1")["deleted"][0]()
    damages(folder / "2")["torn manifest"][0]()
    for writable in (False, True):
        with pytest.raises(UserError) as error:
            restore(folder, writable=writable)
        lines = str(error.value).splitlines()
        assert "no checkpoint is whole" in lines[0] and "another workdir" in lines[0]
        assert sorted(lines[1:])[0].startswith(f"  {folder / '1'} is damaged (orbax/")
        assert sorted(lines[1:])[1].endswith("2 is damaged (manifest.json is damaged)")
        assert names(folder) == ["1", "2"]


def test_a_checkpoint_under_another_step_is_damaged(two, tmp_path, capsys):
    shutil.copytree(two / "1", tmp_path / "1")
    shutil.copytree(two / "2", tmp_path / "20")
    assert restored_step(tmp_path) == 1
    assert "it holds step 2" in capsys.readouterr().out


def test_files_that_nobody_reads_do_no_harm(two, tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    for place in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        (place / ".DS_Store").write_text("x")
    restored = restore(folder)
    for a, b in zip(
        jax.tree.leaves(state_of(2)), jax.tree.leaves(restored), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert not capsys.readouterr().out


def test_a_newer_format_is_refused_and_not_taken_for_damage(tmp_path, monkeypatch):
    save(tmp_path, 2)
    monkeypatch.setattr(manifest, "FORMAT", 3)
    save(tmp_path, 3, losses=[1.0])
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"3 is of format 3; this vae_jax knows 2: upd"):
        restore(tmp_path)


def test_what_orbax_alone_saved_is_read_with_a_note(tmp_path, capsys):
    with ocp.training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state_of(1), metrics={"loss": -4.0})
        checkpointer.save(2, state_of(2), metrics={"loss": 4.0})
    for which, step in (("best", 1), ("latest", 2)):
        assert restored_step(tmp_path, which) == step
        assert capsys.readouterr().out == (
            f"note: {tmp_path / str(step)} has no manifest: damage to it would not be "
            "seen\n"
        )
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        state = checkpoints.restore("latest", state_of(0))
        checkpoints.save(state.replace(step=jnp.int32(3)), 3, loss=5.0)
    assert names(tmp_path) == ["1", "3"]


def test_only_a_writer_removes_what_is_half_written_or_half_deleted(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    halves = ["3.orbax-checkpoint-tmp", "4.unfinished", "0.deleted"]
    for half in halves:
        (folder / half / "orbax").mkdir(parents=True)
        (folder / half / "orbax" / "data").write_text("half")
    assert restored_step(folder) == 2
    assert set(halves) <= set(names(folder))
    assert restored_step(folder, writable=True) == 2
    assert names(folder) == ["1", "2"]


def test_only_one_may_save_and_a_reader_does_not_mind(two, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(two, folder)
    program = (
        "import pathlib, sys; from vae_jax.training.checkpoint import Checkpoints\n"
        "with Checkpoints(pathlib.Path(sys.argv[1]), writable=True):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, folder],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin and other.stdout
    with other:
        assert other.stdout.readline() == "in\n"
        (folder / "3.unfinished").mkdir()
        with pytest.raises(
            UserError, match=f"another process is training in {folder.parent}:"
        ):
            restore(folder, writable=True)
        assert (folder / "3.unfinished").exists()
        assert restored_step(folder) == 2
        # The lock goes with its process, however that ends.
        other.kill()
    assert restored_step(folder, writable=True) == 2


def test_a_reader_looks_again_where_training_replaced_what_it_read(
    two, tmp_path, monkeypatch
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    for module, name in ((manifest, "check_files"), (Checkpoints, "_load")):
        before = getattr(module, name)

        def replaced(*arguments, module=module, name=name, before=before):
            monkeypatch.setattr(module, name, before)
            latest = max(int(n) for n in names(folder))
            save(folder, latest + 1)
            return before(*arguments)

        monkeypatch.setattr(module, name, replaced)
    assert restored_step(folder) == 4


# Of the writes that Orbax drops when one fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("limit", [0, 200, 4000])
def test_a_full_disk_is_one_error_and_the_last_checkpoint_stands(two, tmp_path, limit):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    noise = np.random.default_rng(0).normal(size=9000)
    state = state_of(3).replace(state={"noise": noise})
    with pytest.raises(UserError) as error:
        with files_of_at_most(limit):
            with Checkpoints(folder, writable=True) as checkpoints:
                checkpoints.save(state, 3, loss=None)
    assert str(error.value).startswith(f"cannot write {folder}: File too large. ")
    assert "give the same command again" in str(error.value)
    assert names(folder) == ["1", "2", "3.unfinished"]
    assert restored_step(folder, writable=True) == 2


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/file/checkpoints: Not a dir"):
        restore(tmp_path / "file" / "checkpoints", writable=True)


def test_the_manifest_is_what_it_says(two):
    content = json.loads((two / "1" / "manifest.json").read_text())
    assert (content["format"], content["step"], content["loss"]) == (2, 1, -1.0)
    there = {p for p in (two / "1").rglob("*") if p.is_file()}
    described = {two / "1" / name for name in content["files"]}
    assert there - described == {two / "1" / "manifest.json"} and described < there
    for name, file in content["files"].items():
        assert (two / "1" / name).stat().st_size == file["size"]
        if shutil.which("sha256sum"):
            told = subprocess.check_output(["sha256sum", two / "1" / name], text=True)
            assert told.split()[0] == file["sha256"]
