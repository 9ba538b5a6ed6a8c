"""What a run writes down: metrics.jsonl, timing.jsonl and, if asked, TensorBoard."""

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, TypeAlias

from vae_jax.errors import UserError
from vae_jax.storage import write_whole, writing

OnLine: TypeAlias = Callable[[dict[str, Any]], object]


def _says_of_what(line: Any, name: str) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return False
    return name != "metrics.jsonl" or line.get("split") in ("train", "validation")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl or timing.jsonl, but a last torn one.

    Raises:
      UserError: another line is torn, or says not what it is of.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # What follows the last line feed was never finished; it is empty in a whole file.
    objects = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not _says_of_what(found, path.name):
            raise UserError(
                f"{path} is damaged in line {number}: mend it by hand or from a copy"
            )
        objects.append(found)
    return objects


def _keep_until(path: Path, step: int) -> None:
    kept = [line for line in read_lines(path) if line["step"] <= step]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def _event_records() -> Callable[..., bytes]:
    """Returns what makes a record of TensorBoard's event files, of a step and more.

    tensorboardX's own SummaryWriter writes from a thread, in which an error is lost.
    """
    try:
        from tensorboardX import record_writer
        from tensorboardX.proto import event_pb2
    except ImportError as error:
        raise UserError(
            "config.log.tensorboard is True, but tensorboardX is not "
            'installed: pip install "vae_jax[tensorboard]"'
        ) from error
    # Its classes are made at run time; type checkers cannot see them.
    events: Any = event_pb2

    def record(**content: Any) -> bytes:
        event = events.Event(wall_time=time.time(), **content).SerializeToString()
        # The length and the event, a checksum behind each.
        return b"".join(
            part + struct.pack("<I", record_writer.masked_crc32c(part))
            for part in (struct.pack("<Q", len(event)), event)
        )

    return record


class Writer:
    """Appends to a run's logs from a step on; used as a context manager.

    metrics.jsonl holds what the seed determines, so that an interrupted and resumed run
    leaves the same bytes as one that never stopped; what depends on the machine's mood
    goes to timing.jsonl.

    Args:
      workdir: the run's folder.
      step: step of the state that training goes on from; lines past it are dropped,
        since those steps will be taken again.
      tensorboard: write event files under `workdir`/tensorboard as well.
      muted: write nothing, as all processes but the first do.
      size: size of the images, for each line of metrics, where images grow.
      on_line: called with each line of metrics.jsonl once it can be read there; not
        where this is muted.

    Raises:
      UserError: TensorBoard is asked for and not installed; here and in all methods,
        the operating system refuses to write.
    """

    def __init__(
        self,
        workdir: Path,
        step: int,
        *,
        tensorboard: bool = False,
        muted: bool = False,
        size: int | None = None,
        on_line: OnLine | None = None,
    ):
        self._said = {} if size is None else {"size": size}
        self._record: Callable[..., bytes] | None = None
        self._workdir = workdir
        self._files = ExitStack()
        self._logs: dict[str, IO[Any]] = {}
        self._on_line: OnLine | None = None
        if muted:
            return
        self._on_line = on_line
        if tensorboard:
            self._record = _event_records()
        paths = [workdir / "metrics.jsonl", workdir / "timing.jsonl"]
        for path in paths:
            _keep_until(path, step)
        with writing(workdir), ExitStack() as opened:
            for path in paths:
                self._logs[path.stem] = opened.enter_context(path.open("a"))
            if self._record is not None:
                path = workdir / "tensorboard"
                path.mkdir(exist_ok=True)
                path /= f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
                events = self._logs["tensorboard"] = opened.enter_context(
                    path.open("ab")
                )
                events.write(self._record(file_version="brain.Event:2"))
                # What an earlier event file has from this step on is hidden.
                events.write(self._record(step=step + 1, session_log={"status": 1}))
            self._files = opened.pop_all()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._workdir):
            self._files.close()

    def write_metrics(
        self, step: int, epoch: float, split: str, metrics: dict[str, float]
    ) -> None:
        """Writes the means of one split at a step, in full float precision."""
        line = {"step": step, "epoch": epoch, "split": split, **self._said, **metrics}
        self._append("metrics", line)
        self._scalars(step, "_".join(map(str, (split, *self._said.values()))), metrics)
        if self._on_line is not None:
            self.flush()
            self._on_line(line)

    def write_timing(self, step: int, images_per_second: float) -> None:
        """Writes the training speed since the last such line, evaluation excluded."""
        line = {"step": step, "images_per_second": images_per_second}
        self._append("timing", line)
        self._scalars(step, "timing", {"images_per_second": images_per_second})

    def flush(self) -> None:
        """Hands everything written to the operating system."""
        with writing(self._workdir):
            for log in self._logs.values():
                log.flush()

    def to_disk(self) -> None:
        """Returns once everything written would survive a power cut."""
        self.flush()
        with writing(self._workdir):
            for log in self._logs.values():
                os.fsync(log.fileno())

    def _append(self, log: str, line: dict[str, Any]) -> None:
        if log in self._logs:
            with writing(self._workdir):
                self._logs[log].write(json.dumps(line) + "\n")

    def _scalars(self, step: int, prefix: str, values: dict[str, float]) -> None:
        if self._record is not None:
            scalars = [
                {"tag": f"{prefix}/{name}", "simple_value": value}
                for name, value in values.items()
            ]
            with writing(self._workdir):
                record = self._record(step=step, summary={"value": scalars})
                self._logs["tensorboard"].write(record)
