"""Judges: classifiers that say what they see in what a run makes."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vae_jax import other_runs
from vae_jax import run as run_lib
from vae_jax.commands import abilities
from vae_jax.errors import UserError
from vae_jax.exploration import judging
from vae_jax.models import build
from vae_jax.models.guide import arrays_of
from vae_jax.run import Run

# Precision and recall look at the three nearest of the others.
FEWEST_JUDGED = 4


def open_judge(flag: str, workdir: Path, run: Run | None) -> Run:
    """Opens the run of a classifier that sees pictures as `run` does.

    Args:
      flag: the flag that names it, for errors.
      workdir: workdir of the classifier.
      run: the run whose pictures it is to judge; None where any will do.

    Raises:
      UserError: it is no classifier, or sees others.
    """
    try:
        judge = run_lib.load(workdir)
    except UserError as error:
        raise UserError(f"--{flag} is '{workdir}': {error}") from error
    abilities.check_judge(judge, flag)
    if run is None:
        return judge
    other_runs.check_same_images(
        judge.config,
        run.config,
        f"--{flag} is '{workdir}'",
        f"the run in {run.workdir}",
    )
    return judge


def check_judged(run: Run, judges: tuple[Run, ...]) -> None:
    """Raises UserError where there is nothing, or too little, for judges to compare.

    Args:
      run: the run that they are to judge.
      judges: runs of classifiers; where there are none, nothing is needed.
    """
    for judge in judges:
        abilities.check_decoder(run, f"--judge is '{judge.workdir}'")
        for name in ("train", "test"):
            count = len(run.dataset.splits[name].images)
            if count < FEWEST_JUDGED:
                raise UserError(
                    f"--judge compares {FEWEST_JUDGED} pictures at least; the split "
                    f"{name} of {run.recipe['name']} has {count}"
                )


def is_guide(run: Run, judge: Run) -> bool:
    """Says whether a judge is the guide that a run learnt from, in which it looks well.

    The arrays are compared, as the guide may have been moved or copied.
    """
    held = run.variables["ema"].state.get("guide")
    if held is None:
        return False
    ours, theirs = held["arrays"], arrays_of(judge.variables["ema"])
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )


class Opinion:
    """What a judge says of a run's test pictures, and of other images beside them.

    Args:
      run: the run that is judged.
      judge: a run of a classifier, see `open_judge`.
      pictures: pictures of the test split, in [0, 1].

    Attributes:
      report: the part of eval.json, with an entry for each set of images.
    """

    def __init__(self, run: Run, judge: Run, pictures: Float[np.ndarray, "N H W C"]):
        self._classifier = judge.model()
        self._names = build.label_names(judge.config.model)
        columns = [run.attribute_index(name, "--judge") for name in self._names]
        self._attributes = run.attributes("test")[:, columns]
        self._real, logits = judging.judge_images(self._classifier, pictures)
        self.report: dict[str, Any] = {"workdir": str(judge.workdir)}
        if is_guide(run, judge):
            self.report["is_guide"] = True
            print(
                f"note: the judge {judge.workdir} is the guide that the run in "
                f"{run.workdir} was trained with: its figures flatter that run"
            )
        self.report |= {"num_images": len(pictures), "pictures": self._told(logits)}

    def _told(self, logits: np.ndarray) -> dict[str, Any]:
        rates = judging.accuracy(logits, self._attributes)
        return {
            "accuracy": float(rates.mean()),
            "accuracy_by_attribute": dict(
                zip(self._names, rates.tolist(), strict=True)
            ),
        }

    def add(self, name: str, images: Float[np.ndarray, "M H W C"]) -> None:
        """Adds how like the test pictures a set of images is.

        Args:
          name: name of the set; for `reconstructions`, which have the attributes of the
            pictures, the report also has the judge's accuracy.
          images: images of the set, in [0, 1].
        """
        features, logits = judging.judge_images(self._classifier, images)
        told = self._told(logits) if name == "reconstructions" else {}
        # Here, because its library takes as long to import as JAX.
        from vae_jax.evaluation.distances import likeness

        self.report[name] = told | likeness(self._real, features)
