"""Writes the tables of docs/speed.md from results: python -m benchmarks.tables.

A table stands between the comments `<!-- training FILE -->`, or `rest` for `training`,
and `<!-- end -->`.
"""

import json
import re
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.figures import number

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "speed.md"
_TABLE = re.compile(r"(<!-- (training|rest) (\S+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_PEERS = ("PyTorch, DataLoader", "PyTorch, fused", "PyTorch, compiled")


def _ratio(figures: dict[str, float]) -> str:
    """Says how many times faster vae_jax is: the median of the turns, and all of them.

    Results of earlier programs have the median alone.
    """
    if "ratio_lowest" not in figures:
        return f"{figures['ratio']:.2f}"
    lowest, highest = figures["ratio_lowest"], figures["ratio_highest"]
    return f"{figures['ratio']:.2f} ({lowest:.2f} to {highest:.2f})"


def _training(lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for line in lines:
        if "time_over_floor" not in line:
            continue
        rivals = line["rivals"]
        best = max(_PEERS, key=lambda name: rivals[name]["median"])
        rows.append(
            {
                "": line["name"],
                "`vae_jax`": number(rivals["vae_jax"]["median"]),
                **{
                    name.removeprefix("PyTorch, "): number(rivals[name]["median"])
                    for name in _PEERS
                },
                "ratio to DataLoader": _ratio(rivals["PyTorch, DataLoader"]),
                "ratio to the best": _ratio(rivals[best]),
                "time over floor": f"{line['time_over_floor']:.2f}",
            }
        )
    return rows


def _rest(lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for line in lines:
        if "time_over_floor" in line:
            continue
        unit = " s" if line["unit"] == "s" else ""
        ours, *others = line["rivals"].items()
        told = (
            f"{name} {number(figures['median'])}{unit}, {_ratio(figures)}"
            for name, figures in others
        )
        rows.append(
            {
                "": line["name"],
                "`vae_jax`": number(ours[1]["median"]) + unit,
                "rivals, and the ratio to each": "; ".join(told),
            }
        )
    return rows


def fill(page: str) -> str:
    """Returns a page with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        comment, kind, name = found.groups()
        lines = json.loads((ROOT / "benchmarks" / "results" / name).read_text())[
            "lines"
        ]
        rows = {"training": _training, "rest": _rest}[kind](lines)
        made = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        return f"{comment}\n{made}\n\n"

    return _TABLE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
