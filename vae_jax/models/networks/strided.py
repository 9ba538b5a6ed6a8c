"""An encoder of strided convolutions, for what only recognises: it has no decoder."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import (
    Conv3x3,
    Frame,
    Networks,
    head_layer,
    norm_layer,
)
from vae_jax.models.networks.stages import check_size, resolutions, width_setting
from vae_jax.options import Option, Refusal, Values


class StridedEncoder(nnx.Module):
    """Images to `features` numbers in float32, by strided convolutions with group norm.

    Each halves the resolution. It recognises attributes better than `conv.Encoder`.

    Args:
      image_shape: (height, width, channels); square, see `stages.resolutions`.
      features: numbers in the output.
      width: channels at half of the size; they double with each up to eight times.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        features: int,
        *,
        width: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        num_layers = len(resolutions(image_shape[0])) + 1
        widths = [width * min(2**layer, 8) for layer in range(num_layers)]
        self.layers = nnx.List(
            Conv3x3(fine, coarse, stride=2, dtype=dtype, rngs=rngs)
            for fine, coarse in zip([image_shape[2], *widths], widths, strict=False)
        )
        self.norms = nnx.List(norm_layer("group", w, dtype, rngs) for w in widths)
        coarsest = resolutions(image_shape[0])[-1]
        self.head = head_layer(coarsest**2 * widths[-1], features, dtype, rngs)

    def maps(self, images: Float[Array, "B H W C"]) -> tuple[Array, ...]:
        """Returns what each layer sees, [B,h,w,c] each, the finest first."""
        found = [images]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            found.append(nnx.relu(norm(layer(found[-1]))))
        return tuple(found[1:])

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """Returns the features of each image."""
        x = self.maps(images)[-1]
        return self.head(x.reshape(x.shape[0], -1)).astype(jnp.float32)


def _networks(frame: Frame, width: int) -> Networks:
    def make_encoder(features: int, *, condition_dim: int) -> StridedEncoder:
        assert not condition_dim
        return StridedEncoder(
            frame.image_shape,
            features,
            width=width,
            dtype=frame.dtype,
            rngs=frame.rngs,
        )

    return Networks((frame.latent_dim,), make_encoder, None)


def _check(values: Values) -> Refusal | None:
    if values["model.name"] != "classifier":
        reason = "it has no decoder: it goes with model.name classifier"
        return "model.network", reason
    return check_size(values)


STRIDED = Option(
    _networks,
    {
        "width": width_setting(
            "Channels of strided's layer at half of the size; they double with each "
            "layer, up to eight times."
        )
    },
    check=_check,
)
