"""A guide: the features of a trained classifier, which tell images apart as eyes do."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jaxtyping import Array, Float

from vae_jax.models.contract import State, Variables
from vae_jax.models.networks.strided import StridedEncoder

# Beside a place's squared length, which may be zero.
_SMALL = 1e-8


def _name(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def arrays_of(classifier: Variables) -> dict[str, Array]:
    """Returns the arrays of a trained classifier that a `Guide` holds, by its names."""
    found: Any = traverse_util.flatten_dict(classifier.params["encoder"])
    return {_name(path): a for path, a in found.items() if path[0] != "head"}


class Guide(nnx.Module):
    """A frozen encoder, whose arrays are a model's `State` and not its parameters.

    Args:
      encoder: the encoder of a classifier; what it holds is overwritten by a trained
        one's.
    """

    def __init__(self, encoder: StridedEncoder):
        # Its features of the whole image have no place in the maps.
        del encoder.head
        self.graphdef, params = nnx.split(encoder, nnx.Param)
        found: Any = traverse_util.flatten_dict(nnx.to_pure_dict(params))
        self.paths = tuple(found)
        self.arrays = nnx.Dict({_name(path): State(a) for path, a in found.items()})

    def maps(self, images: Float[Array, "B H W C"]) -> tuple[Array, ...]:
        """Returns the features of each layer at each place, [B,h,w,c] each."""
        found = {path: self.arrays[_name(path)][...] for path in self.paths}
        encoder: Any = nnx.merge(self.graphdef, traverse_util.unflatten_dict(found))
        return encoder.maps(images)


def perceptual_distance(
    guide: Guide, a: Float[Array, "B H W C"], b: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Returns how far images are apart in a guide's features.

    Features are scaled to length 1 over the channels of each place. Their squared
    distance is averaged over places and summed over layers: LPIPS (Zhang et al. 2018,
    equation 1) without its weights by channel.
    """

    def unit(features: Array) -> Array:
        features = features.astype(jnp.float32)
        squared = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
        return features * jax.lax.rsqrt(squared + _SMALL)

    # Not as one batch: where one of them is given, its gradient costs nothing so.
    distances = [
        jnp.mean(jnp.sum(jnp.square(unit(x) - unit(y)), axis=-1), axis=(1, 2))
        for x, y in zip(guide.maps(a), guide.maps(b), strict=True)
    ]
    return jnp.sum(jnp.stack(distances), axis=0)
