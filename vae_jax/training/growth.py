"""Training in phases: the images grow, and the networks with them.

Progressive growing (Karras et al. 2018) without its fading in: in networks whose stages
see and paint images of their own resolution, what is new begins by adding nothing, so
that a network that has grown is still the function that it was, of smaller images.
"""

from dataclasses import dataclass

from vae_jax.options import Setting, text


@dataclass(frozen=True)
class Phase:
    """The updates of one size of images.

    Attributes:
      size: height and width of the images in pixels.
      first: the step that it begins at.
      last: the step that it ends at.
    """

    size: int
    first: int
    last: int


def parse(stages: str) -> list[tuple[int, int]]:
    """Returns the sizes and updates that `config.train.stages` names, in turn.

    Raises:
      ValueError: it is not SIZE:UPDATES with commas between, sizes rising.
    """
    found = []
    for each in filter(None, stages.split(",")):
        size, updates = (int(number) for number in each.split(":"))
        if min(size, updates) < 1 or (found and size <= found[-1][0]):
            raise ValueError(stages)
        found.append((size, updates))
    return found


def _accepts(stages: str) -> bool:
    try:
        parse(stages)
    except ValueError:
        return False
    return True


STAGES: Setting = text(
    "",
    "Sizes of images to begin with, and the updates at each, for example "
    "16:500,32:2000; those of dataset.size follow, up to num_steps.",
    "SIZE:UPDATES with commas between, sizes rising, or nothing",
    _accepts,
)


def plan(stages: str, size: int, num_steps: int) -> list[Phase]:
    """Returns the phases of a training, one where nothing is said of them.

    Args:
      stages: `config.train.stages`.
      size: of the images in the end.
      num_steps: of the whole training.
    """
    planned, step = [], 0
    for at, updates in parse(stages):
        planned.append(Phase(at, step, step + updates))
        step += updates
    return [*planned, Phase(size, step, num_steps)]


def phase_at(phases: list[Phase], step: int) -> Phase:
    """Returns the phase that a checkpoint of a step is of: the one that ends with it.

    The next begins by growing, of which no checkpoint is made.
    """
    return next((phase for phase in phases if step <= phase.last), phases[-1])
