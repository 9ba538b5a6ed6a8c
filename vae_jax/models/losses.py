"""Losses that are no bound on a likelihood: of autoencoders, flows and classifiers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from vae_jax.models.classifier import Prediction
from vae_jax.models.contract import Draw, Labels, Terms, flatten
from vae_jax.models.elbo import Figures, Images, squared_error_per_image
from vae_jax.models.objectives import NUM_SAMPLES, Objective, Scalar
from vae_jax.models.penalties import first_codes, squared_jacobian, squared_parameters
from vae_jax.options import Option, Refusal, Values, choice, weight


def flow_matching(num_samples: int) -> Objective:
    """The loss of a flow over the codes of a model that has been trained.

    The mean squared error of the velocity, by number: Lipman et al. (2023), equation 9.

    Args:
      num_samples: samples of z, noise and time for each image.
    """

    def matching(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        prior, flow_key = model.prior_of(labels), jax.random.fold_in(key, Draw.FLOW)
        codes = jax.lax.stop_gradient(jax.vmap(flatten)(terms.code))
        # An autoencoder has one code for all samples.
        codes = jnp.broadcast_to(codes, (num_samples, *codes.shape[1:]))
        keys = jax.random.split(flow_key, num_samples)
        return {"matching": jnp.mean(jax.vmap(prior.matching)(codes, keys), axis=0)}

    return Objective(
        lambda terms, images: {},
        lambda means, step: means["matching"],
        code_figures=matching,
        num_samples=num_samples,
    )


def mean_squared_error(
    code_weight: float = 0.0,
    *,
    decoder_penalty: str = "none",
    decoder_weight: float = 0.0,
) -> Objective:
    """The autoencoder's loss: the mean over pixels, channels and images.

    With weights it is that of the regularised autoencoder of Ghosh et al. (2020),
    equation 4: mse + code_weight |z|^2 / 2 + decoder_weight R.

    Args:
      code_weight: weight of half the code's squared norm.
      decoder_penalty: R: "none", "l2", the squares of the decoder's parameters, or
        "gradient", the squares of its Jacobian.
      decoder_weight: weight of R.
    """

    def figures(terms: Terms, images: Images) -> Figures:
        return {
            "mse": squared_error_per_image(terms, images),
            "code_norm": 0.5 * jnp.sum(jnp.square(first_codes(terms)), axis=-1),
        }

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        return means["mse"] + code_weight * means["code_norm"]

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        if decoder_penalty == "l2":
            squares = squared_parameters(model.decoder)
        else:
            squares = squared_jacobian(model, terms, labels, key)
        return {"penalty": decoder_weight * squares}

    if decoder_penalty == "none":
        return Objective(figures, loss)
    return Objective(figures, loss, penalty=penalty)


def cross_entropy() -> Objective:
    """The classifier's loss: -log p(y|x) in nats an attribute, their mean."""

    def figures(prediction: Prediction, images: Images) -> Figures:
        logits, labels = prediction.logits, prediction.labels
        right = (labels * logits > 0).astype(jnp.float32)
        return {
            "cross_entropy": jnp.mean(jax.nn.softplus(-labels * logits), axis=-1),
            "accuracy": jnp.mean(right, axis=-1),
            "accuracy_by_attribute": right,
        }

    return Objective(figures, lambda means, step: means["cross_entropy"])


def _check_flow(values: Values) -> Refusal | None:
    if values["model.prior"] != "flow":
        reason = f"it trains model.prior flow, and that is {values['model.prior']}"
        return "objective.name", reason
    frozen = values["parts.frozen"].split(",")
    if not {"encoder", "decoder"} <= set(frozen):
        reason = "with objective.name flow, encoder and decoder are to be among them"
        return "parts.frozen", reason
    return None


FLOW = Option(
    lambda num_images, **own: flow_matching(**own),
    {"num_samples": NUM_SAMPLES},
    check=_check_flow,
)
MSE = Option(lambda num_images: mean_squared_error(), terms="reconstructions")
RAE = Option(
    lambda num_images, **own: mean_squared_error(**own),
    {
        "code_weight": weight(1e-6, "Weight of half the code's squared norm."),
        "decoder_penalty": choice(
            "l2",
            "Penalty on the decoder: the squares of its parameters, or of its "
            "Jacobian.",
            ("l2", "gradient"),
        ),
        "decoder_weight": weight(1e-8, "Weight of the penalty on the decoder."),
    },
    terms="reconstructions",
)
CROSS_ENTROPY = Option(lambda num_images: cross_entropy(), terms="predictions")
