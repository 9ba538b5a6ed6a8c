"""Evaluation and sampling of a trained model: images/s of vae_jax and of PyTorch."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import training
from benchmarks.timing import in_turn, rates
from vae_jax.config import Config
from vae_jax.data.cache import Split
from vae_jax.evaluation import evaluate
from vae_jax.experiment import assemble
from vae_jax.exploration import batching, sampling
from vae_jax.models import build
from vae_jax.models.contract import Variables

MODELS = ("VAE", "conv VAE")
BOUND = "importance-weighted bound"


def _encode(model: Any, images: Any) -> tuple[Any, Any]:
    if hasattr(model, "encode"):
        return model.encode(images)
    hidden = model.encoder(images.flatten(1))
    return model.mean(hidden), model.logvar(hidden)


def _log_px(model: Any, images: Any, z: Any) -> tuple[Any, Any]:
    """Returns log p(x|z) [S,B] in nats and the means [S,B,P], of z [S,B,D]."""
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks.torch_models import ROUNDING_VARIANCE

    maps = model.decode(z.flatten(0, 1))
    mean_map, logvar_map = (part.reshape(*z.shape[:2], -1) for part in maps)
    mean, variance = torch.sigmoid(mean_map), logvar_map.exp() + ROUNDING_VARIANCE
    squared = torch.square(images.flatten(1) - mean) / variance
    log_px = -0.5 * (squared + torch.log(variance) + math.log(2 * math.pi))
    return log_px.sum(-1), mean


def peer_figures(model: Any, images: Any, noise: Any) -> dict[str, Any]:
    """Returns the figures of `objectives.elbo_figures` by image, in PyTorch.

    Args:
      model: PyTorch's model, from `training.new_peer`.
      images: [B,C,H,W] in [0, 1].
      noise: [B,D], the posterior's.
    """
    mean, logvar = _encode(model, images)
    log_px, means = _log_px(model, images, (mean + (0.5 * logvar).exp() * noise)[None])
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp())
    return {
        "elbo": log_px[0] - kl.sum(1),
        "log_px": log_px[0],
        "kl": kl.sum(1),
        "kl_by_dimension": kl,
        "mse": (means[0] - images.flatten(1)).square().mean(1),
    }


def peer_bound(model: Any, images: Any, noise: Any) -> Any:
    """Returns the sum over S samples of p(x,z)/q(z|x), its logarithm [B], in PyTorch.

    Args:
      model: PyTorch's model, from `training.new_peer`.
      images: [B,C,H,W] in [0, 1].
      noise: [S,B,D], the posterior's.
    """
    mean, logvar = _encode(model, images)
    z = mean + (0.5 * logvar).exp() * noise
    log_px, _ = _log_px(model, images, z)
    # The normal densities' constants cancel.
    log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(-1)
    return (log_px + log_ratio).logsumexp(0)


def peer_decode(model: Any, z: Any) -> Any:
    """Returns the decoder's means of codes [B,D], in PyTorch."""
    return model.decode(z)[0].sigmoid()


def _peer_batches(split: Split, batch_size: int, device: Any) -> Iterator[Any]:
    import torch  # pyright: ignore[reportMissingImports]

    for first in range(0, len(split.images), batch_size):
        levels = torch.from_numpy(split.images[first : first + batch_size])
        yield levels.to(device).permute(0, 3, 1, 2).float() / 255


def _num_chunks(config: Config) -> int:
    return -(-config.eval.importance_samples // config.eval.samples_per_chunk)


def _peers(
    kind: str, name: str, config: Config, split: Split
) -> dict[str, Callable[[], Any]]:
    """Returns PyTorch's loops, eager and compiled; none where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    model = training.new_peer(name, config)
    device = next(model.parameters()).device
    dims, batch_size = config.model.latent_dim, config.eval.batch_size
    chunk = config.eval.samples_per_chunk

    def evaluation(figures: Callable[..., Any]) -> dict[str, np.ndarray]:
        parts = [
            figures(model, images, torch.randn(len(images), dims, device=device))
            for images in _peer_batches(split, batch_size, device)
        ]
        return {
            key: torch.cat([part[key] for part in parts]).cpu().numpy()
            for key in parts[0]
        }

    def bound(log_sum: Callable[..., Any]) -> np.ndarray:
        parts = []
        for images in _peer_batches(split, batch_size, device):
            shape = (chunk, len(images), dims)
            chunks = [
                log_sum(model, images, torch.randn(shape, device=device))
                for _ in range(_num_chunks(config))
            ]
            parts.append(torch.stack(chunks).logsumexp(0))
        return torch.cat(parts).cpu().numpy()

    def samples(decode: Callable[..., Any]) -> np.ndarray:
        parts = [
            decode(model, torch.randn(len(part), dims, device=device)).cpu()
            for part in torch.arange(len(split.images)).split(batching.BATCH_SIZE)
        ]
        return torch.cat(parts).numpy()

    loop, function = {
        "evaluation": (evaluation, peer_figures),
        BOUND: (bound, peer_bound),
        "samples of the prior": (samples, peer_decode),
    }[kind]

    def run(function: Callable[..., Any]) -> Any:
        with torch.inference_mode():
            return loop(function)

    found = {"PyTorch, eager": functools.partial(run, function)}
    compiled = functools.partial(run, torch.compile(function))
    try:
        compiled()
    except Exception as error:
        # torch.compile asks for a C++ compiler, and for more than that.
        print(f"PyTorch, compiled: left out, {type(error).__name__}")
        return found
    return {**found, "PyTorch, compiled": compiled}


def _ours(kind: str, config: Config, split: Split) -> Callable[[], Any]:
    experiment, settings = assemble(config, len(split.images)), config.eval
    state = experiment.initial_state()
    variables = Variables(state.params, state.state)
    if kind == "samples of the prior":
        model = build.merge(experiment.graphdef, variables)
        key = jax.random.key(config.seed)
        return lambda: sampling.sample_prior(model, key, len(split.images))
    figures = None
    if kind == BOUND:
        samples = settings.importance_samples
        figures = evaluate.bound_figures(samples, settings.samples_per_chunk)
    evaluator = experiment.evaluator(figures)
    return lambda: evaluator(variables, split)


def measure(
    repeats: int, *, num_images: int = 2000, name: str = "VAE"
) -> list[dict[str, Any]]:
    """Returns the rates of evaluation, of the bound and of sampling, in images/s.

    Evaluation is that of the validation split in training: ELBO and its parts, and
    mse, by image. The bound is of a quarter of the images, from as many samples as the
    recipe says. The samples are the decoder's means at draws of the prior; eager
    PyTorch computes their variances as well.

    Args:
      repeats: turns of each rival.
      num_images: number of images, which are noise: no time depends on what is in them.
      name: one of `MODELS`.
    """
    config = training.plain(training.RECIPES[name](), 64)
    lines = []
    for kind, count in (
        ("evaluation", num_images),
        (BOUND, max(1, num_images // 4)),
        ("samples of the prior", num_images),
    ):
        split = training.pictures(config, count)
        rivals = {
            "vae_jax": _ours(kind, config, split),
            **_peers(kind, name, config, split),
        }
        lines.append(
            {
                "name": f"{name}, {kind}",
                "unit": "images/s",
                "num_images": count,
                "rivals": rates(in_turn(rivals, repeats=repeats), count),
            }
        )
    return lines
