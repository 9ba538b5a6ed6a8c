"""What an accelerator does: python -m benchmarks.accelerator --all --out=DIR.

Lines go by what they are worth, each is written as soon as it is there, and none is
begun that would end after the budget. Nothing is needed but the code: images are noise
or drawn faces.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import limits, training
from benchmarks.figures import write
from benchmarks.timing import durations, in_turn, rates
from configs import vae
from vae_jax import run
from vae_jax.data import synthetic_faces
from vae_jax.experiment import assemble

# The precision of the activations and that of float32's products, by that of a line.
PRECISIONS = {
    "bf16": ("bf16", None),
    "tf32": ("fp32", "tensorfloat32"),
    "fp32": ("fp32", "highest"),
    "fp16": ("fp16", None),
}
KINDS = ("notebook", "rate", "repeated", "tests")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the programme is; smaller ones rehearse it.

    Attributes:
      num_steps: updates of the notebook's three epochs of CelebA, in batches of 64.
      num_images: pictures of CelebA's training split.
      batch_sizes: batch sizes of the trainings whose rates are taken, the most telling
        first.
      pixels: sides of the conv VAE's images.
      seconds: seconds that a turn takes, about.
      repeats: turns of each rival.
      repeated_steps: updates of the trainings whose bits are compared.
      drawn_faces: faces drawn for those trainings, by split.
    """

    num_steps: int = 7630
    num_images: int = 162_770
    batch_sizes: tuple[int, ...] = (256, 64, 1024)
    pixels: tuple[int, ...] = (64, 128, 256)
    seconds: float = 1.0
    repeats: int = 5
    repeated_steps: int = 2000
    drawn_faces: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"train": 2000, "validation": 200, "test": 64}
    )


def notebook(sizes: Sizes) -> dict[str, Any]:
    """Returns the seconds of the notebook's training, whole, in bfloat16.

    Compilation, in `compile_seconds`, is apart. The floor is the traffic of optimiser
    and EMA alone, see `limits.PASSES`.
    """
    config = training.plain(training.RECIPES["VAE"](), 64)
    config.precision = "bf16"
    split = training.pictures(config, sizes.num_images)
    ours = training.trainer(config, split, "device")
    start = time.perf_counter()
    ours(config.train.steps_per_dispatch)
    compile_seconds = time.perf_counter() - start
    rivals = {
        "vae_jax": ours,
        **training.peers("VAE", config, split, "bf16", with_loader=False),
    }
    turns = {
        name: functools.partial(train, sizes.num_steps)
        for name, train in rivals.items()
    }
    found = durations(in_turn(turns, repeats=sizes.repeats))
    floor = limits.step_floor(assemble(config, sizes.num_images), split, 64)
    floor = sizes.num_steps * floor["traffic_seconds"]
    return {
        "name": f"VAE, bf16, {sizes.num_steps} steps of 64",
        "unit": "s",
        "rivals": found,
        "compile_seconds": compile_seconds,
        "floor": {"traffic_seconds": floor},
        "time_over_floor": found["vae_jax"]["median"] / floor,
    }


def rate(
    name: str, pixels: int, precision: str, batch_size: int, sizes: Sizes
) -> dict[str, Any]:
    """Returns images/s of training, and how much of the machine they use.

    `share_of_flops` is XLA's count of a step's FLOPs over its time, by the rate of a
    matrix product of this precision; `share_of_bytes` is that of the traffic of
    parameters, optimiser and EMA, by the rate of the memory.

    Args:
      name: a key of `training.RECIPES`.
      pixels: pixels on the side of an image; images of more than 64 have colour.
      precision: a key of `PRECISIONS`.
      batch_size: images in an update.
      sizes: the programme's sizes: `seconds` and `repeats` of the turns.
    """
    config = training.plain(training.RECIPES[name](), batch_size)
    config.dataset.size, config.dataset.channels = pixels, 3 if pixels > 64 else 1
    config.precision, products = PRECISIONS[precision]
    split = training.pictures(config, max(4 * batch_size, 4096))
    with jax.default_matmul_precision(products):
        ours = training.trainer(config, split, "device")
        per_dispatch = config.train.steps_per_dispatch
        ours(per_dispatch)
        start = time.perf_counter()
        ours(per_dispatch)
        dispatches = max(1, round(sizes.seconds / (time.perf_counter() - start)))
        peers = training.peers(name, config, split, precision, with_loader=False)
        turns = {
            rival: functools.partial(train, dispatches * per_dispatch)
            for rival, train in {"vae_jax": ours, **peers}.items()
        }
        seconds = in_turn(turns, repeats=sizes.repeats)
        dtype = jnp.float32 if config.precision == "fp32" else jnp.bfloat16
        floor = limits.step_floor(
            assemble(config, len(split.images)), split, batch_size
        )
        limit = limits.machine(dtype=dtype)
    found = rates(seconds, dispatches * per_dispatch * batch_size)
    steps_per_second = found["vae_jax"]["median"] / batch_size
    return {
        "name": f"{name}, {precision}, {pixels} pixels, batch {batch_size}",
        "unit": "images/s",
        "rivals": found,
        "share_of_flops": steps_per_second * floor["flops"] / limit["flops"],
        "share_of_bytes": steps_per_second * floor["bytes"] / limit["bytes"],
    }


def repeated(sizes: Sizes, *, deterministic: bool) -> dict[str, Any]:
    """Says whether trainings end with the same bits: again, and stopped and resumed.

    Args:
      sizes: the programme's sizes: `repeated_steps` and `drawn_faces`.
      deterministic: whether `config.deterministic` is set.

    Returns:
      Among others `same_again` and `same_resumed`, and the seconds of a whole training.
    """

    def train(folder: Path, num_steps: int) -> tuple[run.Run, float]:
        config = vae.get_config()
        config.dataset.name = "synthetic_faces"
        config.dataset.data_dir = str(folder.parent / "faces")
        config.deterministic = deterministic
        config.train.num_steps = num_steps
        config.checkpoint.every_steps = config.eval.every_steps = sizes.repeated_steps
        start = time.perf_counter()
        trained = run.train(config, folder)
        return trained, time.perf_counter() - start

    def same(a: run.Run, b: run.Run) -> bool:
        leaves = (jax.tree.leaves(r.variables) for r in (a, b))
        return all(map(np.array_equal, *leaves))

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        synthetic_faces.prepare(place / "faces", sizes=dict(sizes.drawn_faces))
        first, _ = train(place / "first", sizes.repeated_steps)
        again, seconds = train(place / "again", sizes.repeated_steps)
        train(place / "resumed", sizes.repeated_steps // 2)
        resumed, _ = train(place / "resumed", sizes.repeated_steps)
        return {
            "name": f"VAE, {sizes.repeated_steps} steps, deterministic={deterministic}",
            "seconds": seconds,
            "same_again": same(first, again),
            "same_resumed": same(first, resumed),
        }


def marked_tests() -> dict[str, Any]:
    """Returns how the tests marked `gpu` end, which skip themselves without one."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:xdist"],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    lines = done.stdout.strip().splitlines()
    return {"name": "tests marked gpu", "rc": done.returncode, "says": lines[-20:]}


def programme(sizes: Sizes) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields the kind of each line, and what measures it, the most telling first."""
    largest = sizes.batch_sizes[0]
    conv = [("conv VAE", pixels) for pixels in sizes.pixels]
    models = [*conv[:1], ("VAE", 64), *conv[1:], ("AE", 64)]

    def rate_of(model, pixels, precision, batch_size):
        return "rate", functools.partial(
            rate, model, pixels, precision, batch_size, sizes
        )

    yield "notebook", functools.partial(notebook, sizes)
    for model in models[:2]:
        yield rate_of(*model, "bf16", largest)
    for deterministic in (False, True):
        yield (
            "repeated",
            functools.partial(repeated, sizes, deterministic=deterministic),
        )
    yield "tests", marked_tests
    for model in models[2:]:
        yield rate_of(*model, "bf16", largest)
    rest = itertools.product(PRECISIONS, sizes.batch_sizes, models)
    for precision, batch_size, model in rest:
        if (precision, batch_size) != ("bf16", largest):
            yield rate_of(*model, precision, batch_size)


def measure(
    sizes: Sizes, out: Path, budget: float, kinds: Collection[str] = KINDS
) -> dict[str, Any]:
    """Measures what the budget allows, and returns and writes it.

    Args:
      sizes: the programme's sizes.
      out: the file, written anew after each line.
      budget: seconds.
      kinds: kinds of the lines wanted, of `KINDS`.

    Returns:
      `machine`, `lines`, `failed` with each error, and `left_out`, how many lines there
      was no time for.
    """
    start, longest = time.perf_counter(), {}
    found: dict[str, Any] = {
        "machine": limits.description(),
        "lines": [],
        "failed": [],
        "left_out": 0,
    }
    for kind, measure_line in programme(sizes):
        if kind not in kinds:
            continue
        began = time.perf_counter()
        if began - start + longest.get(kind, 0) > budget:
            found["left_out"] += 1
            continue
        try:
            line = measure_line()
        except Exception as error:
            found["failed"].append({"kind": kind, "error": f"{error!r:.500}"})
            line = {"name": f"{kind} failed"}
        else:
            found["lines"].append(line)
        took = time.perf_counter() - began
        longest[kind] = max(took, longest.get(kind, 0))
        print(f"{line['name']}: {took:.0f} s", flush=True)
        write(out, found)
        jax.clear_caches()
    write(out, found)
    return found


def main() -> None:
    """Runs the programme, or some kinds of its lines."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description="Measures an accelerator within a budget of time.",
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--all", action="store_true", help="Every kind of line.")
    wanted.add_argument("--only", choices=KINDS, nargs="+", help="Kinds of lines.")
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser(),
        required=True,
        help="Folder of the file.",
    )
    parser.add_argument("--budget", type=float, default=540.0, help="Seconds; 540.")
    arguments = parser.parse_args()
    if not 0 < arguments.budget < math.inf:
        parser.error(f"--budget is {arguments.budget}; allowed is a number above 0")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        out = arguments.out / "accelerator.json"
        out.touch()
    except OSError as error:
        parser.error(f"--out is {str(arguments.out)!r}: {error.strerror}")
    found = measure(Sizes(), out, arguments.budget, arguments.only or KINDS)
    print(f"{out}: {len(found['lines'])} lines, {found['left_out']} left out")
    if found["failed"]:
        sys.exit(f"{len(found['failed'])} failed; {out} says why")


if __name__ == "__main__":
    # PyTorch is measured in the same process, and needs memory as well. Read when the
    # backend starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
