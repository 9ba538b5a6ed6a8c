"""What a picture is made of: a face and what is changed in it, as flags have it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from vae_jax.commands.prior_flags import temperature_text
from vae_jax.errors import UserError

PROGRAM = "vae_jax.explorer"
# What a face comes from: samples, the test split, the user.
KINDS = ("seed", "test", "picture")


@dataclass(frozen=True)
class Face:
    """A face, before anything in it is changed.

    Attributes:
      kind: one of `KINDS`.
      name: the seed, the index in the test split, or the name of the file.
      code: the face's code, where it is no sample; a sample's depends on sampler and
        temperature.
      labels: labels that the model is given of it, or None.
    """

    kind: str
    name: int | str
    code: Float[np.ndarray, "1 D"] | None = field(default=None, compare=False)
    labels: Float[np.ndarray, "1 A"] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Returns the face as --face takes it."""
        return f"{self.kind}={self.name}"


@dataclass(frozen=True)
class Look:
    """What a picture is a function of, beside the model.

    Attributes:
      face: the face that is changed.
      sampler: source of samples, "prior" or "gaussian"; None without samples.
      estimator: estimator of the directions of attributes; None without directions.
      goal: a second face, or None.
      share: share of the way to the second face, from 0 to 1.
      up_to: the finest resolution whose codes change on that way, where finer ones and
        the labels stay the first face's; None where all change.
      temperature: temperature of samples, one number or by resolution.
      dimensions: standard deviations that are added to each dimension.
      attributes: number of times that the direction of each attribute is added.
      realism: setting of the dial of a decoder that has one, from 0 to 1.
    """

    face: Face
    sampler: str | None = None
    estimator: str | None = None
    goal: Face | None = None
    share: float = 0.0
    up_to: int | None = None
    temperature: float | Mapping[int, float] = 1.0
    dimensions: Mapping[int, float] = field(default_factory=dict)
    attributes: Mapping[str, float] = field(default_factory=dict)
    realism: float = 0.0

    def command(self, opened: Sequence[str]) -> str:
        """Returns the command that writes this picture.

        Args:
          opened: the flags that name the model, --workdir=runs/vae say.
        """
        flags: dict[str, object] = {"face": self.face}
        if self.goal is not None:
            flags |= {"toward": self.goal, "share": f"{self.share:g}"}
            if self.up_to is not None:
                flags["up_to"] = self.up_to
        if "seed" in (self.face.kind, self.goal and self.goal.kind):
            flags["sampler"] = self.sampler
            if self.temperature != 1:
                flags["temperature"] = temperature_text(self.temperature)
        if self.attributes:
            flags |= {
                "attribute": _numbers(self.attributes),
                "estimator": self.estimator,
            }
        if self.dimensions:
            flags["dimensions"] = _numbers(self.dimensions)
        if self.realism:
            flags["realism"] = f"{self.realism:g}"
        given = [f"--{name}={value}" for name, value in flags.items()]
        words = ["python", "-m", PROGRAM, *opened, *given]
        return shlex.join([*words, "--to=face.png"])


def _numbers(values: Mapping[str, float] | Mapping[int, float]) -> str:
    return ",".join(f"{name}={value:g}" for name, value in values.items())


def parse_face(text: str, flag: str) -> tuple[str, int | str]:
    """Returns the kind and name of a face: "seed=5" is ("seed", 5).

    Raises:
      UserError: it is none.
    """
    kind, _, name = text.partition("=")
    if kind == "picture" and name:
        return kind, name
    # Far beyond any seed and any test image, Python would not read the number.
    if kind in KINDS and name.isdecimal() and len(name) <= 20:
        return kind, int(name)
    raise UserError(
        f"{flag} is {text!r}; allowed are seed=NUMBER, test=NUMBER and picture=FILE"
    )
