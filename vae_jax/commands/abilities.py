"""What can be done with the model of a run: it follows from what the model has."""

from vae_jax.errors import UserError
from vae_jax.run import Run


def can_decode(run: Run) -> bool:
    """Says whether the model is an autoencoder; otherwise it only recognises."""
    return hasattr(run.model(), "decode")


def has_prior(run: Run) -> bool:
    """Says whether there is a prior to draw codes from."""
    return can_decode(run) and run.model().prior is not None


def has_posterior(run: Run) -> bool:
    """Says whether the code of an image is a distribution."""
    return can_decode(run) and hasattr(run.model(), "posterior")


def dial_of(run: Run) -> dict[str, float]:
    """Returns what a record says of a run's dial; nothing where it has none."""
    return {"realism": run.realism} if run.config.model.realism else {}


def check_decoder(run: Run, asked: str) -> None:
    """Raises UserError where what was asked for takes an autoencoder."""
    if not can_decode(run):
        raise UserError(
            f"{asked}, but {run.workdir} holds a classifier; it goes with --mode=eval, "
            "or as the --judge of another run"
        )


def check_prior(run: Run, asked: str, instead: str) -> None:
    """Raises UserError where what was asked for takes a prior.

    Args:
      run: that is asked.
      asked: "--seeds is 1,2", say.
      instead: what is allowed.
    """
    check_decoder(run, asked)
    if not has_prior(run):
        raise UserError(
            f"{asked}, but the model in {run.workdir} has no prior to draw codes from; "
            f"{instead}"
        )


def check_discrete_codes(run: Run, asked: str) -> None:
    """Raises UserError where what was asked for takes discrete codes."""
    check_decoder(run, asked)
    if not hasattr(run.model(), "indices"):
        raise UserError(
            f"{asked}, and the codes of the run in {run.workdir} are not discrete; "
            "configs/vq_vae.py trains a model whose are"
        )


def check_learned_codes(run: Run, asked: str) -> None:
    """Raises UserError where what was asked for takes a learned prior over indices."""
    check_discrete_codes(run, asked)
    if not hasattr(run.model().prior, "logits"):
        raise UserError(
            f"{asked}, and {run.workdir} holds no learned prior over discrete codes; "
            "configs/vq_prior.py trains one"
        )


def check_judge(run: Run, flag: str) -> None:
    """Raises UserError where the run that a flag names is of no classifier."""
    if not hasattr(run.model(), "logits"):
        raise UserError(
            f"--{flag} is '{run.workdir}', which holds no classifier; configs/judge.py "
            "trains one"
        )
