"""Times vae_jax, PyTorch and the machine side by side: python -m benchmarks.

Needs an idle machine, and `pip install -e ".[bench]"` for PyTorch. Prints one table
and writes it, with every figure that it was made from, as JSON.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import (
    data_path,
    discrete,
    exploring,
    figures,
    limits,
    profiling,
    scaling,
    start_up,
    sweep,
    training,
)

# Functions from the command line's arguments to lines of the table.
PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "training": lambda arguments: [
        training.measure(
            name,
            batch_size=batch_size,
            seconds=arguments.seconds,
            repeats=arguments.repeats,
            num_images=20_000,
        )
        for name in arguments.models
        for batch_size in training.BATCH_SIZES.get(name) or arguments.batch_size
    ],
    "data": lambda arguments: data_path.measure(
        arguments.repeats, num_images=arguments.num_images
    ),
    "exploring": lambda arguments: [
        line
        for name in exploring.MODELS
        for line in exploring.measure(
            arguments.repeats, num_images=arguments.num_images // 10, name=name
        )
    ],
    "discrete": lambda arguments: discrete.measure(arguments.repeats),
    "start_up": lambda arguments: start_up.measure(arguments.repeats),
    "sweep": lambda arguments: [sweep.measure(repeats=arguments.repeats)],
}


def _rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        for name, rival in line["rivals"].items():
            first = name == "vae_jax"
            over_floor = line.get("time_over_floor") if first else None
            rows.append(
                {
                    "": line["name"] if first else "",
                    "unit": line["unit"] if first else "",
                    "rival": name,
                    "median": figures.number(rival["median"]),
                    "from": figures.number(rival["lowest"]),
                    "to": figures.number(rival["highest"]),
                    "vae_jax is": "" if first else f"{rival['ratio']:.2f} x",
                    "time / floor": f"{over_floor:.2f}" if over_floor else "",
                }
            )
    return rows


def _batch_sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"it is {text!r}; allowed are whole numbers above 0, commas between"
        )
    return [int(part) for part in parts]


def main() -> None:
    """Runs the benchmarks that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times vae_jax, PyTorch and the machine side by side.",
    )
    parser.add_argument(
        "--only",
        choices=[*PARTS, "scaling", "profile"],
        nargs="+",
        help="Parts to run; all of them.",
    )
    parser.add_argument(
        "--models",
        choices=[*training.RECIPES],
        default=[*training.RECIPES],
        nargs="+",
        help="Models of training and profile; all of them.",
    )
    parser.add_argument(
        "--batch_size",
        type=_batch_sizes,
        default="64,128,512",
        help="Batch sizes with commas between; 64,128,512. The ladder has 16.",
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="Seconds of a turn, about; 2."
    )
    parser.add_argument(
        "--repeats", type=int, default=7, help="Turns of each rival; 7."
    )
    parser.add_argument(
        "--num_images",
        type=int,
        default=20_000,
        help="Images of the data; exploring has a tenth; 20000.",
    )
    parser.add_argument(
        "--out",
        type=lambda text: Path(text).expanduser(),
        default=Path("runs/benchmarks.json"),
        help="File of the figures.",
    )
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}; allowed is 1 or more")
    if arguments.num_images < 100:
        parser.error(f"--num_images is {arguments.num_images}; allowed is 100 or more")
    try:
        # Before the work, not after it.
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.touch()
    except OSError as error:
        parser.error(f"--out is {str(arguments.out)!r}: {error.strerror}")
    found: dict[str, Any] = {"machine": limits.description(), "lines": []}
    parts = arguments.only or [*PARTS, "scaling", "profile"]
    for part in parts:
        if part == "scaling":
            found["scaling"] = scaling.measure()
            picture = arguments.out.with_suffix(".png")
            scaling.draw(found["scaling"], picture)
            print(picture)
        elif part == "profile":
            found["profile"] = [profiling.measure(name) for name in arguments.models]
            print(json.dumps(found["profile"], indent=2))
        else:
            found["lines"] += PARTS[part](arguments)
        # A part may take long, and the next one fail.
        figures.write(arguments.out, found)
    print(json.dumps(found["machine"], indent=2))
    rows = _rows(found["lines"])
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    print(arguments.out)


if __name__ == "__main__":
    main()
