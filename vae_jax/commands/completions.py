"""--mode=complete: what a learned prior over discrete codes makes of part of a face."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, Int, UInt8

from vae_jax.commands import abilities, captions
from vae_jax.commands.flags import (
    INDICES,
    NUM_IMAGES,
    PICTURES,
    SEED,
    VALUES,
    Command,
    define_numbers,
)
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import (
    check_one_of,
    images_at,
    own_pictures,
)
from vae_jax.commands.prior_flags import (
    ATTRIBUTES,
    TEMPERATURE,
    TOP_K,
    parse_labels,
    temperature_text,
)
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.exploration import sampling
from vae_jax.keys import Stream, key
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

NUM_COMPLETIONS = 6
NUM_COMPLETED = 4
HALVES = ("top", "bottom", "left", "right")
KEEP = flags.DEFINE_enum(
    "keep", None, HALVES, "The half of a picture that is kept.", flag_values=VALUES
)
BOX = define_numbers(
    "box",
    "The box that is drawn anew, left,top,right,bottom in pixels.",
    int,
)


@dataclass(frozen=True)
class Completions:
    """Pictures of which a part was drawn anew.

    Attributes:
      rows: a row for each picture: itself, what was kept of it, and completions.
      record: what was hidden, and how it was drawn.
    """

    rows: Float[np.ndarray, "P columns H W C"]
    record: dict[str, Any]


def hidden_by(
    size: int, keep: str | None, box: Sequence[int] | None
) -> Bool[np.ndarray, "H W"]:
    """Returns which pixels of an image are hidden.

    Args:
      size: height and width.
      keep: the half that is kept, of `HALVES`; or None.
      box: left, top, right, bottom of what is hidden, where `keep` is None.

    Raises:
      UserError: the box is empty, or not within the image, or all of it.
    """
    hidden = np.zeros((size, size), bool)
    middle = size // 2
    halves = {
        "top": (0, middle, size, size),
        "bottom": (0, 0, size, middle),
        "left": (middle, 0, size, size),
        "right": (0, 0, middle, size),
    }
    if keep is not None:
        box = halves[keep]
    assert box is not None
    told = f"--box is {','.join(map(str, box))}"
    if len(box) != 4:
        raise UserError(f"{told}; allowed are four numbers, left,top,right,bottom")
    left, top, right, bottom = box
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise UserError(
            f"{told}; allowed is left < right and top < bottom, from 0 to {size}"
        )
    hidden[top:bottom, left:right] = True
    if hidden.all():
        raise UserError(f"{told}, which is the whole image; --mode=sample draws such")
    return hidden


@jax.jit
def _encode(model: Any, images: Array) -> Int[Array, "P N"]:
    return model.indices(model.encode(images))


def complete(
    run: Run,
    pictures: UInt8[np.ndarray, "P H W C"],
    hidden: Bool[np.ndarray, "H W"],
    *,
    labels: Float[Array, " A"] | None = None,
    num_completions: int = NUM_COMPLETIONS,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Completions:
    """Draws what may stand where a part of pictures is hidden.

    The encoder sees the mean of what is kept in place of what is hidden. Codes of
    places without a hidden pixel stay, the prior draws the others, and the decoder
    draws the whole. A transformer goes on from the codes before a place, row by row; a
    masked prior sees all that is kept.

    Args:
      run: a run with a learned prior over discrete codes.
      pictures: P of them, as the model sees images.
      hidden: the pixels that are hidden.
      labels: labels that the prior is told, the same of all pictures.
      num_completions: completions of each picture.
      seed: seed of what is drawn.
      temperature: see `sampling.sample_prior`.
      top_k: see `sampling.sample_prior`.

    Raises:
      UserError: there is no such prior.
    """
    abilities.check_learned_codes(run, "--mode is complete")
    model = run.model()
    originals = to_unit_interval(pictures)
    means = originals[:, ~hidden].mean(axis=1)[:, None, None]
    kept = np.where(hidden[None, :, :, None], means, originals).astype(np.float32)
    is_new = np.concatenate(
        [
            hidden.reshape(h, len(hidden) // h, w, -1).any(axis=(1, 3)).ravel()
            for h, w, _ in model.code_shape
        ]
    )
    known = np.where(is_new, -1, np.asarray(_encode(model, jnp.asarray(kept))))
    samples_key = key(seed, Stream.SAMPLING)
    z = np.asarray(
        sampling.draw_codes(
            model, samples_key, num_completions, labels, temperature, top_k, known
        )
    )
    decoded = sampling.decode_codes(model, z.reshape(-1, z.shape[-1]))
    drawn = decoded.reshape(*z.shape[:2], *originals.shape[1:]).swapaxes(0, 1)
    rows = np.concatenate([originals[:, None], kept[:, None], drawn], axis=1)
    record = {
        **abilities.made_by(run),
        "prior": run.config.model.prior,
        "new_codes": int(is_new.sum()),
        "codes": len(is_new),
        "num_images": num_completions,
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
    }
    return Completions(rows, record)


def draw_completions(run: Run, found: Completions, of: dict[str, Any]) -> list[Path]:
    """Writes the picture completions to the run's images/, and its record beside it.

    Args:
      run: the run that drew them.
      found: the completions.
      of: the flags by which they are drawn anew, None where there is no need of one.
    """
    path = run.image_path("completions")
    completions = found.rows.shape[1] - 2
    grids.image_grid(
        found.rows,
        path,
        columns=["image", "kept", *("completion" for _ in range(completions))],
        caption=[
            "Images of which a part is hidden, and what the prior over codes draws "
            "in its place. What is kept is decoded from its codes as well.",
            captions.command(run, "complete", **of),
        ],
    )
    write_json(path.with_suffix(".json"), of | found.record)
    return [path, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "complete")
    abilities.check_learned_codes(run, "--mode is complete")
    check_one_of(PICTURES, INDICES)
    check_one_of(KEEP, BOX)
    keep = KEEP.value
    if keep is None and BOX.value is None:
        keep = "top"
    hidden = hidden_by(run.config.dataset.size, keep, BOX.value)
    labels, own = parse_labels(run, ATTRIBUTES.value), own_pictures(run)
    temperature = 1.0 if TEMPERATURE.value is None else TEMPERATURE.value
    if isinstance(temperature, dict):
        raise UserError(
            f"--temperature is {temperature_text(temperature)}; with --mode=complete "
            "allowed is one number"
        )
    if own is None:
        names = INDICES.value
        if names is None:
            names = [*range(min(NUM_COMPLETED, run.recipe["pictures"]["test"]))]
        pictures, _ = images_at(run, names, "--mode=complete of test pictures")
        of = {"indices": [*names]}
    else:
        of, pictures = {"pictures": own[0]}, own[1]
    found = complete(
        run,
        pictures,
        hidden,
        labels=labels,
        num_completions=NUM_IMAGES.value or NUM_COMPLETIONS,
        seed=SEED.value,
        temperature=temperature,
        top_k=TOP_K.value,
    )
    of |= {
        "keep": keep,
        "box": BOX.value,
        "attributes": ATTRIBUTES.value,
        "num_images": NUM_IMAGES.value,
        "seed": SEED.value or None,
        "temperature": TEMPERATURE.value,
        "top_k": TOP_K.value,
    }
    return draw_completions(run, found, of)


COMMAND = Command(
    meaning="Completes faces by a learned prior over discrete codes.",
    example="--workdir=runs/vq_prior --pictures=me.jpg --keep=top",
    flags={
        "pictures": "They replace test images.",
        "indices": f"Default: the first {NUM_COMPLETED} of them.",
        "keep": "Default: top.",
        "box": "It replaces --keep.",
        "num_images": f"Completions of each picture. Default: {NUM_COMPLETIONS}.",
        "seed": "Default: 0.",
        "temperature": "Default: 1.",
        "top_k": "Default: all.",
        "attributes": "Others are unknown.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
