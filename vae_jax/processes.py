"""Several processes that train as one: how they meet, and what they agree on.

Each runs the same program, on its own devices and its own part of every batch. The
first writes; what only it can know, it tells the others, since they must all do the
same: a collective operation that one of them leaves out is waited for without end.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vae_jax.errors import UserError
from vae_jax.options import resumable, text

T = TypeVar("T")
WORDS = ("auto", "on", "off")
SETTING = resumable(
    text(
        "auto",
        "Way in which several processes meet; auto is as SLURM or GKE started them.",
        "one of auto, on, off, or HOST:PORT,COUNT,INDEX of this process",
        lambda value: value in WORDS or is_address(value),
    )
)
# Seconds to wait for processes that start later.
PATIENCE = 300
# What errors name that say a process has gone: those of collective operations, and of
# JAX's service where processes meet.
_GONE = re.compile("gloo|nccl|coordination|barrier|connection", re.IGNORECASE)


class Lost(UserError):
    """Another process is gone, and with it what both were doing."""


def is_address(value: str) -> bool:
    """Says whether a setting is HOST:PORT,COUNT,INDEX, index from 0 below count."""
    match = re.fullmatch(r"[^\s,]+:\d+,(\d+),(\d+)", value)
    return match is not None and int(match[2]) < int(match[1])


def _started_together() -> bool:
    """Says whether SLURM's or GKE's environment tells of other processes."""
    # SLURM_NTASKS would be the job's, in a shell of which nothing else is started.
    counts = ("SLURM_STEP_NUM_TASKS", "MEGASCALE_NUM_SLICES")
    several = any(os.environ.get(name, "1") not in ("", "1") for name in counts)
    return several or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def join(setting: str) -> None:
    """Joins the other processes, before JAX's first computation; idempotent.

    Args:
      setting: "auto" where the environment tells of others, "on" as JAX finds them,
        "off", or "HOST:PORT,COUNT,INDEX": where the first listens, how many there are,
        which this is.

    Raises:
      UserError: they cannot be found, or have not as many devices each.
    """
    if jax.distributed.is_initialized() or setting == "off":
        return
    if setting == "auto" and not _started_together():
        return
    address, whom = {}, "the other processes"
    if setting not in WORDS:
        host, count, index = setting.split(",")
        whom = f"{count} processes at {host} as number {index}"
        address = {
            "coordinator_address": host,
            "num_processes": int(count),
            "process_id": int(index),
        }
    # It would take SIGTERM for itself, to which nobody listens before the first update.
    settings: Any = jax.config
    settings.update("jax_enable_preemption_service", False)
    # Beforehand, for JAX aborts a process that waits in vain.
    print(
        f"joining {whom}: it may take a minute, and after {PATIENCE} s JAX gives up",
        flush=True,
    )
    try:
        jax.distributed.initialize(**address, initialization_timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        lines = str(error).splitlines() or [repr(error)]
        raise UserError(
            f"config.distributed is {setting!r}, and the processes do not meet: "
            f"{lines[0]}"
        ) from error
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        raise UserError(
            f"config.distributed is {setting!r}, and the processes have "
            f"{', '.join(map(str, devices.values()))} devices; allowed is as many each"
        )


def is_first() -> bool:
    """Says whether this is the process that writes."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Says whether a flag is set in any process.

    A collective call: every process must make it.
    """
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def wait_for_all() -> None:
    """Returns once all processes are here; a collective call, as `any_of`."""
    any_of(False)


def _tell_all(text: str) -> str:
    """Returns the first process's text in all; a collective call, as `any_of`."""
    content = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = content
    return bytes(multihost_utils.broadcast_one_to_all(padded)).decode()


def on_first(work: Callable[[], T]) -> T:
    """Works in the first process alone and returns its result in all.

    A collective call: every process must make it.

    Args:
      work: returns what JSON holds.

    Raises:
      UserError: `work` raised one in the first process; then all processes raise it.
    """
    if jax.process_count() == 1:
        return work()
    told = {}
    if is_first():
        try:
            told = {"result": work()}
        except UserError as error:
            told = {"error": str(error)}
    told = json.loads(_tell_all(json.dumps(told)))
    if "error" in told:
        raise UserError(told["error"])
    return told["result"]


def check_agreement(texts: dict[str, str]) -> None:
    """Raises UserError, in all processes, where one has another text than the first.

    Args:
      texts: texts by the names that users know them by.
    """
    if jax.process_count() == 1:
        return
    digests = np.stack(
        [
            np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
            for text in texts.values()
        ]
    )
    of_all = multihost_utils.process_allgather(digests)
    for name, each in zip(texts, of_all.swapaxes(0, 1), strict=True):
        (different,) = np.nonzero((each != each[0]).any(axis=1))
        if different.size:
            raise UserError(
                f"process {different[0]} of {jax.process_count()} has another {name} "
                "than process 0: all must be started alike, and see the same files"
            )


@contextlib.contextmanager
def needing_all() -> Iterator[None]:
    """Raises Lost where a collective operation fails for want of a process."""
    try:
        yield
    # Orbax raises the last, JAX one of the first two, by where it waits.
    except (jax.errors.JaxRuntimeError, ValueError, TimeoutError) as error:
        if jax.process_count() == 1 or not _GONE.search(str(error)):
            raise
        raise Lost(
            f"process {jax.process_index()} of {jax.process_count()} has lost another "
            f"({str(error).splitlines()[0]}). Started again, all of them, they go on "
            "from the last checkpoint"
        ) from error


def leave(status: int, *, at_once: bool = False) -> NoReturn:
    """Ends a process that has failed, without waiting for others that cannot come.

    The first gives them a second to say what they have to, unless `at_once`: JAX aborts
    them when it is gone, and it as well where one of them is.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        if is_first() and not at_once:
            time.sleep(1)
        os._exit(status)
    sys.exit(status)
