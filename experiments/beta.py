"""What the weight of the KL buys, and what it costs.

  python -m experiments.beta --config=configs/vae.py --beta=0.25,0.5,1,2,4,8

trains a VAE for each weight and seed and writes, under --out, table.md, table.csv and
beta.png: distortion against rate (Alemi et al. 2018), active units (Burda et al. 2016),
and how well dimensions stand for factors, where those of the pictures are known.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import (
    add_sweep_flags,
    cli,
    listed,
    new_parser,
    parse,
)
from experiments.sweep import (
    Results,
    check_elbo,
    draw_figure,
    mean_and_std,
    new_figure,
    sweep_by_flags,
)
from vae_jax.report import drawing

FIGURES = ["elbo", "kl", "log_px", "bits_per_dim", "mse", "active_units"]
DISENTANGLEMENT = {
    "mig": "mutual information gap",
    "disentanglement": "DCI disentanglement",
    "factor_vae": "FactorVAE score",
}


def draw(betas: Sequence[str], results: Results, path: Path) -> None:
    """Draws beta.png from the results of `sweep`, one point for each beta.

    Rate is the mean KL, distortion the mean of -log p(x|z), both in nats an image. The
    third panel is left out where the factors are not known.
    """
    known = "mig" in results[next(iter(results))]
    figure, axes = new_figure(3 if known else 2)
    rate, rate_std = mean_and_std(results, "kl")
    log_px, distortion_std = mean_and_std(results, "log_px")
    axes[0].errorbar(
        rate, -log_px, xerr=rate_std, yerr=distortion_std, fmt="o-", capsize=3
    )
    for beta, x, y in zip(betas, rate, -log_px, strict=True):
        axes[0].annotate(beta, (x, y), xytext=(5, 5), textcoords="offset points")
    axes[0].set_xlabel("rate: KL, nats")
    axes[0].set_ylabel("distortion: -E log p(x|z), nats")
    axes[0].set_title("rate and distortion, by beta")
    draw_figure(axes[1], betas, results, "active_units")
    axes[1].set_title("active units")
    if known:
        for name, label in DISENTANGLEMENT.items():
            draw_figure(axes[2], betas, results, name, label)
        axes[2].set_title("disentanglement")
        axes[2].legend()
    for axis in axes[1:]:
        axis.set_xlabel("beta")
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.beta", __doc__)
    add_sweep_flags(parser)
    parser.add_argument(
        "--beta",
        type=listed,
        default="0.25,0.5,1,2,4,8",
        help="Weights of the KL, with commas between; 0.25,0.5,1,2,4,8.",
    )
    options, settings = parse(parser, argv)
    check_elbo(options.config, settings)
    points = {f"beta_{beta}": {"objective.beta": beta} for beta in options.beta}
    results = sweep_by_flags(options, settings, points, [*FIGURES, *DISENTANGLEMENT])
    if results is None:
        return
    draw(options.beta, results, options.out / f"beta.{options.format}")


if __name__ == "__main__":
    cli(main)
