"""What can be asked of a prior: the flags of samples and completions."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from vae_jax.commands import abilities
from vae_jax.commands.flags import LARGEST, VALUES, define
from vae_jax.errors import UserError
from vae_jax.exploration import stacks
from vae_jax.models import build
from vae_jax.models.quantizers import MOST_CODES
from vae_jax.options import parse_by_resolution
from vae_jax.run import Run


def parse_temperature(
    text: str, name: str = "--temperature"
) -> float | dict[int, float]:
    """Returns a number of "0.8", and numbers by resolution of "4:1,16:0.7".

    Raises:
      UserError: in the flag's name, the text is no such thing.
    """
    try:
        if ":" not in text:
            found: Any = float(text)
            numbers = [found]
        else:
            found = parse_by_resolution(text, float)
            numbers = [*found.values()]
        # NaN is in no range.
        if not all(0 <= number <= LARGEST for number in numbers):
            raise ValueError("one is out of range")
        return found
    except ValueError as error:
        raise UserError(
            f"{name} is {text!r}; allowed is a number from 0 to {LARGEST:g}, or such "
            "numbers by resolution: 4:1,16:0.7"
        ) from error


ATTRIBUTES = flags.DEFINE_string(
    "attributes",
    None,
    "Attributes asked for: Smiling=1,Male=0.",
    flag_values=VALUES,
)
TEMPERATURE = define(
    "temperature",
    "The spread of codes; by resolution 4:1,16:0.7.",
    parse_temperature,
    "a number, or numbers by resolution: 4:1,16:0.7",
)
TOP_K = flags.DEFINE_integer(
    "top_k",
    None,
    "The likeliest discrete codes that are drawn from.",
    lower_bound=1,
    upper_bound=MOST_CODES,
    flag_values=VALUES,
)
PRIOR_STEPS = flags.DEFINE_integer(
    "prior_steps",
    None,
    "The steps of a flow from noise to a code.",
    lower_bound=1,
    upper_bound=10_000,
    flag_values=VALUES,
)
GUIDANCE = flags.DEFINE_float(
    "guidance",
    None,
    "Guidance of a flow by --attributes: 0 none, 1 as trained, above 1 more.",
    lower_bound=0.0,
    upper_bound=LARGEST,
    flag_values=VALUES,
)
# NaN passes any bound.
flags.register_validator(
    "guidance",
    lambda value: value is None or math.isfinite(value),
    "allowed is a finite number",
    flag_values=VALUES,
)


def parse_labels(run: Run, text: str | None) -> jax.Array | None:
    """Returns the labels that "Smiling=1,Male=0" stands for; the others are unknown."""
    if text is None:
        return None
    names = build.label_names(run.config.model)
    if not names:
        raise UserError(
            f"--attributes is {text!r}, but {run.workdir} holds a model without "
            "labels; configs/cvae.py trains one with, and over the codes of another "
            "run configs/latent_flow.py:labelled, or of a VQ-VAE "
            "configs/vq_prior.py:labelled"
        )
    labels = np.zeros(len(names), np.float32)
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in names or value not in ("0", "1") or labels[names.index(name)]:
            raise UserError(
                f"--attributes has {part!r}; allowed is NAME=1 or NAME=0, each once, "
                f"with a NAME of {', '.join(names)}"
            )
        labels[names.index(name)] = 1.0 if value == "1" else -1.0
    return jnp.asarray(labels)


def temperature_text(temperature: float | Mapping[int, float]) -> str:
    """Returns a temperature as the flag takes it."""
    if isinstance(temperature, Mapping):
        return ",".join(f"{at}:{number:g}" for at, number in temperature.items())
    return f"{temperature:g}"


def by_number(run: Run, temperature: Mapping[int, float]) -> jax.Array:
    """Returns the temperature of each number in a code, from those by resolution."""
    asked = f"--temperature is {temperature_text(temperature)}"
    sizes = abilities.check_hierarchical(run, asked)
    there = ", ".join(map(str, dict.fromkeys(sizes)))
    for at, number in temperature.items():
        if at not in sizes:
            raise UserError(
                f"--temperature has {at}:{number:g}; the resolutions of the layers of "
                f"{run.workdir} are {there}"
            )
    numbers = stacks.numbers_by_resolution(run.model(), temperature, 1.0)
    return jnp.asarray(numbers)
