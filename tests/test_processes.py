"""Two processes of two devices are one of one, but for the order of sums."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import jax
import numpy as np
import pytest

from vae_jax import processes, run
from vae_jax.commands import evaluation
from vae_jax.config import default_config
from vae_jax.errors import UserError
from vae_jax.report.writer import read_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def config_of(data_dir, num_steps=20, **settings):
    config = default_config()
    config.precision = "fp32"
    config.dataset.name = "synthetic_faces"
    config.dataset.data_dir = str(data_dir)
    config.dataset.size = 16
    config.model.latent_dim, config.model.hidden_dim = 4, 16
    config.train.batch_size, config.train.num_steps = 8, num_steps
    config.train.steps_per_dispatch = 5
    # No split is a multiple of it, nor of the devices.
    config.eval.batch_size = 3
    config.eval.importance_samples = 2
    for section in (config.log, config.eval, config.checkpoint):
        section.every_steps = 10
    config.update_from_flattened_dict(settings)
    return config


def refusal(config, workdir):
    try:
        run.train(config, workdir)
    except UserError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def work_in_each(data_dir, folder, address):
    """What both of a pair of processes do."""
    folder, index = Path(folder), int(address[-1])
    config = config_of(data_dir, distributed=address, **{"dataset.feed": "stream"})
    run.train(config, folder / "two")
    two = run.load(folder / "two")
    evaluation.write_evaluation(two, evaluation.evaluate_run(two))
    cut = {"dataset.feed": "device", "train.sharding": "fsdp"}
    run.train(config_of(data_dir, **cut), folder / "two_fsdp")
    run.train(config_of(data_dir, num_steps=30), folder / "one_then_two")
    # Of one name, but each its own.
    os.chdir(folder / f"own_{index}")
    linked = Path("/proc/self/cwd/run")
    told = {
        "locked": refusal(config_of(data_dir), folder / "locked"),
        "seed": refusal(config_of(data_dir, seed=index), folder / "other"),
        "workdir": refusal(config_of(data_dir), folder / f"other_{index}"),
        "files": refusal(config_of(data_dir), linked),
        "any": [processes.any_of(index == 1), processes.any_of(False)],
        "first": processes.on_first(lambda: f"said by {index}, with ü"),
    }
    (folder / f"{index}.json").write_text(json.dumps(told))
    # It ends who is not training. The first goes last, for JAX aborts who has lost it.
    processes.wait_for_all()
    time.sleep(1 - index)
    os.kill(os.getpid(), signal.SIGTERM)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def folder(data_dir, tmp_path_factory):
    """Runs of one process, and what two made beside and of them."""
    folder = tmp_path_factory.mktemp("processes")
    run.train(config_of(data_dir), folder / "one")
    shutil.copytree(folder / "one", folder / "one_then_two")
    program = "import sys; from tests import test_processes as t; "
    program += "t.work_in_each(*sys.argv[1:])"
    for name in ("locked/checkpoints", "own_0", "own_1"):
        (folder / name).mkdir(parents=True)
    port = free_port()
    with filelock.FileLock(folder / "locked" / "checkpoints" / "lock"):
        pair = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(data_dir), str(folder)]
                + [f"localhost:{port},2,{index}"],
                cwd=ROOT,
                env=os.environ
                | {
                    "JAX_PLATFORMS": "cpu",
                    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
                    + " --xla_force_host_platform_device_count=2",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(2)
        ]
        said = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [-signal.SIGTERM] * 2, said
    return folder


def assert_alike(workdir, whole):
    """Holds the logs and the parameters of two runs against each other."""
    lines = [read_lines(path / "metrics.jsonl") for path in (workdir, whole)]
    for a, b in zip(*lines, strict=True):
        assert list(a) == list(b)
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        for name in ("loss", "elbo", "log_px", "mse"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)
    variables = [run.load(path).variables for path in (workdir, whole)]
    for a, b in zip(*map(jax.tree.leaves, variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", ["two", "two_fsdp"])
def test_two_processes_train_as_one(folder, name):
    assert_alike(folder / name, folder / "one")


def test_evaluation_counts_each_image_once(folder):
    of_two = json.loads((folder / "two" / "eval.json").read_text())
    of_one = evaluation.evaluate_run(run.load(folder / "two"))
    for split, num_images in (("validation", 10), ("test", 6)):
        for kind in ("ema", "raw"):
            a, b = of_two[split][kind], of_one[split][kind]
            assert a["num_images"] == num_images
            assert a.keys() == b.keys()
            for name in ("elbo", "iw_bound", "bits_per_dim", "psnr", "loss"):
                assert a[name] == pytest.approx(b[name], rel=1e-5)
            assert a["standard_errors"] == pytest.approx(b["standard_errors"], rel=1e-4)


def test_checkpoints_go_from_one_process_to_two_and_back(folder, data_dir, tmp_path):
    config = config_of(data_dir, num_steps=30)
    run.train(config, tmp_path / "whole")
    assert_alike(folder / "one_then_two", tmp_path / "whole")
    for name in ("two", "two_fsdp"):
        shutil.copytree(folder / name, tmp_path / name)
        run.train(config, tmp_path / name)
        assert_alike(tmp_path / name, tmp_path / "whole")


def test_all_refuse_what_the_first_refuses(folder):
    told = [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]
    assert told[0] == told[1]
    assert "another process is training in" in told[0]["locked"]
    assert told[0]["any"] == [True, False]
    assert told[0]["first"] == "said by 0, with ü"


@pytest.mark.parametrize(
    ("name", "what"),
    [("seed", "config"), ("workdir", "workdir"), ("files", "/proc/.*/run.json")],
)
def test_all_refuse_what_one_has_otherwise(folder, name, what):
    for index in range(2):
        told = json.loads((folder / f"{index}.json").read_text())
        assert re.match(f"process 1 of 2 has another {what} than process 0", told[name])


@pytest.mark.parametrize(
    ("environment", "together"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_auto_joins_where_several_were_started(
    monkeypatch, capsys, environment, together
):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **k: calls.append(k))
    processes.join("off")
    assert calls == []
    processes.join("auto")
    patience = {"initialization_timeout": processes.PATIENCE}
    assert calls == [patience] * together
    processes.join("on")
    processes.join("host:80,4,3")
    assert "joining 4 processes at host:80 as number 3" in capsys.readouterr().out
    assert calls[together:] == [
        patience,
        patience
        | {"coordinator_address": "host:80", "num_processes": 4, "process_id": 3},
    ]


def test_processes_that_do_not_meet_are_a_users_mistake(monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match="distributed is 'on'.*should be defined.$"):
        processes.join("on")


@pytest.mark.parametrize("value", ["a:1,2", "a:1,2,2", "a,2,0", ":1,2,0", "a:b,2,1"])
def test_addresses_that_are_none(tiny_config, tmp_path, value):
    tiny_config.distributed = value
    with pytest.raises(UserError, match="config.distributed is.*HOST:PORT,COUNT,INDEX"):
        run.train(tiny_config, tmp_path)
