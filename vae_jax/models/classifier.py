"""A classifier of attributes: the judge of what a generative model draws."""

from flax import nnx, struct
from jaxtyping import Array, Float, Key

from vae_jax.models.labels import ATTRIBUTES
from vae_jax.models.networks.layers import Frame, Networks
from vae_jax.options import Option, Refusal, Values


@struct.dataclass
class Prediction:
    """What a classifier says of B images, beside what it is held against.

    Attributes:
      logits: log-odds of each attribute.
      labels: 1 where an image has the attribute, -1 where it has not.
    """

    logits: Float[Array, "B A"]
    labels: Float[Array, "*labelled A"]


class Classifier(nnx.Module):
    """x -> features -> independent log-odds of A attributes.

    Args:
      encoder: images [B,H,W,C] to features [B,F].
      num_features: F.
      num_labels: A.
      rngs: random numbers of the last layer's initial parameters.
    """

    def __init__(
        self,
        encoder: nnx.Module,
        num_features: int,
        num_labels: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.encoder = encoder
        self.head = nnx.Linear(num_features, num_labels, rngs=rngs)

    def features(self, images: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """Returns what the log-odds are linear in."""
        return nnx.silu(self.encoder(images))

    def logits(self, features: Float[Array, "B F"]) -> Float[Array, "B A"]:
        """Returns the log-odds of each attribute."""
        return self.head(features)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Float[Array, "*labelled A"],
        num_samples: int = 1,
    ) -> Prediction:
        """Returns the prediction for images in [0, 1]; nothing in it is random."""
        return Prediction(self.logits(self.features(images)), labels)


def _build(frame: Frame, networks: Networks, attributes: str) -> Classifier:
    encoder = networks.make_encoder(frame.latent_dim, condition_dim=0)
    return Classifier(encoder, frame.latent_dim, frame.num_labels, rngs=frame.rngs)


def _check(values: Values) -> Refusal | None:
    if not values["model.attributes"]:
        return "model.attributes", "a classifier needs some; auto is all there are"
    return None


CLASSIFIER = Option(
    _build,
    {"attributes": ATTRIBUTES},
    check=_check,
    terms="predictions",
)
