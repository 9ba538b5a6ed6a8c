"""The run that a command looks into."""

from dataclasses import replace
from pathlib import Path

from vae_jax import config as config_lib
from vae_jax import record
from vae_jax import run as run_lib
from vae_jax.commands import abilities
from vae_jax.commands.flags import CHECKPOINT, FORMAT, REALISM
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.run import Run


def open_run(config: Config | None, workdir: Path) -> Run:
    """Opens the run in a workdir, at --checkpoint.

    Args:
      config: the settings of --config; they say how the run is evaluated and where its
        data set is. None for those of the run.
      workdir: the run's folder.

    Raises:
      UserError: there is no run, or one of other settings.
    """
    data_dir = None if config is None else config.dataset.data_dir
    run = run_lib.load(workdir, CHECKPOINT.value, data_dir)
    if config is not None:
        # The config of a run whose images still grow has the size of the checkpoint's.
        different = config_lib.resumed_differences(record.read_config(workdir), config)
        if different:
            raise UserError(
                f"{workdir} holds a run of another config than --config:\n  "
                + "\n  ".join(different)
            )
        run.config.eval = config.eval
    if FORMAT.value is not None:
        run = replace(run, picture_format=FORMAT.value)
    if REALISM.value is None:
        return run
    if not run.config.model.realism:
        raise UserError(
            f"--realism is {REALISM.value}; it goes with a run of "
            f"config.model.realism=True, and that in {workdir} is of False"
        )
    return replace(run, realism=REALISM.value)


def open_autoencoder(config: Config | None, workdir: Path, mode: str) -> Run:
    """Opens a run as `open_run` does, for a mode that takes an autoencoder.

    Raises:
      UserError: as `open_run`, or the run is of a classifier.
    """
    run = open_run(config, workdir)
    abilities.check_decoder(run, f"--mode is {mode}")
    return run
