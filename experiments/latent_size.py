"""How many dimensions the code needs, and how many the model uses.

  python -m experiments.latent_size --config=configs/vae.py --latent_dim=8,16,32,64,128

trains a model for each size and seed and writes, under --out, table.md, table.csv and
latent_size.png: elbo, bits/dim, mse and active units (Burda et al. 2016) against size,
or mse alone for an autoencoder.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import add_sweep_flags, cli, listed, new_parser, parse
from experiments.sweep import Results, draw_figure, new_figure, sweep_by_flags
from vae_jax.report import drawing

PANELS = {
    "elbo": "elbo, nats",
    "bits_per_dim": "bits/dim",
    "mse": "mse",
    "active_units": "active units",
}
FIGURES = ["elbo", "kl", "log_px", "bits_per_dim", "mse", "active_units"]


def draw(sizes: Sequence[str], results: Results, path: Path) -> None:
    """Draws latent_size.png from the results of `sweep`, one point for each size."""
    shown = [name for name in PANELS if name in next(iter(results.values()))]
    figure, axes = new_figure(len(shown))
    for axis, name in zip(axes, shown, strict=True):
        draw_figure(axis, sizes, results, name)
        axis.set_title(PANELS[name])
        axis.set_xlabel("latent dimensions")
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.latent_size", __doc__)
    add_sweep_flags(parser)
    parser.add_argument(
        "--latent_dim",
        type=listed,
        default="8,16,32,64,128",
        help="Sizes with commas between; 8,16,32,64,128.",
    )
    options, settings = parse(parser, argv)
    points = {
        f"latent_dim_{size}": {"model.latent_dim": size} for size in options.latent_dim
    }
    results = sweep_by_flags(options, settings, points, FIGURES)
    if results is None:
        return
    draw(options.latent_dim, results, options.out / f"latent_size.{options.format}")


if __name__ == "__main__":
    cli(main)
