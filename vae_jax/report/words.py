"""The units of metrics, and what they mean in plain words."""

import math
import re
from typing import NamedTuple


def figure(value: int | float, error: float | None = None) -> str:
    """Returns a number with as many digits as its standard error lets it have."""
    if error is None:
        return f"{value:.6g}"
    if not 0 < error < math.inf:
        return f"{value:.6g} ± {error:.2g}"
    # Two digits of the error.
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"


class Meaning(NamedTuple):
    """What a metric is to a reader.

    Attributes:
      unit: unit of the numbers; empty where they have none.
      better: "higher", "lower", or empty where neither is.
      words: meaning of the metric, one sentence.
    """

    unit: str
    better: str
    words: str

    @property
    def label(self) -> str:
        """The unit of the numbers, and which of them are better."""
        better = f"{self.better} is better" if self.better else ""
        return ", ".join(filter(None, (self.unit, better)))


METRICS = {
    "loss": Meaning("", "lower", "What training minimises."),
    "elbo": Meaning(
        "nats an image",
        "higher",
        "A lower bound on the log-likelihood of an image: log_px less kl.",
    ),
    "iw_bound": Meaning(
        "nats an image",
        "higher",
        "A tighter bound on the same, from several codes for each image.",
    ),
    "log_px": Meaning(
        "nats an image",
        "higher",
        "How likely the image is under the reconstruction of its code.",
    ),
    "kl": Meaning(
        "nats an image", "", "How much a code says of its image; the price of the code."
    ),
    "bits_per_dim": Meaning(
        "bits",
        "lower",
        "What a number of an image takes, compressed by the model; a guess has 8.",
    ),
    "rate": Meaning("bits an image", "lower", "What the discrete codes take."),
    "distortion": Meaning(
        "bits an image", "lower", "What an image takes once its codes are known."
    ),
    "mse": Meaning(
        "of pixels in [0, 1]",
        "lower",
        "The mean squared error of a reconstruction.",
    ),
    "psnr": Meaning("dB", "higher", "The same error on a logarithmic scale."),
    "ssim": Meaning(
        "", "higher", "How like its image a reconstruction looks; 1 is the same."
    ),
    "active_units": Meaning(
        "dimensions", "", "Dimensions of the code that differ from image to image."
    ),
    "accuracy": Meaning("share", "higher", "How often an attribute is told right."),
    "cross_entropy": Meaning(
        "nats an attribute", "lower", "How surprised the classifier is by the labels."
    ),
    "iwae": Meaning("nats an image", "higher", "The bound that training maximises."),
    "matching": Meaning(
        "", "lower", "How far the flow's velocity is from the way of a code, squared."
    ),
    "normal_kl": Meaning(
        "nats an image", "", "What kl would be if the prior were N(0, I)."
    ),
    "normal_bits_per_dim": Meaning(
        "bits", "lower", "What bits_per_dim would be if the prior were N(0, I)."
    ),
    "saved": Meaning(
        "nats an image",
        "higher",
        "How much less a code costs by the flow: normal_kl less kl.",
    ),
    "mmd": Meaning("", "lower", "How far the codes of a batch are from the prior."),
    "pull": Meaning("", "lower", "How far vectors are from the codes they become."),
    "penalty": Meaning("", "", "What the objective adds to the loss in training."),
    "perceptual": Meaning(
        "", "lower", "How far reconstructions are from images in the guide's features."
    ),
    "perceptual_scale": Meaning("", "", "The factor that the guide's pull has now."),
    "adversarial_scale": Meaning("", "", "The factor that the critic's pull has now."),
    "critic_loss": Meaning("nats", "", "How badly the critic tells images apart."),
    "critic_gap": Meaning(
        "", "lower", "How much realer the critic finds images than reconstructions."
    ),
    "critic_slope": Meaning("", "", "How steep the critic is, which is penalised."),
    "mutual_information": Meaning(
        "nats", "", "What the codes of a batch tell of its images."
    ),
    "total_correlation": Meaning(
        "nats", "lower", "How much the dimensions of the code depend on each other."
    ),
    "dimension_kl": Meaning(
        "nats", "", "How far each dimension on its own is from the prior."
    ),
    "kl by dimension": Meaning("nats", "", "What each dimension of the code costs."),
    "sharpness": Meaning(
        "", "", "How much detail images have beside real ones; blur is below 1."
    ),
    "border_ratio": Meaning(
        "", "", "Steps between pixels at borders of patches; above 1 a grid shows."
    ),
    "judge_frechet": Meaning(
        "", "lower", "How far images are from real ones in the judge's features."
    ),
    "precision": Meaning(
        "share", "higher", "How many of the images look real to the judge."
    ),
    "recall": Meaning(
        "share", "higher", "How many real images are like one of these to the judge."
    ),
    "mig": Meaning(
        "", "higher", "How much more one dimension tells of a factor than the next."
    ),
    "factor_vae": Meaning(
        "share", "higher", "How often the factor that was held is told from a code."
    ),
    "disentanglement": Meaning(
        "", "higher", "How far each dimension stands for one factor only."
    ),
    "completeness": Meaning(
        "", "higher", "How far each factor is in one dimension only."
    ),
    "informativeness": Meaning(
        "", "higher", "How well the factors can be told from the code."
    ),
    "num_codes": Meaning("codes", "", "How many there are to choose from."),
    "usage": Meaning("share", "higher", "How many of the codes stand anywhere."),
    "perplexity": Meaning(
        "codes", "", "How many equally frequent codes would say as much."
    ),
    "code_norm": Meaning("", "", "Half of the squared norm of a code."),
}


def meaning(name: str) -> Meaning:
    """Returns what a metric means; nothing is said of one that is not known."""
    layer = re.fullmatch(r"kl_layer_(\d+)", name)
    if layer:
        words = f"How much layer {layer[1]} of the code says of an image."
        return Meaning("nats an image", "", words)
    return METRICS.get(name, Meaning("", "", ""))
