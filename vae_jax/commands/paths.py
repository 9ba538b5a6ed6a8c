"""Ways through the codes of a trained run: between pictures, and along dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vae_jax.commands import abilities
from vae_jax.commands.codes import dimensions
from vae_jax.commands.evaluation import ACTIVE_VARIANCE
from vae_jax.errors import UserError
from vae_jax.exploration import interpolation, sampling
from vae_jax.keys import Stream, key
from vae_jax.models.likelihoods import LEVELS
from vae_jax.report import plots
from vae_jax.report.writer import write_json
from vae_jax.run import Run

NUM_WAY_POINTS = 8
# A traversal goes so many standard deviations from the mean to either side.
REACH = 3.0


def _test_pictures(
    run: Run, indices: Sequence[int], mode: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns test pictures, [N,H,W,C] uint8, and their labels, [N,A] or None."""
    dataset = run.dataset_for(f"--mode={mode} of test pictures")
    pictures = dataset.splits["test"].images
    for index in indices:
        if not 0 <= index < len(pictures):
            raise UserError(
                f"--indices has {index}; the test split has pictures 0 to "
                f"{len(pictures) - 1}"
            )
    labels = run.labels("test")
    chosen = list(indices)
    return pictures[chosen], None if labels is None else np.asarray(labels)[chosen]


def _prior_codes(run: Run, seeds: Sequence[int]) -> np.ndarray:
    """Returns the code that each seed draws from the prior first, [N,D]."""
    abilities.check_prior(
        run,
        f"--seeds is {','.join(map(str, seeds))}",
        "allowed are --indices of test pictures and --pictures of your own",
    )
    prior = run.model().prior_of()
    draws = [prior.sample(key(seed, Stream.SAMPLING), 1) for seed in seeds]
    return np.concatenate(draws)


def _way_points(
    run: Run,
    indices: Sequence[int] | None,
    seeds: Sequence[int] | None,
    pictures: tuple[Sequence[str], np.ndarray] | None,
) -> tuple[str, list[Any], np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns the way points' kind, names, codes, labels and pictures."""
    if indices is None:
        indices = range(min(NUM_WAY_POINTS, run.recipe["pictures"]["test"]))
    kind, names = "indices", list(indices)
    if seeds is not None:
        kind, names = "seeds", list(seeds)
    elif pictures is not None:
        kind, names = "pictures", list(pictures[0])
    if len(names) < 2:
        raise UserError(f"--{kind} is {','.join(map(str, names))}; two are needed")
    if seeds is not None:
        return kind, names, _prior_codes(run, seeds), None, None
    images, labels = (
        _test_pictures(run, indices, "interpolate")
        if pictures is None
        else (pictures[1], None)
    )
    codes = sampling.encode_images(run.model(), images, labels)
    return kind, names, codes, labels, images


def _row_figures(
    a: np.ndarray, b: np.ndarray, frames: np.ndarray, spherical: bool
) -> dict[str, float]:
    """Returns how long the codes are on the way from a to b, and how even it looks."""
    norms = np.linalg.norm(interpolation.interpolate(a, b, 3, spherical), axis=1)
    names = ("norm_first", "norm_middle", "norm_last")
    steps = np.mean(np.square(np.diff(frames, axis=0)), axis=(1, 2, 3))
    mean = float(steps.mean())
    return dict(zip(names, norms.tolist(), strict=True)) | {
        "mean_squared_step": mean,
        # No step at all is an even way, too.
        "largest_over_mean": float(steps.max()) / mean if mean else 1.0,
    }


def draw_interpolation(
    run: Run,
    *,
    indices: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    pictures: tuple[Sequence[str], np.ndarray] | None = None,
    num_steps: int = 10,
    spherical: bool = False,
) -> list[Path]:
    """Draws the way from each code to the next, decoded by the EMA parameters.

    images/interpolation.png has a row for each pair of way points; an odd last one is
    paired with the one before it. Pictures stand in front of and behind the frames
    that their codes, the posterior's means, are decoded to. images/interpolation.gif
    goes through all way points and back to the first. images/interpolation.json says
    for each row how long the codes are, and how far neighbouring frames are apart:
    `mean_squared_step`, over pixels and frames, and how many times that the largest
    step is.

    A conditional VAE's labels change along with the codes, linearly; those of the
    prior's samples and of the user's pictures are unknown.

    Args:
      run: of a VAE or an autoencoder.
      indices: of test pictures, two at least; the first eight where no way points
        are given.
      seeds: of samples of the prior, instead.
      pictures: the user's, instead: files, and what is in them as the model sees
        pictures, [N,H,W,C] uint8.
      num_steps: frames from each way point to the next, both included; at least 2.
      spherical: see `interpolation.interpolate`.

    Returns:
      The files.

    Raises:
      UserError: there is one way point only, no such test picture, or no prior.
    """
    kind, names, codes, labels, images = _way_points(run, indices, seeds, pictures)
    around = [*range(len(codes)), 0]
    way = interpolation.path(codes[around], num_steps, spherical)
    if labels is not None:
        labels = interpolation.path(labels[around], num_steps, spherical=False)
    frames = sampling.decode_codes(run.model(), way, labels)

    rows, figures = [], []
    for first in (min(i, len(codes) - 2) for i in range(0, len(codes), 2)):
        last = first + 1
        row = frames[first * (num_steps - 1) :][:num_steps]
        figures.append(
            {"from": names[first], "to": names[last]}
            | _row_figures(codes[first], codes[last], row, spherical)
        )
        if images is not None:
            ends = images[[first, last]].astype(np.float32) / (LEVELS - 1)
            row = np.concatenate([ends[:1], row, ends[1:]])
        rows.append(row)

    path = run.image_path("interpolation.png")
    plots.image_grid(np.stack(rows), path)
    # The last frame is the first again.
    plots.animation(frames[:-1], path.with_suffix(".gif"))
    content = {
        "way_points": {kind: names},
        "interpolation": "spherical" if spherical else "linear",
        "num_steps": num_steps,
        "rows": figures,
    }
    write_json(path.with_suffix(".json"), content)
    return [path.with_suffix(suffix) for suffix in (".png", ".gif", ".json")]


def draw_traversal(
    run: Run,
    num_dimensions: int = 10,
    image_index: int = 0,
    num_values: int = 11,
    picture: np.ndarray | None = None,
) -> list[Path]:
    """Draws what each dimension of a picture's code does to it, by the EMA parameters.

    images/traversal.png has a row for each dimension, the one of the largest KL to the
    prior first, and a column for each value: from three standard deviations of the
    prior below its mean to three above, the other dimensions as the picture has them.
    Where the KL is not analytic, the order is by the variance of the posterior's mean.
    An autoencoder has no prior: its codes' mean, standard deviation and variance take
    its place. images/traversal.gif moves all rows at once, there and back.

    images/traversal.json has the order of all dimensions, what they are `ordered_by`,
    over the validation split `kl_by_dimension` in nats and `variance_by_dimension` of
    the posterior's mean (the autoencoder's code), and a VAE's `active_units` as
    eval.json has them; what is not defined is null.

    Args:
      run: of a VAE or an autoencoder.
      num_dimensions: to draw, all where there are fewer.
      image_index: of the test picture.
      num_values: of each dimension.
      picture: the user's instead, [H,W,C] uint8; a conditional VAE's labels are
        unknown then.

    Returns:
      The files.

    Raises:
      UserError: there is no such test picture.
    """
    pictures, labels = (
        _test_pictures(run, [image_index], "traverse")
        if picture is None
        else (picture[None], None)
    )
    model = run.model()
    known = dimensions(run)
    variances, kl = known["variance"], known.get("kl")
    order = np.argsort(-(variances if kl is None else kl), kind="stable")
    drawn = order[:num_dimensions].tolist()

    (code,) = sampling.encode_images(model, pictures, labels)
    label = None if labels is None else labels[0]
    active_units, ordered_by = None, "variance of the code"
    if abilities.has_posterior(run):
        active_units = int(np.sum(variances > ACTIVE_VARIANCE))
        ordered_by = "kl" if kl is not None else "variance of the posterior's mean"
    # Codes without a prior have no other scale than their own.
    mean, std = known["mean"], known["std"]
    if abilities.has_prior(run):
        prior = model.prior_of(None if label is None else jnp.asarray(label))
        mean, std = np.asarray(prior.mean), np.asarray(prior.std)
    offsets = np.linspace(-REACH, REACH, num_values)
    values = mean[drawn, None] + std[drawn, None] * offsets
    changed = interpolation.traversal(code, drawn, values)
    decoded = sampling.decode_codes(model, changed.reshape(-1, len(code)), label)
    images = decoded.reshape(*changed.shape[:2], *decoded.shape[1:])

    path = run.image_path("traversal.png")
    plots.image_grid(images, path)
    there = [
        plots.tiled(plots.nearly_square(images[:, column]))
        for column in range(num_values)
    ]
    plots.animation(np.stack(there + there[-2:0:-1]), path.with_suffix(".gif"))
    content = {
        "image_index": image_index if picture is None else None,
        "ordered_by": ordered_by,
        "order": order.tolist(),
        "drawn": drawn,
        "values": values.tolist(),
        "kl_by_dimension": None if kl is None else kl.tolist(),
        "variance_by_dimension": variances.tolist(),
        "active_units": active_units,
    }
    write_json(path.with_suffix(".json"), content)
    return [path.with_suffix(suffix) for suffix in (".png", ".gif", ".json")]
