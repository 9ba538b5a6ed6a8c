"""Checkpoints: the whole TrainState, the latest and the best, by Orbax.

`checkpoints/3000/` holds Orbax's files and a manifest of them. It is made under another
name and renamed when it is whole, so that what has a step for its name was once whole.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import processes, storage
from vae_jax.errors import UserError
from vae_jax.training import format_1, manifest, orbax_files
from vae_jax.training.step import TrainState

_DELETED, _DAMAGED = ".deleted", ".damaged"
# What a killed process leaves; the last is what Orbax alone leaves of a save.
_LEFT = (storage.UNFINISHED, _DELETED, ".orbax-checkpoint-tmp")
# What of a manifest comes first; a checkpoint without a loss is taken for the worst.
_ORDERS = {
    "latest": lambda m: -m["step"],
    "best": lambda m: (m["loss"] is None, m["loss"] or 0.0, -m["step"]),
}


def _is_without_manifest(path: Path) -> bool:
    """Says whether Orbax alone made a checkpoint: it also renames what is whole."""
    return (path / "_CHECKPOINT_METADATA").exists()


def _read_manifest(path: Path) -> dict[str, Any]:
    if not _is_without_manifest(path):
        return manifest.read(path)
    metrics = path / "metrics" / "metrics"
    loss = json.loads(metrics.read_text())["loss"] if metrics.exists() else None
    return {"step": int(path.name), "loss": loss, "files": {}}


class Checkpoints:
    """The checkpoints of one run, in `folder`; used as a context manager.

    Saving returns once the state has been copied, the first time once it has been
    saved; writing goes on in the background and is finished on leaving the context.
    What was written counts as saved once a reader has found it. Of several processes
    each writes its part, in the foreground, for Orbax has them wait for one another;
    every process must make the same calls.

    Args:
      folder: made where it is absent and `writable`.
      writable: whether to save. Only one process may at a time; it removes what a
        killed one left half-written or half-deleted, which a reader must not do to a
        run that is still training.

    Raises:
      UserError: another process saves here, on entering; or the folder cannot be
        written, on entering, in saving or on leaving.
    """

    def __init__(self, folder: Path, *, writable: bool = False):
        self._folder = folder
        self._writable = writable
        self._lock = ExitStack()
        self._locked = True
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._has_saved = False

    def __enter__(self) -> "Checkpoints":
        if self._writable:
            processes.on_first(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._finish()
        finally:
            self._pool.shutdown()
            self._lock.close()

    def _take(self) -> None:
        """Locks the folder, and removes what a killed process left in it."""
        with storage.writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = storage.locked(self._folder / "lock", wait=False)
                self._locked = self._lock.enter_context(lock)
            except BlockingIOError as error:
                raise UserError(
                    f"another process is training in {self._folder.parent}: wait "
                    "for it, stop it, or choose another workdir"
                ) from error
            for left in list(self._folder.iterdir()):
                if left.suffix in _LEFT:
                    # Writes that Orbax began before it failed may still go on.
                    shutil.rmtree(left, ignore_errors=True)

    def save(self, state: TrainState, step: int, loss: float | None) -> None:
        """Saves the state of a step; `loss`, of the validation split, ranks it."""
        if jax.process_count() > 1:
            self._write(state, step, loss)
            return
        self._finish()
        # The state's buffers are given to the next update.
        copied = jax.tree.map(np.array, state)
        self._pending = self._pool.submit(self._write, copied, step, loss)
        if not self._has_saved:
            # What makes saving fail is known before hours go into what is lost.
            self._finish()
            self._has_saved = True

    def restore(
        self,
        which: str,
        like: TrainState | Callable[[int], TrainState],
        moved: format_1.Moves = (),
    ) -> TrainState | None:
        """Returns the state of the "latest" or "best" checkpoint, None without any.

        A damaged one is named and passed over for the next; with `writable` all are
        looked at, and the damaged are set aside.

        Args:
          which: best is by loss; what has none comes last.
          like: a state, or its shapes with shardings, that the checkpoint must match;
            or what returns them by the step of the checkpoint.
          moved: paths of parts of the parameters in checkpoints of earlier versions,
            and their paths now.

        Raises:
          UserError: all checkpoints are damaged, or the one chosen is of another
            architecture or a newer program.
        """
        name = processes.on_first(lambda: self._choose(which))
        if name is None:
            return None
        whole, loaded, failure = self._folder / name, None, None
        try:
            expected = like(int(name)) if callable(like) else like
            loaded = self._load(whole, expected, moved)
        except Exception as error:
            failure = error
        if processes.any_of(failure is not None and not whole.exists()):
            return self.restore(which, like, moved)
        if failure is not None:
            raise failure
        return loaded

    def _choose(self, which: str) -> str | None:
        """Returns the name of the first whole checkpoint, None without any."""
        steps = self._steps()
        whole, problems = self._look(which)
        if not all(path.exists() for path in [*steps, *problems]):
            # The process that trains here has meanwhile replaced one.
            return self._choose(which)
        if whole is None and not problems:
            return None
        damaged = [f"{path} is damaged ({why})" for path, why in problems.items()]
        if whole is None:
            raise UserError(
                "no checkpoint is whole; put one back from a copy, or choose another "
                "workdir:\n  " + "\n  ".join(damaged)
            )
        if damaged:
            print(f"note: {'; '.join(damaged)}: {whole} is used")
        if self._writable:
            self._set_aside(list(problems))
        return whole.name

    def _steps(self) -> list[Path]:
        if not self._folder.exists():
            return []
        return [path for path in self._folder.iterdir() if path.name.isdecimal()]

    def _read_manifests(self) -> tuple[dict[Path, dict[str, Any]], dict[Path, str]]:
        manifests, problems = {}, {}
        for path in self._steps():
            try:
                manifests[path] = _read_manifest(path)
            except manifest.Damaged as damage:
                problems[path] = str(damage)
        return manifests, problems

    def _look(self, which: str) -> tuple[Path | None, dict[Path, str]]:
        """Returns the first whole checkpoint, and what is wrong with damaged ones."""
        manifests, problems = self._read_manifests()
        whole: Path | None = None
        for path in sorted(manifests, key=lambda path: _ORDERS[which](manifests[path])):
            try:
                manifest.check_files(path, manifests[path])
            except manifest.Damaged as damage:
                problems[path] = str(damage)
                continue
            whole = whole or path
            if not self._writable:
                break
        return whole, problems

    def _load(self, path: Path, like: TrainState, moved: format_1.Moves) -> TrainState:
        inner = "orbax"
        if _is_without_manifest(path):
            print(f"note: {path} has no manifest: damage to it would not be seen")
            inner = "."
        with orbax_files.reachable(path) as place:
            found = orbax_files.leaves_of(place / inner)
            is_earlier = format_1.wrote(found)
            then: Any = format_1.as_written(like, moved) if is_earlier else like
            different = orbax_files.differences(then, found)
            if different:
                raise UserError(
                    f"the checkpoint {path} does not fit the model:\n  "
                    + "\n  ".join(different)
                )
            loaded = orbax_files.load(place / inner, then)
            return format_1.as_today(loaded, moved) if is_earlier else loaded

    def _set_aside(self, damaged: list[Path]) -> None:
        """Renames what training, which goes on from before it, will save again."""
        with storage.writing(self._folder):
            for path in damaged:
                aside = path.with_name(path.name + _DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                manifest.rename(path, aside.name)

    def _write(self, state: TrainState, step: int, loss: float | None) -> None:
        unfinished = self._folder / f"{step}{storage.UNFINISHED}"

        def begin():
            with storage.writing(self._folder):
                unfinished.mkdir()

        def end():
            with storage.writing(self._folder):
                ranked = None if loss is None or not math.isfinite(loss) else loss
                manifest.write(unfinished, step=step, loss=ranked)
                manifest.rename(unfinished, str(step))
                self._delete_old()

        processes.on_first(begin)
        with storage.writing(self._folder), ExitStack() as stack:
            place = unfinished
            if not self._locked and jax.process_count() == 1:
                # Orbax wants a lock, be it of a folder where nobody else is.
                place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            orbax_files.save(place, state)
            if place != unfinished:
                shutil.copytree(place / "orbax", unfinished / "orbax")
        processes.on_first(end)

    def _delete_old(self) -> None:
        manifests, _ = self._read_manifests()
        kept = {
            min(manifests, key=lambda path: order(manifests[path]))
            for order in _ORDERS.values()
        }
        for path in manifests.keys() - kept:
            # Renamed first: half of a checkpoint must not have its name.
            gone = path.with_name(path.name + _DELETED)
            manifest.rename(path, gone.name)
            shutil.rmtree(gone)

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
