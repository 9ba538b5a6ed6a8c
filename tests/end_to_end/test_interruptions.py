"""What happens to a run from outside, as its user sees it."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = [
    "--config.precision=fp32",
    "--config.dataset.size=16",
    "--config.model.latent_dim=4",
    "--config.model.hidden_dim=16",
    "--config.train.batch_size=8",
    "--config.train.steps_per_dispatch=2",
    "--config.log.every_steps=4",
    "--config.eval.every_steps=20",
    "--config.eval.importance_samples=3",
    "--config.checkpoint.every_steps=20",
]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def command(data_dir, workdir, steps):
    return [
        sys.executable,
        "-m",
        "vae_jax.main",
        f"--config={ROOT / 'configs' / 'vae.py'}",
        f"--config.dataset.data_dir={data_dir}",
        f"--workdir={workdir}",
        f"--config.train.num_steps={steps}",
        *TINY,
    ]


def run(arguments, **environment):
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
    )


def checkpoints(workdir):
    return {int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*[0-9]")}


def wait_for_a_checkpoint(workdir, processes, after=0):
    deadline = time.monotonic() + 120
    while not workdir.exists() or max(checkpoints(workdir), default=0) <= after:
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None] * len(processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def stopped(data_dir, tmp_path_factory):
    """A workdir whose training got a SIGTERM, a rival having been sent away."""
    workdir = tmp_path_factory.mktemp("stopped") / "a run"
    arguments = command(data_dir, workdir, 100_000)
    training = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_a_checkpoint(workdir, [training])
    rival = run(arguments)
    reader = run([*arguments[:3], "--mode=reconstruct", f"--workdir={workdir}"])
    assert training.poll() is None
    training.send_signal(signal.SIGTERM)
    out, err = training.communicate(timeout=60)
    return workdir, arguments, training.returncode, out, err, rival, reader


def test_a_second_process_is_sent_away_and_a_reader_is_not(stopped):
    workdir, *_, rival, reader = stopped
    assert rival.returncode == 2
    assert rival.stderr == (
        f"vae_jax: another process is training in {workdir}: wait for it, stop it, or "
        "choose another workdir\n"
    )
    assert reader.returncode == 0, reader.stderr


def test_a_stop_says_so_at_once_saves_and_gives_the_command_to_go_on(stopped):
    workdir, arguments, status, out, err, *_ = stopped
    assert status == os.EX_TEMPFAIL
    assert err == "\nstopping at the next log, saved; a second signal kills\n"
    last = out.splitlines()[-1]
    step, told = re.fullmatch(r"stopped at step (\d+); to go on: (.*)", last).groups()
    assert int(step) % 4 == 0 and int(step) in checkpoints(workdir)
    log = (workdir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == int(step)
    assert shlex.split(told) == arguments


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(data_dir, tmp_path):
    workdir = tmp_path / "run"
    # Blocks of 1024 bytes: metrics.jsonl outgrows them before the 40th step. JAX's
    # cache of programs would as well, and be torn for all other tests.
    arguments = command(data_dir, workdir, 40)
    done = run(
        ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *arguments],
        JAX_ENABLE_COMPILATION_CACHE="false",
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "File too large" in line and "give the same command again" in line
    assert line.startswith(f"vae_jax: cannot write {workdir}")
    assert run(arguments).returncode == 0
    whole = tmp_path / "whole"
    assert run(command(data_dir, whole, 40)).returncode == 0
    logs = [(path / "metrics.jsonl").read_bytes() for path in (workdir, whole)]
    assert logs[0] == logs[1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_pair(command_of, environment_of=lambda index: {}):
    """Starts two processes that train as one."""
    return [
        subprocess.Popen(
            command_of(index),
            cwd=ROOT,
            env=ENVIRONMENT | environment_of(index),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def start_at_an_address(arguments):
    address = f"localhost:{free_port()}"
    return start_pair(
        lambda index: [*arguments, f"--config.distributed={address},2,{index}"]
    )


def test_what_stops_one_of_two_processes_stops_both(data_dir, tmp_path):
    workdir = tmp_path / "run"
    # A process that is lost in the middle of a save is missed after 100 s only.
    arguments = [
        *command(data_dir, workdir, 100_000),
        "--config.eval.every_steps=200",
        "--config.checkpoint.every_steps=200",
    ]
    pair = start_at_an_address(arguments)
    wait_for_a_checkpoint(workdir, pair)
    pair[1].send_signal(signal.SIGTERM)
    (out, _), (silent, err) = (process.communicate(timeout=60) for process in pair)
    assert [process.returncode for process in pair] == [os.EX_TEMPFAIL] * 2
    stopped_at = int(re.search(r"stopped at step (\d+); to go on", out)[1])
    assert stopped_at == max(checkpoints(workdir))
    assert "stopped at" not in silent and "stopping at the next log" in err

    for killed in (1, 0):
        before = max(checkpoints(workdir))
        pair = start_at_an_address(arguments)
        wait_for_a_checkpoint(workdir, pair, after=before)
        pair[killed].kill()
        said = [process.communicate(timeout=60) for process in pair]
        assert f"going on from step {before} of" in said[0][0]
        left, (_, error) = pair[1 - killed], said[1 - killed]
        if killed == 1:
            assert left.returncode == 2, error
            # JAX may say something of its own before it.
            *_, last = error.strip().splitlines()
            assert last.startswith("vae_jax: process 0 of 2 has lost another (")
        else:
            # JAX may be faster, which ends a process that has lost the first.
            assert left.returncode in (2, -signal.SIGABRT), error
            assert "has lost another" in error or "another task died" in error

    before = max(checkpoints(workdir))
    alone = subprocess.Popen(
        arguments, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    wait_for_a_checkpoint(workdir, [alone], after=before)
    alone.send_signal(signal.SIGTERM)
    assert f"going on from step {before} of" in alone.communicate(timeout=60)[0]
    assert alone.returncode == os.EX_TEMPFAIL


def test_modes_for_one_process_refuse_two(tmp_path):
    arguments = ["--mode=sample", f"--workdir={tmp_path}"]
    slurm = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
    }
    pair = start_pair(
        lambda index: [sys.executable, "-m", "vae_jax.main", *arguments],
        lambda index: slurm | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
    )
    for process in pair:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 2, error
        assert error.endswith(
            "vae_jax: --mode is sample, which takes one process; 2 were started. "
            "Several go with --mode=train or eval; to work side by side they need "
            "--config with --config.distributed=off\n"
        )


def test_nothing_grows_from_save_to_save(data_dir):
    done = run(
        [sys.executable, "-m", "tests.soak", "--minutes=0.15"]
        + [f"--config={ROOT / 'configs' / 'vae.py'}"]
        + [f"--config.dataset.data_dir={data_dir}"]
        + ["--config.train.num_steps=10000000", *TINY]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    evaluations = re.search(r"(\d+) evaluations in 0.15 minutes", done.stdout)
    assert int(evaluations[1]) > 10
