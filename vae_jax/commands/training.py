"""--mode=train: a run from its settings, evaluated and drawn."""

import os
import shlex
import sys
from pathlib import Path

from vae_jax import processes
from vae_jax import run as run_lib
from vae_jax.commands import abilities, evaluation, kept_codes, reconstructions, samples
from vae_jax.commands import report as report_lib
from vae_jax.commands.flags import NUM_IMAGES, SEED, Command
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.report import tables
from vae_jax.run import Run


def draw_run(run: Run, num_images: int | None = None, seed: int = 0) -> list[Path]:
    """Draws what a model can do after its training, and keeps what needs its images.

    Learning curves; of an autoencoder reconstructions, codes.npz and samples as well.

    Args:
      run: a run of any model.
      num_images: number of reconstructions, and of samples by each sampler; None for as
        many as a screen has room for.
      seed: seed of the samples.

    Raises:
      UserError: the data set is not there, or the operating system refuses.
    """
    written = [report_lib.draw_curves(run)]
    if not abilities.can_decode(run):
        return written
    found = reconstructions.reconstruct(run, num_images)
    written += reconstructions.draw_reconstructions(run, found)
    kept_codes.keep(run)
    samplers = samples.best_samplers(run)
    if samplers:
        drawn = samples.sample_each(run, samplers, num_images, seed)
        drawn_by = samples.describe(run, drawn[samplers[0]], seed)
        written += samples.draw_samples(run, samples.SAMPLES, drawn, drawn_by)
    return written


def _work(config: Config | None, workdir: Path) -> list[Path]:
    if config is None:
        raise UserError("--config is missing: --config=configs/vae.py, say")
    run = run_lib.train(config, workdir)
    if run.was_stopped:
        print(f"stopped at step {run.step}; to go on: {shlex.join(sys.orig_argv)}")
        # Neither done nor wrong: for a scheduler to start again.
        sys.exit(os.EX_TEMPFAIL)
    print(
        f"evaluating step {run.step}, which is saved: where this is stopped, the same "
        "command does it again"
    )
    report = evaluation.evaluate_run(run)
    written = evaluation.write_evaluation(run, report)
    if not processes.is_first():
        return []
    print(tables.evaluation_table(report))
    drawn = draw_run(run, NUM_IMAGES.value, SEED.value)
    return [written, *drawn, report_lib.write_report(run)]


COMMAND = Command(
    meaning="Trains a model, evaluates it and draws samples. The default mode.",
    example="--config=configs/vae.py --config.train.num_steps=2000",
    flags={
        "num_images": "Default: as many as fit on a screen.",
        "seed": "It is that of the samples drawn after training; config.seed is that "
        "of training. Default: 0.",
    },
    work=_work,
    several_processes=True,
)
