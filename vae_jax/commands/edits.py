"""Pictures edited along attributes, and what a judge says of such edits."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.commands import directions as directions_lib
from vae_jax.errors import UserError
from vae_jax.exploration import attributes, sampling
from vae_jax.exploration.attributes import Direction
from vae_jax.models import build
from vae_jax.models.likelihoods import LEVELS
from vae_jax.report import plots
from vae_jax.report.writer import write_json
from vae_jax.run import Run

# Draws of the notebook's few pictures that its figures are averaged over.
NOTEBOOK_DRAWS = 20
# The flip rate, of adding and of removing, at which estimators are compared.
FLIP_RATE = 0.9
HELD_OUT = 1000
ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
LARGEST_ALPHA = 8.0


def parse_weights(run: Run, text: str) -> dict[str, float]:
    """Returns what "Smiling,Male=-0.5" stands for: {"Smiling": 1, "Male": -0.5}."""
    weights = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        run.attribute_index(name, "--attribute")
        try:
            weight = float(value) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight) or name in weights:
            raise UserError(
                f"--attribute has {part!r}; allowed is NAME or NAME=NUMBER, each once"
            )
        weights[name] = weight
    return weights


def _file_name(names: Sequence[str]) -> str:
    """Returns a file's name for attributes of whatever names."""
    plain = "_".join(names)
    safe = re.sub(r"[^\w.+() -]", "_", plain)[:60]
    if safe == plain:
        return f"edit_{plain}.png"
    # Others may read the same once they are cut or changed.
    return f"edit_{safe}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}.png"


def _sum(directions: dict[str, Direction], weights: dict[str, float]) -> Direction:
    """Returns the sum of the attributes' weighted directions."""
    for name in weights:
        if name not in directions:
            raise UserError(
                f"--attribute has {name!r}, which has no such direction: either all "
                "training pictures have it or none, or, for --estimator=held, "
                "--mode=attributes was not given a --guide for it"
            )
    return lambda codes: np.sum(
        [w * np.asarray(directions[name](codes)) for name, w in weights.items()],
        axis=0,
    )


def draw_edit(
    run: Run,
    weights: dict[str, float],
    alphas: Sequence[float],
    *,
    estimator: str = "deconfounded",
    num_images: int = 8,
    pictures: np.ndarray | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draws pictures edited along attributes, by the EMA parameters.

    images/edit_Smiling.png has a row for each picture: itself, then its code, moved
    `alpha` times along the direction, decoded. images/edit_Smiling.json says how.

    Args:
      run: of a VAE or an autoencoder.
      weights: of each attribute's direction in the sum.
      alphas: one column each; 0 is the reconstruction.
      estimator: one of `directions.ESTIMATORS`.
      num_images: test pictures, half of them with the first attribute.
      pictures: the user's instead, [N,H,W,C] uint8; a conditional VAE's labels are
        unknown then.
      seed: of the notebook's pictures, if directions are estimated anew.

    Returns:
      The files.

    Raises:
      UserError: an attribute has no direction.
    """
    model = run.model()
    direction = _sum(directions_lib.read_directions(run, estimator, seed), weights)
    labels, chosen = None, None
    if pictures is None:
        test = run.dataset_for("--mode=edit without --pictures").splits["test"]
        column = run.attributes("test")[:, run.attribute_names.index([*weights][0])]
        without, with_it = np.flatnonzero(~column), np.flatnonzero(column)
        chosen = [*without[: num_images - num_images // 2], *with_it[: num_images // 2]]
        pictures, labels = test.images[chosen], run.labels("test")
        labels = None if labels is None else np.asarray(labels)[chosen]
    codes = sampling.encode_images(model, pictures, labels)
    columns = [pictures.astype(np.float32) / (LEVELS - 1)]
    for alpha in alphas:
        edited = (codes + alpha * direction(codes)).astype(np.float32)
        columns.append(sampling.decode_codes(model, edited, labels))
    path = run.image_path(_file_name([*weights]))
    plots.image_grid(np.stack(columns, axis=1), path)
    content = {
        "attributes": weights,
        "estimator": estimator,
        "alphas": list(alphas),
        "test_pictures": None if chosen is None else [int(i) for i in chosen],
    }
    write_json(path.with_suffix(".json"), content)
    return [path, path.with_suffix(".json")]


def _standard_error(each: np.ndarray) -> np.ndarray:
    """Returns that of the mean over the first axis."""
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
        labels = run.labels("test")
        self.labels = None if labels is None else np.asarray(labels)[:HELD_OUT]
        self.codes = sampling.encode_images(
            self.model, test.images[:HELD_OUT], self.labels
        )
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
        labels = None if self.labels is None else self.labels[which]
        codes = self.codes[which]
        directions = np.asarray(direction(codes))
        return attributes.edit_effects(
            self.model, self.judge, codes, directions, alpha, labels
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
    """Compares the estimators of one attribute's direction; writes attributes.json.

    One alpha for all held-out pictures, and for adding as for removing. By estimator:
    the curve of figures over `ALPHAS`, and those `at_flip_rate`, the least alpha that
    flips the judge on 90% each way: `flips_adding` among the pictures without the
    attribute, `flips_removing` among those with it; `leakage` by other attribute, the
    mean |change of the judge's log-odds| in their standard deviations over
    reconstructions; and `feature_distance`, how far the judge's features move. The
    notebook's figures are means over `NOTEBOOK_DRAWS` draws of its pictures.
    `standard_errors` are over held-out pictures, the notebook's over draws.

    Args:
      run: of a VAE or an autoencoder.
      judge: of a classifier, on the same pictures.
      attribute: to add and to remove.
      seed: of the first draw of the notebook's pictures.

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
    codes, known = directions_lib.train_codes(run), run.attributes("train")
    found = {
        name: [attributes.constant(directions[index])]
        for name, directions in directions_lib.estimate(codes, known, seed).items()
    }
    held = directions_lib.read_directions(run, "held", seed)
    if attribute in held:
        found["held"] = [held[attribute]]
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
    write_json(run.workdir / "attributes.json", report)
    return report
