"""What makes reconstructions sharp: a guide and a critic pull beside the likelihood.

A likelihood of independent pixels asks for the mean of all images that a code may stand
for, which is blurred. Two more terms pull that mean towards one of them: a perceptual
distance in the features of a trained classifier (Zhang et al. 2018), and a critic that
tells reconstructions from their originals (Larsen et al. 2016), by relativistic pairs
(Jolicoeur-Martineau 2019; Huang et al. 2024). Neither sees more of a likelihood than
its mean, so that the likelihood stays the model's own: ELBO and bits/dim keep their
meaning, and say what sharpness costs.

A term pulls by its gradient at the image alone (at the distribution's place, which is
its mean or what the mean follows), scaled to a share of the likelihood's there, in norm
over the batch and on a running average. VQGAN (Esser et al. 2021, equation 7) takes
the gradients of the last layer instead, which is another one in each network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vae_jax.models.contract import State, Terms
from vae_jax.models.guide import Guide, perceptual_distance
from vae_jax.models.networks.critic import PATCH, Critic
from vae_jax.models.networks.layers import Frame
from vae_jax.models.networks.stages import resolutions
from vae_jax.models.networks.strided import StridedEncoder
from vae_jax.options import Refusal, Values, path, resumable, weight, whole

SETTINGS = {
    "perceptual_weight": weight(
        0.0,
        "Pull of the perceptual distance between reconstructions and images, as a "
        "share of the likelihood's; 0 leaves it out.",
    ),
    # Not looked at again once it has been copied.
    "guide": resumable(
        path(
            "Workdir of a classifier (configs/judge.py) in whose features the "
            "perceptual distance is taken; it is copied when training begins."
        )
    ),
    "guide_width": whole(32, "Width of the guide's network, as its model.width."),
    "adversarial_weight": weight(
        0.0,
        "Pull of a critic, which learns to tell reconstructions from images, as a "
        "share of the likelihood's; 0 leaves it out.",
    ),
    "critic_width": whole(32, "Channels of the critic's first layer."),
    "critic_penalty": weight(
        1.0, "Weight of the critic's squared gradients at images and reconstructions."
    ),
    "critic_steps": whole(
        50,
        "First steps in which the critic learns alone; over twice as many more its "
        "pull rises to the whole.",
        low=0,
    ),
}
# The critic has no weight decay and little momentum: what it learns against moves.
OPTIMIZER = {
    "name": "adam",
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "clip_norm": None,
    "clip_update": None,
    "b1": 0.5,
    "b2": 0.99,
}
# The critic's gradients are penalised at every eighth image that is pulled at, and at
# others in the next step: lazily, as StyleGAN2 does in some of its steps (Karras et al.
# 2020, section 3.1), but at a cost that is the same in each.
_PENALISED = 8
# How far a batch moves the running mean of a term's scale, how many times that mean a
# batch may ask for, and the scale beyond which a term is taken not to pull.
_RATE, _MOST = 0.05, 4.0
_LARGEST_SCALE = 1e6
# float32 holds exp of up to 88.
_LARGEST_GAP = 60.0

Scalar = Float[Array, ""]
Images = Float[Array, "B H W C"]


class Scales(nnx.Module):
    """How many times a term's gradient goes into the likelihood's, a running average.

    Attributes:
      perceptual: scale of the perceptual distance; 0 before the first update.
      adversarial: scale of the critic's term; 0 before the first update.
    """

    def __init__(self):
        self.perceptual = State(jnp.zeros(()))
        self.adversarial = State(jnp.zeros(()))


def add_parts(model: Any, settings: Any, frame: Frame) -> None:
    """Gives a model the parts that sharpen it: `critic`, `guide` and `scales`.

    Args:
      model: a model built around `frame`.
      settings: the section `config.objective`.
      frame: the frame that the model was built around.
    """
    # Their gradients are taken where no loss scale helps.
    dtype = jnp.dtype("float32") if frame.dtype == jnp.float16 else frame.dtype
    common = {"dtype": dtype, "rngs": frame.rngs}
    shape = frame.image_shape
    if settings.perceptual_weight or settings.adversarial_weight:
        model.scales = Scales()
    if settings.adversarial_weight:
        model.critic = Critic(shape, settings.critic_width, **common)
    if settings.perceptual_weight:
        model.guide = Guide(
            StridedEncoder(shape, 1, width=settings.guide_width, **common)
        )


def check(values: Values) -> Refusal | None:
    """Refuses settings of sharpening that do nothing, or not what was meant."""
    own = {name: values[f"objective.{name}"] for name in SETTINGS}
    for chooser, brought in (
        ("perceptual_weight", ("guide", "guide_width")),
        ("adversarial_weight", ("critic_width", "critic_penalty", "critic_steps")),
    ):
        for name in brought:
            if not own[chooser] and own[name] != SETTINGS[name].default:
                usual = SETTINGS[name].default
                reason = f"it goes with objective.{chooser}, which is 0: set it to "
                return f"objective.{name}", f"{reason}{usual}"
    if own["adversarial_weight"] and values["dataset.size"] % PATCH:
        reason = f"with a critic it must be a multiple of {PATCH}"
        return "dataset.size", reason
    if own["perceptual_weight"]:
        try:
            resolutions(values["dataset.size"])
        except ValueError as error:
            return "dataset.size", f"with a guide, {error}"
    return None


@dataclass(frozen=True)
class Sharpening:
    """The pull of both terms on a batch of reconstructions.

    Attributes:
      perceptual_weight: pull of the guide, as a share of the likelihood's.
      adversarial_weight: pull of the critic, as a share of the likelihood's.
      critic_penalty: R1 + R2 in the critic's loss are weighted by half of it.
      critic_steps: steps before the critic pulls; over twice as many more it comes to
        pull as it should.
    """

    perceptual_weight: float
    adversarial_weight: float
    critic_penalty: float
    critic_steps: int

    def __call__(
        self,
        model: Any,
        terms: Terms,
        images: Images,
        step: Int[Array, ""],
        shares: Float[Array, " B"] | None = None,
        pulled: slice = slice(None),
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """Returns what is added to the loss, and what to log.

        What is added is 0 and has gradients: those of the autoencoder, through the
        place of each reconstruction (the first of an image's samples), and those of the
        critic, which learns. Neither reaches the other's parameters.

        Args:
          model: see `add_parts`; its `scales` move on.
          terms: terms of the images.
          images: images in [0, 1].
          step: updates so far.
          shares: share of the pull at each image, from 0 to 1; None is 1.
          pulled: the images that are pulled at; of the others nothing is computed.
        """
        batch_size, images = len(images), images[pulled]
        # A scalar is one for all images.
        px: Any = jax.tree.map(lambda a: a[0, pulled] if a.ndim else a, terms.px)
        place, still = getattr(px, px.PLACE), jax.lax.stop_gradient(px)

        def at(place: Array) -> Any:
            return still.replace(**{px.PLACE: place})

        here = jax.lax.stop_gradient(place)
        likelihoods = jax.grad(lambda place: -jnp.sum(at(place).log_prob(images)))(here)
        made, pull_back = jax.vjp(lambda place: at(place).mean, here)

        shares = jnp.ones(len(images)) if shares is None else shares[pulled]
        by_image = shares[:, None, None, None]
        # A mixture has several places for a pixel.
        by_place = shares.reshape(-1, *[1] * (here.ndim - 1))

        def scaled(gradient: Array, scale: State) -> tuple[Array, Scalar]:
            """Returns a term's gradient at the places, as long as the likelihood's."""
            (at_places,) = pull_back(gradient)
            scale[...] = _moved(scale[...], by_place * likelihoods, at_places)
            return scale[...] * at_places, scale[...]

        pull, added, logged = jnp.zeros_like(here), jnp.float32(0), {}
        if self.perceptual_weight:
            distances, gradient = _value_and_gradient(
                lambda made: perceptual_distance(model.guide, made, images), made
            )
            gradient *= by_image
            ours, scale = scaled(gradient, model.scales.perceptual)
            pull += self.perceptual_weight * ours
            logged |= {"perceptual": jnp.mean(distances), "perceptual_scale": scale}
        if self.adversarial_weight:
            learnt, gradient, seen = self._criticise(
                model.critic, images, made, shares, step
            )
            ours, scale = scaled(gradient, model.scales.adversarial)
            pull += self.adversarial_weight * self._turn(step) * ours
            added += learnt
            logged |= seen | {"adversarial_scale": scale}
        # The loss is a mean over the batch.
        taught = jnp.sum(jax.lax.stop_gradient(pull) * place) / batch_size
        return _gradient_alone(taught + added), logged

    def _turn(self, step: Int[Array, ""]) -> Scalar:
        """Rises from 0 to 1 after the critic's first steps."""
        if not self.critic_steps:
            return jnp.float32(1)
        return jnp.clip((step - self.critic_steps) / (2 * self.critic_steps), 0, 1)

    def _criticise(
        self,
        critic: nnx.Module,
        images: Images,
        made: Images,
        shares: Array,
        step: Int[Array, ""],
    ) -> tuple[Scalar, Images, dict[str, Scalar]]:
        """Returns what the critic learns by, the decoder's gradient, what to log.

        Each reconstruction is held against its own original: the critic's loss is
        softplus(-gap) of the gap between their scores, and the decoder's softplus(gap).
        One backward pass serves both, for at a made image the gradient of the second
        is that of the first times -exp(gap). `shares` weighs the pairs.
        """
        graphdef, variables = nnx.split(critic, nnx.Param)
        params = nnx.to_pure_dict(variables)

        def score(params: Any, images: Images) -> Float[Array, " B"]:
            merged: Any = nnx.merge(graphdef, params)
            return merged(images)

        def loss_of(params: Any, made: Images) -> tuple[Scalar, Array]:
            real, drawn = score(params, _paired(images, made)).reshape(-1, 2).T
            gap = real - drawn
            # Beyond, the first gradient is too small for the second to be had from it.
            held = gap + jax.lax.stop_gradient(jnp.minimum(gap, _LARGEST_GAP) - gap)
            return jnp.mean(shares * jax.nn.softplus(-held)), gap

        def slope_of(params: Any) -> Scalar:
            """Returns R1 + R2 (Mescheder et al. 2018, equation 9)."""
            which = (step + jnp.arange(0, len(images), _PENALISED)) % len(images)
            some = _paired(images[which], made[which])
            slopes = jax.grad(lambda some: jnp.sum(score(params, some)))(some)
            return 2 * jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))

        still = jax.lax.stop_gradient(params)
        (loss, gap), (by_loss, gradient) = jax.value_and_grad(
            loss_of, argnums=(0, 1), has_aux=True
        )(still, made)
        slope, by_slope = jax.value_and_grad(slope_of)(still)
        learnt = _inner(by_loss, params) + (
            0.5 * self.critic_penalty * _inner(by_slope, params)
        )
        weights = -len(images) * jnp.exp(jnp.minimum(gap, _LARGEST_GAP))
        seen = {
            "critic_loss": loss,
            "critic_gap": jnp.mean(gap),
            "critic_slope": slope,
        }
        return learnt, weights[:, None, None, None] * gradient, seen


def _paired(images: Images, made: Images) -> Float[Array, "B*2 H W C"]:
    """Returns both as one batch, each image before its own reconstruction.

    Images are the outermost axis, by which several devices cut it.
    """
    return jnp.stack([images, made], axis=1).reshape(-1, *images.shape[1:])


def _value_and_gradient(
    function: Callable[[Images], Float[Array, " B"]], images: Images
) -> tuple[Float[Array, " B"], Images]:
    """Returns a function's value of each image, and its gradient there."""

    def total(images: Images) -> tuple[Scalar, Array]:
        values = function(images)
        return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(images)
    return values, gradient


def _moved(mean: Scalar, likelihoods: Array, gradient: Array) -> Scalar:
    """Returns the running mean of a scale after one more batch.

    Args:
      mean: the running mean before; 0 before the first batch.
      likelihoods: the likelihood's gradient.
      gradient: gradient of the term, at the same places.
    """
    ours, theirs = (jnp.sqrt(jnp.sum(jnp.square(g))) for g in (gradient, likelihoods))
    # A term that does not pull says nothing of how strong it is.
    pulls = ours > theirs / _LARGEST_SCALE
    now = jnp.where(pulls, theirs / jnp.where(pulls, ours, 1.0), mean)
    moved = mean + _RATE * (jnp.minimum(now, _MOST * mean) - mean)
    return jnp.where(mean == 0, now, moved)


def _inner(gradient: Any, params: Any) -> Scalar:
    """Returns what has this gradient in the parameters."""
    products = jax.tree.map(
        lambda g, p: jnp.sum(jax.lax.stop_gradient(g) * p), gradient, params
    )
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def _gradient_alone(value: Scalar) -> Scalar:
    """Returns 0, with the gradient of `value`."""
    return value - jax.lax.stop_gradient(value)
