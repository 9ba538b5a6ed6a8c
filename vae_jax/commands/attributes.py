"""--mode=attributes: directions of all attributes, and what a judge says of edits."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.commands import directions as directions_lib
from vae_jax.commands.flags import ATTRIBUTE, JUDGE, SEED, Command, define_path
from vae_jax.commands.judges import open_judge
from vae_jax.commands.opening import open_autoencoder
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.exploration import attributes, sampling, stacks
from vae_jax.exploration.attributes import Direction
from vae_jax.models import build
from vae_jax.report import tables
from vae_jax.run import Run
from vae_jax.storage import write_json

# Draws of the notebook's few pictures that its figures are averaged over.
NOTEBOOK_DRAWS = 20
# The flip rate, of adding and of removing, at which estimators are compared.
FLIP_RATE = 0.9
HELD_OUT = 1000
ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
LARGEST_ALPHA = 8.0
GUIDE = define_path(
    "guide",
    "The workdir of another such classifier, by which the direction `held` of "
    "--attribute is found.",
)


def _standard_error(each: np.ndarray) -> np.ndarray:
    """Returns the standard error of the mean over the first axis."""
    return np.std(each, axis=0, ddof=1) / np.sqrt(len(each))


class _Edits:
    """The held-out pictures of an attribute, edited along directions and judged.

    Pictures count on which label and judge agree before the edit: on the
    reconstruction, not the original.
    """

    def __init__(self, run: Run, judge: Run, attribute: str):
        self.model, self.judge = run.model(), judge.model()
        self.index = directions_lib.known_attributes(judge, attribute).index(attribute)
        test = run.dataset_for("judging edits").splits["test"]
        self.labels = run.labels("test", slice(HELD_OUT))
        self.codes = sampling.encode_images(
            self.model, test.images[:HELD_OUT], self.labels
        )
        self._known: tuple[Any, Any] = None, None
        index = run.attribute_index(attribute, "--attribute")
        has = run.attributes("test")[:HELD_OUT, index]
        self.features, self.logits = self._judged(slice(None), np.zeros_like, 0.0)
        judged = self.logits[:, self.index] > 0
        self.agreement = float(np.mean(judged == has))
        self.without = np.flatnonzero(~has & ~judged)
        self.with_it = np.flatnonzero(has & judged)
        # The scale on which changes of log-odds are told.
        self.stds = self.logits.std(axis=0)

    def _judged(self, which, direction: Direction, alpha: float):
        # It is the same at each alpha, and may take long.
        if self._known[0] is not direction:
            self._known = direction, np.asarray(direction(self.codes))
        labels = None if self.labels is None else self.labels[which]
        directions = self._known[1][which]
        return attributes.edit_effects(
            self.model, self.judge, self.codes[which], directions, alpha, labels
        )

    def at(self, direction: Direction, alpha: float) -> dict[str, Any]:
        """Returns the figures of adding alpha directions, and of removing as many."""
        added = self._judged(self.without, direction, alpha)
        removed = self._judged(self.with_it, direction, -alpha)
        before = np.concatenate([self.without, self.with_it])
        features = np.concatenate([added[0], removed[0]]) - self.features[before]
        change = np.concatenate([added[1], removed[1]]) - self.logits[before]
        by_picture = {
            "flips_adding": added[1][:, self.index] > 0,
            "flips_removing": removed[1][:, self.index] <= 0,
            "leakage": np.abs(change) / self.stds,
            "feature_distance": np.linalg.norm(features, axis=1),
        }
        means = {name: np.mean(each, axis=0) for name, each in by_picture.items()}
        errors = {name: _standard_error(each) for name, each in by_picture.items()}
        return {"alpha": alpha, **means, "standard_errors": errors}

    def at_flip_rate(self, direction: Direction) -> dict[str, Any]:
        """Returns the figures at the least alpha that flips `FLIP_RATE` each way.

        By bisection; at `LARGEST_ALPHA` where that does not.
        """
        low, high = 0.0, LARGEST_ALPHA
        best = self.at(direction, high)
        for _ in range(12):
            middle = (low + high) / 2
            found = self.at(direction, middle)
            if min(found["flips_adding"], found["flips_removing"]) >= FLIP_RATE:
                high, best = middle, found
            else:
                low = middle
        return best


def judge_edits(run: Run, judge: Run, attribute: str, seed: int) -> dict[str, Any]:
    """Compares the estimators of one attribute's direction; returns attributes.json.

    One alpha for all held-out pictures, and for adding as for removing. By estimator:
    the curve of figures over `ALPHAS`, and those `at_flip_rate`, the least alpha that
    flips the judge on 90% each way: `flips_adding` among the pictures without the
    attribute, `flips_removing` among those with it; `leakage` by other attribute, the
    mean |change of the judge's log-odds| in their standard deviations over
    reconstructions; and `feature_distance`, how far the judge's features move. The
    notebook's figures are means over `NOTEBOOK_DRAWS` draws of its pictures. Where a
    code has several resolutions, there is also the deconfounded direction of its
    numbers up to each resolution. `standard_errors` are over held-out pictures, the
    notebook's over draws.

    Args:
      run: a run of an autoencoder of any kind.
      judge: a run of a classifier, on the same pictures.
      attribute: the attribute that is added and removed.
      seed: seed of the first draw of the notebook's pictures.

    Raises:
      UserError: the judge does not know the attribute, or nothing is left to flip.
    """
    edits = _Edits(run, judge, attribute)
    if min(len(edits.without), len(edits.with_it)) < 2:
        raise UserError(
            f"--attribute has {attribute!r}, but on reconstructions the judge finds "
            f"it in {len(edits.with_it)} of the held-out pictures that have it, and "
            f"rightly misses it in {len(edits.without)}; two of both are needed"
        )
    names = build.label_names(judge.config.model)
    index = run.attribute_names.index(attribute)
    codes = directions_lib.train_codes(run)
    known = run.attributes("train")[: len(codes)]
    found = {
        name: [attributes.constant(directions[index])]
        for name, directions in directions_lib.estimate(codes, known, seed).items()
    }
    # No guide may have been given, and the run may have no flow that is told it.
    for name in ("held", "flow"):
        directions = directions_lib.read_directions(run, name, seed)
        if attribute in directions:
            found[name] = [directions[attribute]]
    resolutions = stacks.resolution_of_numbers(run.model())
    (usual,) = found["deconfounded"]
    for up_to in np.unique(resolutions)[:-1]:
        name = f"deconfounded, up to {up_to}x{up_to}"
        found[name] = [attributes.within(usual, resolutions <= up_to)]
    for draw in range(1, NOTEBOOK_DRAWS):
        again = attributes.notebook_directions(codes, known[:, [index]], seed + draw)
        found["notebook"].append(attributes.constant(again[0]))
    report: dict[str, Any] = {
        "attribute": attribute,
        "judge": str(judge.workdir),
        "held_out": {
            "pictures": len(edits.codes),
            "judged_right_on_reconstructions": edits.agreement,
            "without": len(edits.without),
            "with": len(edits.with_it),
        },
        "estimators": {},
    }

    def named(figures: dict[str, Any]) -> dict[str, Any]:
        leaks = dict(zip(names, figures["leakage"].tolist(), strict=True))
        del leaks[attribute]
        scalars = {k: float(v) for k, v in figures.items() if k != "leakage"}
        return scalars | {"leakage": leaks}

    def mean(draws: list[dict[str, Any]]) -> dict[str, Any]:
        means = jax.tree.map(lambda *values: np.mean(values, axis=0), *draws)
        errors = means.pop("standard_errors")
        if len(draws) > 1:
            # Draws of a few pictures differ by more than the held-out pictures do.
            errors = {
                name: _standard_error(np.array([draw[name] for draw in draws]))
                for name in errors
            }
        return named(means) | {"standard_errors": named(errors)}

    for name, directions in found.items():
        report["estimators"][name] = {
            "draws": len(directions),
            "at_flip_rate": mean([edits.at_flip_rate(d) for d in directions]),
            "curve": [mean([edits.at(directions[0], alpha)]) for alpha in ALPHAS],
        }
    return report


def write_judgement(run: Run, report: dict[str, Any]) -> Path:
    """Writes what `judge_edits` returned to attributes.json; returns its path."""
    path = run.workdir / "attributes.json"
    write_json(path, report)
    return path


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "attributes")
    given = JUDGE.value or []
    if len(given) > 1:
        told = ",".join(map(str, given))
        raise UserError(
            f"--judge is {told!r}; with --mode=attributes allowed is one workdir"
        )
    judge = open_judge(JUDGE.name, given[0], run) if given else None
    guide = None if GUIDE.value is None else open_judge(GUIDE.name, GUIDE.value, run)
    name = "Smiling" if ATTRIBUTE.value is None else ATTRIBUTE.value
    classifiers = [each for each in (judge, guide) if each is not None]
    if ATTRIBUTE.present and not classifiers:
        raise UserError(
            f"--attribute is {name!r}; with --mode=attributes it goes with --judge or "
            "--guide, and directions are found of all attributes"
        )
    # Before work that would be in vain.
    for classifier in classifiers:
        directions_lib.known_attributes(classifier, name)
        run.attribute_index(name, "--attribute")
    directions_lib.write_directions(run, SEED.value, guide=guide, attribute=name)
    written = [run.workdir / directions_lib.FILE]
    if judge is not None:
        report = judge_edits(run, judge, name, SEED.value)
        print(tables.estimators_table(report))
        written.append(write_judgement(run, report))
    return written


COMMAND = Command(
    meaning="Finds a direction in the space of codes for every attribute.",
    example="--workdir=runs/vae --judge=runs/judge",
    flags={
        "judge": "Without it, edits are not judged.",
        "guide": "Without it, none is found.",
        "attribute": "Default: Smiling.",
        "seed": "Default: 0.",
        "realism": "Default: 0.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
