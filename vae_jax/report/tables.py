"""Reports as tables, for the terminal."""

from typing import Any

from tabulate import tabulate

from vae_jax.report.evaluations import judges_of, sets_of, with_bands
from vae_jax.report.words import figure


def _told(figures: dict[str, Any], name: str) -> str:
    """Returns a figure, with its standard error where it has one."""
    value, error = figures.get(name), figures.get("standard_errors", {}).get(name)
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return figure(value, error)


def _table(columns: dict[str, dict[str, Any]], title: str) -> str:
    """Returns the scalars of figures, a column for each."""
    names = dict.fromkeys(
        name
        for figures in columns.values()
        for name, value in figures.items()
        if isinstance(value, int | float)
    )
    rows = [[name, *(_told(f, name) for f in columns.values())] for name in names]
    return tabulate(rows, [title, *columns], disable_numparse=True)


def _sharpness_table(report: dict[str, Any]) -> str:
    """Returns how sharp each set of images is, where test pictures come to 1."""
    columns = {
        name: {
            n: round(v, 4) if isinstance(v, float) else v
            for n, v in with_bands(found).items()
        }
        for name, found in sets_of(report).items()
    }
    return _table(columns, "sharpness")


def evaluation_table(report: dict[str, Any]) -> str:
    """Returns eval.json's scalars, means over images with their standard errors.

    Amplitudes are those of bands of spatial frequency, as shares of Nyquist's.
    """
    judges = judges_of(report)
    factors = report.get("disentanglement")
    parts = [_table(report[split], split) for split in ("validation", "test")]
    if factors is not None:
        parts.append(_table({"ema": factors}, "disentanglement"))
    if "sharpness" in report:
        parts.append(_sharpness_table(report["sharpness"]))
    for judged in judges:
        title = f"judge {judged.name}" if len(judges) > 1 else "judge"
        title += " (the guide)" if judged.is_guide else ""
        parts.append(_table(judged.by_images, title))
    return "\n\n".join(parts) + "\n"


def estimators_table(report: dict[str, Any]) -> str:
    """Returns attributes.json's figures at one flip rate, estimators side by side.

    Leakage is in the order of the last estimator's, the largest first.
    """
    found = {n: e["at_flip_rate"] for n, e in report["estimators"].items()}
    leaks = {
        n: {f"leakage into {a}": leak for a, leak in figures["leakage"].items()}
        for n, figures in found.items()
    }
    *_, last = leaks.values()
    order = sorted(last, key=lambda name: -last[name])
    columns = {n: found[n] | {a: leaks[n][a] for a in order} for n in found}
    rounded = {
        n: {a: round(v, 3) for a, v in figures.items() if isinstance(v, float)}
        for n, figures in columns.items()
    }
    return _table(rounded, report["attribute"])
