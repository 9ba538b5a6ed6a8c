import io
import resource
import runpy
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vae_jax.data import celeba, prepare

NAMES = ("000001.jpg", "000002.jpg", "000003.jpg")


@pytest.fixture
def source(tmp_path):
    """The official files in small: noise, one picture a split."""
    folder = tmp_path / "official"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "jpeg")
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(f"img_align_celeba/{name}", jpeg.getvalue())
    rows = [f"{name} {'-1 ' * 40}" for name in NAMES]
    header = [str(len(rows)), " ".join(celeba.ATTRIBUTES)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(header + rows))
    rows = [f"{name} {split}" for split, name in enumerate(NAMES)]
    (folder / "list_eval_partition.txt").write_text("\n".join(rows))
    return folder


def test_says_where_it_is_and_how_to_train(source, tmp_path, capsys):
    data_dir = tmp_path / "my data"
    assert prepare.main([f"--source={source}", f"--data_dir={data_dir}"]) == 0
    out, err = capsys.readouterr()
    where, licence = out.splitlines()
    assert where == (
        f"{data_dir}/celeb_a/2.1.0: train 1, validation 1, test 1 pictures; to train: "
        "python -m vae_jax.main --config=configs/vae.py --config.dataset.name=celeb_a "
        f"--config.dataset.data_dir='{data_dir}'"
    )
    assert "non-commercial research only" in licence
    assert "not to be redistributed" in licence
    # Three MD5s that are not the official ones, and no bar, for this is no terminal.
    assert [line.split(":")[0] for line in err.splitlines()] == ["warning"] * 3
    assert len(tfds.data_source("celeb_a", split="train", data_dir=data_dir)) == 1


def test_second_run_says_that_there_is_nothing_to_do(source, tmp_path, capsys):
    argv = [f"--source={source}", f"--data_dir={tmp_path}"]
    assert prepare.main(argv) == 0
    capsys.readouterr()
    assert prepare.main(argv) == 0
    out, err = capsys.readouterr()
    assert "nothing to do" in out.splitlines()[0]
    assert "train 1" in out.splitlines()[1]
    assert err == ""


def test_allow_missing(source, tmp_path, capsys):
    with (source / "list_eval_partition.txt").open("a") as file:
        file.write("\n000004.jpg 0\n")
    attributes = source / "list_attr_celeba.txt"
    count, *lines = attributes.read_text().splitlines()
    lines = [str(int(count) + 1), *lines, f"000004.jpg {'1 ' * 40}"]
    attributes.write_text("\n".join(lines))
    argv = [f"--source={source}", f"--data_dir={tmp_path}"]
    assert prepare.main(argv) == 2
    assert "pass --allow_missing to prepare the 3" in capsys.readouterr().err
    assert prepare.main([*argv, "--allow_missing"]) == 0
    assert "train 1" in capsys.readouterr().out


def test_user_error_is_one_line_on_stderr(tmp_path, capsys):
    (tmp_path / "000001.jpg").touch()
    assert prepare.main([f"--source={tmp_path}", f"--data_dir={tmp_path}/d"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"prepare: {tmp_path} lacks list_eval_partition.txt (or .c")
    assert err.count("\n") == 1


def test_defects_are_not_hidden(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(celeba, "prepare", fail)
    with pytest.raises(ZeroDivisionError):
        prepare.main(["--source=."])


def test_interrupt_is_one_line_on_stderr(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(celeba, "prepare", interrupt)
    assert prepare.main(["--source=."]) == 130
    assert capsys.readouterr().err == "prepare: interrupted, nothing is kept\n"


def test_source_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main([])
    assert caught.value.code == 2
    assert "--source" in capsys.readouterr().err


def test_full_disk(source, tmp_path):
    # A limit on the size of a file fails writes as a full disk does.
    command = [sys.executable, "-m", "vae_jax.data.prepare"]
    command += [f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert done.returncode == 2
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"prepare: cannot prepare {tmp_path / 'data'}/")
    assert "File too large" in message
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "data" / "celeb_a").iterdir()) == []


def test_runs_as_a_module(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["prepare", f"--source={tmp_path / 'nowhere'}"])
    monkeypatch.delitem(sys.modules, "vae_jax.data.prepare")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("vae_jax.data.prepare", run_name="__main__")
    assert caught.value.code == 2
    assert "nowhere', which does not exist" in capsys.readouterr().err
