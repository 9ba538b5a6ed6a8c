"""A model's encoder and decoder as programs that need JAX alone to run: StableHLO."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.models.contract import code_size, flatten, unflatten

PLATFORMS = ("cpu", "cuda", "tpu")
# How far the programs may be from the model, beside the largest number of either.
TOLERANCE = 1e-4


def stablehlo(
    model: Any, image_shape: tuple[int, int, int], num_labels: int
) -> dict[str, bytes]:
    """Returns a model's programs, "encoder" and "decoder", for any number of images.

    The encoder makes [B,N], the numbers in each code, of images [B,H,W,C] in [0, 1];
    the decoder makes the mean of each image of such numbers. Of a model that knows
    labels both take them as well, [B,A]. That of a classifier makes the log-odds of its
    attributes, and there is no decoder. Each was run, and agrees with the model.

    Args:
      model: see models/contract.py.
      image_shape: (height, width, channels).
      num_labels: A, that the model is told; 0 for none.

    Raises:
      UserError: flatbuffers is not installed, or a program makes something else.
    """
    export = _library()
    (batch,) = export.symbolic_shape("batch")
    programs = {}
    for name, (function, shape) in _functions(model, image_shape).items():
        shapes = [shape, (num_labels,)] if num_labels else [shape]
        given = [jax.ShapeDtypeStruct((batch, *each), jnp.float32) for each in shapes]
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(*given)
        programs[name] = bytes(exported.serialize())
        generator = np.random.default_rng(0)
        some = [
            jnp.asarray(generator.random((3, *each), np.float32)) for each in shapes
        ]
        found = export.deserialize(bytearray(programs[name])).call(*some)
        expected = np.asarray(function(*some))
        error = np.abs(found - expected).max() / np.abs(expected).max()
        if not error < TOLERANCE:
            raise UserError(
                f"the {name} as StableHLO is {error:.2g} from the model, relative to "
                f"its largest number; allowed is {TOLERANCE:g}"
            )
    return programs


def _functions(
    model: Any, image_shape: tuple[int, int, int]
) -> dict[str, tuple[Callable[..., Any], tuple[int, ...]]]:
    """Returns by name what becomes a program, and the shape of what it takes."""
    if not hasattr(model, "decode"):

        def recognise(images):
            return model.logits(model.features(images))

        return {"encoder": (recognise, image_shape)}

    def encode(images, labels=None):
        return flatten(model.encode(images, labels))

    def decode(numbers, labels=None):
        return model.decode(unflatten(numbers, model.code_shape), labels).mean

    return {
        "encoder": (encode, image_shape),
        "decoder": (decode, (code_size(model.code_shape),)),
    }


def _library() -> ModuleType:
    """Returns JAX's exporter, or raises UserError where what it needs is absent."""
    try:
        import flatbuffers  # noqa: F401
        from jax import export
    except ImportError as error:
        raise UserError(
            'flatbuffers is not installed: pip install -e ".[export]"'
        ) from error
    return export
