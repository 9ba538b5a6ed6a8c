"""Training in phases: the images grow, and the networks with them.

Progressive growing (Karras et al. 2018) without its fading in: in networks whose stages
see and paint images of their own resolution, what is new begins by adding nothing, so
that a network that has grown is still the function that it was, of smaller images.
"""

import math
from dataclasses import dataclass

from vae_jax.options import Setting, text


@dataclass(frozen=True)
class Phase:
    """The updates of one size of images.

    Attributes:
      size: height and width of the images in pixels.
      batch_size: images in an update.
      first: the step that it begins at.
      last: the step that it ends at.
      first_image: number of images that were seen before.
    """

    size: int
    batch_size: int
    first: int
    last: int
    first_image: int = 0

    def images_at(self, step: int) -> int:
        """Returns how many images were seen before a step of this phase."""
        return self.first_image + (step - self.first) * self.batch_size


def parse(stages: str) -> list[tuple[int, int, int | None]]:
    """Returns what `config.train.stages` names, in turn: (size, updates, batch size).

    Raises:
      ValueError: it is not SIZE:UPDATES or SIZE:UPDATES:BATCH with commas between,
        sizes rising.
    """
    found: list[tuple[int, int, int | None]] = []
    for each in filter(None, stages.split(",")):
        size, updates, *batch = (int(number) for number in each.split(":"))
        if min(size, updates, *batch) < 1 or len(batch) > 1:
            raise ValueError(stages)
        if found and size <= found[-1][0]:
            raise ValueError(stages)
        found.append((size, updates, batch[0] if batch else None))
    return found


def _accepts(stages: str) -> bool:
    try:
        parse(stages)
    except ValueError:
        return False
    return True


STAGES: Setting = text(
    "",
    "Image sizes to begin with, each with its number of updates and, if it differs, "
    "its batch size: 16:500:256,32:2000. Later updates use dataset.size.",
    "SIZE:UPDATES or SIZE:UPDATES:BATCH with commas between, sizes rising, or nothing",
    _accepts,
)


def plan(stages: str, size: int, batch_size: int, num_steps: int) -> list[Phase]:
    """Returns the phases of a training, one where nothing is said of them.

    Args:
      stages: `config.train.stages`.
      size: side of the images in the end, in pixels.
      batch_size: images in an update, where `stages` does not say another number.
      num_steps: updates of the whole training.
    """
    planned, step, images = [], 0, 0
    for at, updates, batch in parse(stages):
        phase = Phase(at, batch or batch_size, step, step + updates, images)
        planned.append(phase)
        step, images = phase.last, phase.images_at(phase.last)
    return [*planned, Phase(size, batch_size, step, num_steps, images)]


def num_steps_for(stages: str, batch_size: int, num_images: float) -> int:
    """Returns the steps of a training that sees so many images; see `plan`."""
    last = plan(stages, 0, batch_size, 0)[-1]
    return last.first + max(0, math.ceil((num_images - last.first_image) / batch_size))


def phase_at(phases: list[Phase], step: int) -> Phase:
    """Returns the phase that a checkpoint of a step is of: the one that ends with it.

    The next begins by growing, of which no checkpoint is made.
    """
    return next((phase for phase in phases if step <= phase.last), phases[-1])
