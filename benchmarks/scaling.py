"""How a step's time and memory grow, each with one thing that may be made larger."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import devices, limits, training
from benchmarks.timing import Point, step_times
from configs import conv_vae, vae
from vae_jax.config import Config
from vae_jax.data import batches
from vae_jax.data.cache import Split
from vae_jax.experiment import assemble
from vae_jax.report import drawing
from vae_jax.training import step as step_lib

GIB = 2**30
# Widths of the VAE's hidden layer, and images in a data set.
HIDDEN_DIMS = (64, 256, 1024, 4096)
DATA_SETS = (25_000, 200_000, 1_000_000)
UNDONE = "XLA on a CPU undoes remat:\nits program needs as much with it"


def _vae(batch_size: int) -> Config:
    return training.plain(vae.get_config(), batch_size)


def _conv_vae(width: int, size: int, batch_size: int) -> Config:
    config = training.plain(conv_vae.get_config("gaussian"), batch_size)
    config.model.width, config.dataset.size = width, size
    # The networks of docs/speed.md.
    config.model.width_from = "finest"
    # A step takes long enough for one to be a dispatch.
    config.train.steps_per_dispatch = 1
    return config


def _step_times(
    name: str, x: str, configs: Iterable[tuple[float, Config]], seconds: float
) -> dict[str, Any]:
    """Returns a figure of the milliseconds of a step and of its floor."""
    measured, floors = [], []
    for at, config in configs:
        batch_size = config.train.batch_size
        split = training.pictures(config, 2 * batch_size)
        train = training.trainer(config, split, "device")
        point = step_times(train, config.train.steps_per_dispatch, seconds)
        measured.append({"at": at, **point})
        experiment = assemble(config, len(split.images))
        floor = limits.step_floor(experiment, split, batch_size)
        floors.append({"at": at, "median": 1e3 * floor["seconds"]})
    return {
        "name": name,
        "x": x,
        "unit": "ms a step",
        "curves": {"vae_jax": measured, "the machine's floor": floors},
    }


def against_batch(
    batch_sizes: Iterable[int] = (16, 32, 64, 128, 256, 512), seconds: float = 1.0
) -> dict[str, Any]:
    """Returns the step time of the notebook's VAE by pictures in a batch."""
    configs = ((batch, _vae(batch)) for batch in batch_sizes)
    return _step_times("VAE, 64x64 gray", "batch", configs, seconds)


def against_width(
    widths: Iterable[int] = (16, 32, 64, 128), batch_size: int = 16, seconds: float = 1
) -> dict[str, Any]:
    """Returns the step time of the conv VAE by its channels, `model.width`."""
    configs = ((width, _conv_vae(width, 64, batch_size)) for width in widths)
    name = f"conv VAE, 64x64 gray, batch {batch_size}"
    return _step_times(name, "width, channels", configs, seconds)


def against_resolution(
    sizes: Iterable[int] = (64, 128, 256), batch_size: int = 16, seconds: float = 1
) -> dict[str, Any]:
    """Returns the step time of the conv VAE by the side of its pictures."""
    configs = ((size, _conv_vae(64, size, batch_size)) for size in sizes)
    name = f"conv VAE, gray, batch {batch_size}"
    return _step_times(name, "resolution, pixels a side", configs, seconds)


def against_parameters(
    hidden_dims: Iterable[int] = HIDDEN_DIMS, batch_size: int = 64, seconds: float = 1
) -> dict[str, Any]:
    """Returns the step time of the notebook's VAE by its millions of parameters."""
    configs = []
    for hidden_dim in hidden_dims:
        config = _vae(batch_size)
        config.model.hidden_dim = hidden_dim
        leaves = jax.tree.leaves(assemble(config, batch_size).shapes.params)
        configs.append((sum(leaf.size for leaf in leaves) / 1e6, config))
    name = f"VAE, 64x64 gray, batch {batch_size}"
    return _step_times(name, "millions of parameters", configs, seconds)


def against_data_set(
    counts: Iterable[int] = DATA_SETS, batch_size: int = 64, seconds: float = 1
) -> dict[str, Any]:
    """Returns the step time of the notebook's VAE by images in the data set, by feed.

    The images are noise in a memory map on disk, as those of a run are.
    """
    config = _vae(batch_size)
    shape = training.pictures(config, 1).images.shape[1:]
    curves = {"from the device's memory": [], "streamed": []}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "images")
            images = np.memmap(path, np.uint8, "w+", shape=(count, *shape))
            some = training.pictures(config, min(count, 10_000)).images
            for first in range(0, count, len(some)):
                images[first : first + len(some)] = some[: count - first]
            split = Split(images, np.zeros((count, 0), bool))
            for feed, curve in zip(("device", "stream"), curves.values(), strict=True):
                train = training.trainer(config, split, feed)
                point = step_times(train, config.train.steps_per_dispatch, seconds)
                curve.append({"at": count / 1000, **point})
    return {
        "name": f"VAE, 64x64 gray, batch {batch_size}",
        "x": "thousands of images in the data set",
        "unit": "ms a step",
        "curves": curves,
    }


def memory_against_batch(
    batch_sizes: Iterable[int] = (16, 32, 64, 128, 256, 512),
) -> dict[str, Any]:
    """Returns the memory of a dispatch by images in a batch.

    That of XLA's program: its arguments, which are the state and the images of all its
    updates, and what it needs in between. It writes the new state over the old one.
    """
    recipes = {"VAE": _vae, "conv VAE": lambda batch: _conv_vae(64, 64, batch)}
    curves: dict[str, list[Point]] = {}
    for name, recipe in recipes.items():
        for batch_size in batch_sizes:
            config = recipe(batch_size)
            experiment = assemble(config, 2 * batch_size)
            split = training.pictures(config, 2 * batch_size)
            feed = batches.build_feed(
                "stream", split, seed=config.seed, batch_size=batch_size
            )
            dispatch: Any = step_lib.build_dispatch(experiment.update(), feed.gather)
            [xs] = feed.stream([(0, config.train.steps_per_dispatch)])
            state = experiment.state_shapes(config.train.sharding)
            stats: Any = dispatch.lower(state, {}, xs).compile().memory_analysis()
            needed = stats.argument_size_in_bytes + stats.temp_size_in_bytes
            point = {"at": batch_size, "median": needed / GIB}
            curves.setdefault(name, []).append(point)
    return {
        "name": "64x64 gray, memory of a dispatch",
        "x": "batch",
        "unit": "GiB",
        "curves": curves,
    }


def against_remat(
    sizes: Iterable[int] = (64, 128, 256), batch_size: int = 64, channels: int = 3
) -> dict[str, Any]:
    """Returns the memory of a conv VAE's gradient by resolution, and what remat saves.

    The figures are of loss and gradient: the bytes that the backward pass keeps of the
    forward one, by JAX's account, parameters included; those that XLA's compiled
    program needs beside its arguments and results; and where the device counts, the
    most that it held while that program ran.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    programs = []
    for remat in (True, False):
        told = "remat" if remat else "no remat"
        for size in sizes:
            config = _conv_vae(64, size, batch_size)
            config.model.remat, config.dataset.channels = remat, channels
            experiment = assemble(config, batch_size)
            state = experiment.initial_state()
            params, loss_fn = state.params, experiment.loss_fn()

            def loss(params, images, loss_fn=loss_fn, state=state.state):
                batch, key = {"image": images}, jax.random.key(0)
                return loss_fn(params, state, batch, key, jnp.int32(0))[0]

            shape = (batch_size, size, size, channels)
            images = jax.ShapeDtypeStruct(shape, jnp.uint8)
            kept = jax.eval_shape(
                lambda p, i, loss=loss: jax.vjp(lambda p: loss(p, i), p)[1],
                params,
                images,
            )
            kept_bytes = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(kept))
            compiled = jax.jit(jax.value_and_grad(loss)).lower(params, images).compile()
            stats: Any = compiled.memory_analysis()
            needed = stats.temp_size_in_bytes
            programs.append((needed, told, size, compiled, params, images))
            for label, value in (("kept for backward", kept_bytes), ("XLA", needed)):
                curve = curves.setdefault(f"{label}, {told}", [])
                curve.append({"at": size, "median": value / GIB})
    if jax.local_devices()[0].memory_stats() is not None:
        _add_peaks(programs, curves)
    return {
        "name": f"conv VAE, {'RGB' if channels == 3 else 'gray'}, batch {batch_size}",
        "x": "resolution, pixels a side",
        "unit": "GiB",
        "note": UNDONE if jax.default_backend() == "cpu" else "",
        "curves": curves,
    }


def _add_peaks(programs: list[Any], curves: dict[str, list[dict[str, Any]]]) -> None:
    # A device's peak only rises: the least program goes first.
    for _, told, size, compiled, params, images in sorted(programs, key=lambda p: p[0]):
        jax.block_until_ready(compiled(params, jnp.zeros(images.shape, images.dtype)))
        stats: Any = jax.local_devices()[0].memory_stats()
        curve = curves.setdefault(f"device's peak, {told}", [])
        curve.append({"at": size, "median": stats["peak_bytes_in_use"] / GIB})


def measure() -> list[dict[str, Any]]:
    """Returns all figures: `name`, `x`, `unit`, and `curves` of points by label.

    A point has `at`, the place on the axis `x`, and `median`; where it was timed,
    `lowest` and `highest` as well.
    """
    return [
        against_batch(),
        against_width(),
        against_resolution(),
        against_parameters(),
        against_data_set(),
        devices.against_devices(),
        memory_against_batch(),
        against_remat(),
    ]


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    """Draws a panel for each figure, four in a row, both axes logarithmic.

    Args:
      figures: figures that `measure` returned.
      path: path of the PNG file.
    """
    # Here, because it takes half as long to import as JAX.
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    columns, rows = min(len(figures), 4), -(-len(figures) // 4)
    sheet = drawing.new_figure(4.2 * columns, 3.8 * rows, layout="constrained")
    for number, figure in enumerate(figures, 1):
        axis = sheet.add_subplot(rows, columns, number)
        ticks: list[float] = []
        for label, points in figure["curves"].items():
            ticks = [point["at"] for point in points]
            values = np.asarray([point["median"] for point in points])
            spread = None
            if "lowest" in points[0]:
                low, high = (
                    np.asarray([p[k] for p in points]) for k in ("lowest", "highest")
                )
                spread = (values - low, high - values)
            style = "--" if "floor" in label or "no remat" in label else "-"
            axis.errorbar(
                ticks, values, spread, fmt=f"o{style}", markersize=4, label=label
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(ticks, [f"{round(tick, 1):g}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_title(figure["name"], fontsize=10)
        note = figure.get("note")
        axis.set_xlabel(f"{figure['x']}\n{note}" if note else figure["x"])
        axis.set_ylabel(figure["unit"])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    drawing.save(sheet, path)
