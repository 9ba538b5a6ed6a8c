"""The runs that a run takes arrays from, and whether two see the same images."""

from collections.abc import Iterable
from typing import Any

from vae_jax import config as config_lib
from vae_jax import experiment, record
from vae_jax.config import Config
from vae_jax.errors import UserError, few
from vae_jax.local_paths import local_path
from vae_jax.trees import by_name

# Settings under dataset that tell how images look, beside what they show.
OF_IMAGES = ("crop", "resampler", "size", "channels")
# Settings of a model that change nothing about its codes once these are learned.
NOT_OF_CODES = (
    "model.prior",
    "model.attribute",
    "model.remat",
    "model.commitment",
    "model.codebook_gradient",
    "model.codebook_decay",
)


def check_init_from(config: Config) -> None:
    """Says what a run starts from, or raises UserError where that cannot be.

    It takes all arrays of the run in `config.init_from` whose names and shapes this
    model has, too.
    """
    workdir = local_path(config.init_from, "config.init_from")
    try:
        theirs = record.read_config(workdir)
    except UserError as error:
        raise UserError(
            f"config.init_from is {config.init_from!r}: {error}; allowed is a run's "
            "workdir"
        ) from error
    _, there = experiment.abstract_model(theirs)
    _, here = experiment.abstract_model(config)
    taken = experiment.fitting(here, there)
    shapes = [by_name(variables) for variables in (here, there)]

    def told(names: Iterable[str]) -> str:
        lines = [
            f"{name} ({', '.join(_shape(side.get(name)) for side in shapes)})"
            for name in names
        ]
        return few(lines) or "none"

    new = [name for name in shapes[0] if name not in taken]
    for part in experiment.names_of_parts(config.parts.initialised):
        lacking = [name for name in new if name.split("/")[1] == part]
        if lacking:
            raise UserError(
                f"config.parts.initialised has {part!r}, which the run in {workdir} "
                f"does not fill; settings that differ (here, there): "
                f"{_differing(config, theirs) or 'none'}; shapes: {told(lacking)}"
            )
    learning = here.params.keys() - {*experiment.names_of_parts(config.parts.frozen)}
    differing = _differing(config, theirs, NOT_OF_CODES)
    if learning == {"prior"} and differing:
        raise UserError(
            f"config.init_from is {config.init_from!r}, and a prior is learned over "
            "the codes of the same model alone; settings that differ (here, there): "
            f"{differing}"
        )
    if not taken:
        raise UserError(
            f"config.init_from is {config.init_from!r}, and nothing there fits this "
            f"model (shapes here, there): {told(new)}"
        )
    left = [name for name in shapes[1] if name not in taken]
    if new or left:
        print(
            f"note: of the {len(shapes[0])} arrays of the model {len(taken)} start as "
            f"in {workdir}; new are (shapes here, there) {told(new)}; not taken from "
            f"there are {told(left)}"
        )


def _differing(
    config: Config, theirs: Config, others: tuple[str, ...] = ("model.prior",)
) -> str:
    """Returns the settings of images and model where two differ; "" for none.

    Args:
      config: the one.
      theirs: the other.
      others: settings that do not count, by how their names begin.
    """
    here, there = map(config_lib.flatten, (config, theirs))
    images = tuple(f"dataset.{name}" for name in OF_IMAGES)
    return few(
        [
            f"{name} ({here[name]!r}, {there[name]!r})"
            for name in here
            if name.startswith(("model.", *images))
            and not name.startswith(others)
            and here[name] != there[name]
        ]
    )


def check_same_images(theirs: Config, ours: Config, named: str, run: str) -> None:
    """Raises UserError where two runs see images of different kinds.

    Args:
      theirs: the config of the one.
      ours: the config of the other, which it judges, guides or is compared with.
      named: words that name the one, for the error.
      run: words that name the other, for the error.
    """
    for setting in ("name", *OF_IMAGES):
        one, other = theirs.dataset[setting], ours.dataset[setting]
        if one != other:
            raise UserError(
                f"{named}, trained with dataset.{setting} {one}; {run} has {other}"
            )


def check_guide(config: Config) -> None:
    """Raises UserError where a run's guide is not there or sees other images."""
    allowed = (
        "allowed is the workdir of a classifier that sees the same images, which "
        "configs/judge.py trains with the same words and another seed:\n"
        "  python -m vae_jax.main --config=configs/judge.py --workdir=runs/guide "
        "--config.seed=1"
    )
    if config.objective.guide is None:
        raise UserError(
            "config.objective.guide is None, and config.objective.perceptual_weight is "
            f"{config.objective.perceptual_weight}; {allowed}"
        )
    workdir = local_path(config.objective.guide, "config.objective.guide")
    named = f"config.objective.guide is {config.objective.guide!r}"
    try:
        guide = record.read_config(workdir)
    except UserError as error:
        raise UserError(f"{named}: {error}; {allowed}") from error
    if guide.model.network != "strided":
        raise UserError(
            f"{named}, a run with model.network {guide.model.network}; {allowed}"
        )
    if guide.model.width != config.objective.guide_width:
        raise UserError(
            f"{named}, a run with model.width {guide.model.width}; "
            f"config.objective.guide_width is {config.objective.guide_width}"
        )
    try:
        check_same_images(guide, config, named, "this run")
    except UserError as error:
        raise UserError(f"{error}; {allowed}") from error


def _shape(array: Any) -> str:
    return "absent" if array is None else str(list(array.shape))
