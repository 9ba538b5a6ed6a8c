"""Times vae_jax, PyTorch and the machine side by side: python -m benchmarks.

Needs an idle machine, and `pip install -e ".[bench]"` for PyTorch. Prints one table
and writes it, with every figure that it was made from, as JSON.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax
from tabulate import tabulate

from benchmarks import limits, training


def _machine() -> dict[str, Any]:
    device = jax.devices()[0]
    limit = limits.machine()
    return {
        "device": device.device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "matrix_product_gflops": limit["flops"] / 1e9,
        "memory_gb_per_second": limit["bytes"] / 1e9,
    }


def _rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for line in lines:
        for name, figures in line["rivals"].items():
            first = name == "vae_jax"
            rows.append(
                {
                    "": line["name"] if first else "",
                    "rival": name,
                    line["unit"]: f"{figures['median']:,.0f}",
                    "from": f"{figures['lowest']:,.0f}",
                    "to": f"{figures['highest']:,.0f}",
                    "vae_jax is": "" if first else f"{figures['ratio']:.2f} x",
                    "time / floor": f"{line['time_over_floor']:.2f}" if first else "",
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
        "--only", choices=training.RECIPES, help="One recipe; all of them."
    )
    parser.add_argument(
        "--batch_size",
        type=_batch_sizes,
        default="64,128,512",
        help="Commas between; 64,128,512.",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="Of a turn, about.")
    parser.add_argument(
        "--repeats", type=int, default=7, help="Turns of each rival; 7."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks.json"), help="Of the figures."
    )
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}; allowed is 1 or more")
    try:
        # Before the work, not after it.
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.touch()
    except OSError as error:
        parser.error(f"--out is {str(arguments.out)!r}: {error.strerror}")
    lines = []
    for name in [arguments.only] if arguments.only else training.RECIPES:
        for batch_size in arguments.batch_size:
            lines.append(
                training.measure(
                    name,
                    batch_size=batch_size,
                    seconds=arguments.seconds,
                    repeats=arguments.repeats,
                    num_images=20_000,
                )
            )
    found = {"machine": _machine(), "lines": lines}
    print(json.dumps(found["machine"], indent=2))
    print(
        tabulate(_rows(lines), headers="keys", tablefmt="github", disable_numparse=True)
    )
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    print(arguments.out)


if __name__ == "__main__":
    main()
