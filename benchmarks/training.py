"""Training steps: images/s of vae_jax, of PyTorch, and of what the machine could do."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import limits
from benchmarks.timing import in_turn, rates
from configs import ae, conv_vae, hvae, vae
from vae_jax import sharding
from vae_jax.config import Config
from vae_jax.data import batches
from vae_jax.data.cache import Split
from vae_jax.experiment import assemble
from vae_jax.models.networks import ladder
from vae_jax.training import step as step_lib

RECIPES: dict[str, Callable[[], Config]] = {
    "AE": ae.get_config,
    "VAE": vae.get_config,
    # With the likelihood that the peer has.
    "conv VAE": lambda: conv_vae.get_config("gaussian"),
    "ladder": hvae.get_config,
}
# Models that train in batches of these sizes alone.
BATCH_SIZES = {"ladder": [16]}


def plain(config: Config, batch_size: int) -> Config:
    """Returns a recipe in float32, without what the peer's loop has not."""
    config.precision = "fp32"
    config.train.batch_size = batch_size
    config.train.num_steps = 1_000_000
    config.optimizer.update(
        {
            "warmup_steps": 0,
            "clip_norm": None,
            "clip_update": None,
            "schedule": "constant",
        }
    )
    return config


def pictures(config: Config, count: int) -> Split:
    """Returns noise of the shape that a recipe takes: no step's time depends on it."""
    size, channels = config.dataset.size, config.dataset.channels
    images = np.random.default_rng(0).integers(
        0, 256, (count, size, size, channels), np.uint8
    )
    return Split(images=images, attributes=np.zeros((count, 0), bool))


def trainer(config: Config, split: Split, feed_kind: str) -> Callable[[int], float]:
    """Returns train(num_steps) -> the last loss: the loop without logs and saves."""
    experiment = assemble(config, len(split.images))
    feed = batches.build_feed(
        feed_kind, split, seed=config.seed, batch_size=config.train.batch_size
    )
    mesh = sharding.data_mesh()
    everywhere = sharding.replicated(mesh)
    state_shardings = jax.tree.map(
        lambda a: a.sharding, experiment.state_shapes(config.train.sharding)
    )
    dispatch = step_lib.build_dispatch(
        experiment.update(), feed.gather, (state_shardings, everywhere)
    )
    data = sharding.put(feed.data, everywhere)
    state = experiment.initial_state(shardings=state_shardings)
    per_dispatch = config.train.steps_per_dispatch
    first, metrics = 0, {}

    def train(num_steps: int) -> float:
        nonlocal state, first, metrics
        calls = [(first + k, per_dispatch) for k in range(0, num_steps, per_dispatch)]
        for xs in feed.stream(calls):
            xs = sharding.put(xs, sharding.cut_batches(mesh))
            state, metrics = dispatch(state, data, xs)
        first += num_steps
        return float(metrics["loss"][-1])

    return train


def new_peer(name: str, config: Config) -> Any:
    """Returns PyTorch's model of a recipe, on its device.

    Args:
      name: a key of `RECIPES`.
      config: settings of the recipe.
    """
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks import torch_ladder, torch_models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings, size = config.model, config.dataset.size
    channels, dims = config.dataset.channels, settings.latent_dim
    if name in ("AE", "VAE"):
        kind = torch_models.AE if name == "AE" else torch_models.VAE
        return kind(size**2 * channels, settings.hidden_dim, dims).to(device)
    if name == "ladder":
        layers, widths = map(ladder.parse, (settings.layers, settings.widths))
        model: Any = torch_ladder.Ladder(
            size, layers, widths, dims, settings.num_components
        )
    else:
        model = torch_models.ConvVAE(size, channels, settings.width, dims)
    return model.to(device, memory_format=torch.channels_last)


def peers(
    name: str,
    config: Config,
    split: Split,
    precision: str = "fp32",
    with_loader: bool = True,
) -> dict[str, Callable[[int], float]]:
    """Returns PyTorch's loops; none where it is not installed.

    Args:
      name: a key of `RECIPES`.
      config: settings of the recipe.
      split: split with the images.
      precision: see `torch_models.trainer`.
      with_loader: whether the loop with a DataLoader is among them.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    from benchmarks import torch_models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    new = functools.partial(new_peer, name, config)
    make = functools.partial(
        torch_models.trainer,
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        precision=precision,
    )
    batch_size = config.train.batch_size
    found = {}
    if with_loader:
        loader = torch_models.eager_batches(split.images, batch_size)
        found["PyTorch, DataLoader"] = make(new(), loader, best=False)
    kinds = {"PyTorch, fused": None, "PyTorch, compiled": "default"}
    if device == "cuda":
        kinds["PyTorch, CUDA graphs"] = "reduce-overhead"
    for kind, compiled in kinds.items():
        resident = torch_models.tensor_batches(split.images, batch_size, device)
        train = make(new(), resident, best=True, compiled=compiled)
        try:
            train(1)
        except Exception as error:
            # torch.compile asks for a C++ compiler, and for more than that.
            print(f"{kind}: left out, {type(error).__name__}")
            continue
        found[kind] = train
    return found


def measure(
    name: str, *, batch_size: int, seconds: float, repeats: int, num_images: int
) -> dict[str, Any]:
    """Returns the rates of a recipe's rivals, and of the machine's limit.

    Args:
      name: a key of `RECIPES`.
      batch_size: pictures in an update.
      seconds: seconds of a turn of vae_jax, about; its rivals take as many steps.
      repeats: turns of each rival.
      num_images: number of images that batches are drawn from.
    """
    config = plain(RECIPES[name](), batch_size)
    split = pictures(config, num_images)
    rivals = {
        "vae_jax": trainer(config, split, "device"),
        "vae_jax, stream feed": trainer(config, split, "stream"),
        **peers(name, config, split),
    }
    per_dispatch = config.train.steps_per_dispatch
    rivals["vae_jax"](per_dispatch)
    start = time.perf_counter()
    rivals["vae_jax"](per_dispatch)
    dispatches = max(1, round(seconds / (time.perf_counter() - start)))
    num_steps = dispatches * per_dispatch
    turns = {
        rival: functools.partial(train, num_steps) for rival, train in rivals.items()
    }
    found = rates(in_turn(turns, repeats=repeats), num_steps * batch_size)
    floor = limits.step_floor(assemble(config, num_images), split, batch_size)
    step_seconds = batch_size / found["vae_jax"]["median"]
    return {
        "name": f"{name}, batch {batch_size}",
        "unit": "images/s",
        "steps_in_a_turn": num_steps,
        "rivals": found,
        "floor": floor,
        "time_over_floor": step_seconds / floor["seconds"],
    }
