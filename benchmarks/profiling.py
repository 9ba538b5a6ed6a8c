"""What fills a training step: the milliseconds of its kernels by kind, traced."""

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from benchmarks import training

# On a CPU kernels run on threads of these names, on a GPU on streams.
_KERNELS = re.compile(r"tf_XLAEigen|Stream")
# What contains other kernels, or waits for them.
_NO_KERNEL = re.compile(r"ThunkExecutor|Threadpool|Await|^while|^cond|^end: ")


def measure(name: str, batch_size: int = 64, num_steps: int = 20) -> dict[str, Any]:
    """Returns the milliseconds a step of a recipe's kernels, by kind, most first.

    Kinds are XLA's names without their numbers: `dot` and `ynn_fusion` are products
    (the latter sums as well), `copy` and what begins with it a change of layout,
    `concatenate` and `pad_slice_fusion` the patches of a convolution, and other
    fusions arithmetic by element. Kernels run side by side in part, so that the sum may
    exceed the step's time.

    Args:
      name: a key of `training.RECIPES`.
      batch_size: pictures in an update.
      num_steps: traced, a multiple of the recipe's steps per dispatch.
    """
    config = training.plain(training.RECIPES[name](), batch_size)
    train = training.trainer(config, training.pictures(config, 1000), "device")
    train(num_steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            train(num_steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile: Any = jax.profiler.ProfileData.from_file(str(path))
        milliseconds: Counter[str] = Counter()
        for plane in profile.planes:
            for line in plane.lines:
                if not _KERNELS.search(line.name):
                    continue
                for event in line.events:
                    if not _NO_KERNEL.search(event.name):
                        kind = re.sub(r"[.\d]+$", "", event.name)
                        milliseconds[kind] += event.duration_ns / 1e6 / num_steps
    return {
        "name": f"{name}, batch {batch_size}",
        "unit": "ms a step",
        "sum": sum(milliseconds.values()),
        "kernels": dict(milliseconds.most_common()),
    }
