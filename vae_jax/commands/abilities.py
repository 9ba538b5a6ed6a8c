"""What can be done with the model of a run: it follows from what the model has."""

from vae_jax.errors import UserError
from vae_jax.exploration import stacks
from vae_jax.models.contract import DiscreteCodes, Flow
from vae_jax.run import Run


def can_decode(run: Run) -> bool:
    """Says whether the model is an autoencoder; otherwise it only recognises."""
    return hasattr(run.model(), "decode")


def has_prior(run: Run) -> bool:
    """Says whether there is a prior to draw codes from."""
    return can_decode(run) and run.model().prior is not None


def has_posterior(run: Run) -> bool:
    """Says whether the code of an image is a distribution over one layer."""
    return can_decode(run) and hasattr(run.model(), "posterior")


def has_moments(run: Run) -> bool:
    """Says whether the prior's mean and standard deviation are known."""
    return has_prior(run) and hasattr(run.model().prior_of(), "mean")


def dial_of(run: Run) -> dict[str, float]:
    """Returns what a record says of a run's dial; nothing where it has none."""
    return {"realism": run.realism} if run.config.model.realism else {}


def made_by(run: Run) -> dict[str, int | float]:
    """Returns what a record says of the model: the step of its checkpoint, its dial."""
    return {"checkpoint_step": run.step, **dial_of(run)}


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
      run: the run that is asked.
      asked: "--seeds is 1,2", say.
      instead: what is allowed.
    """
    check_decoder(run, asked)
    if not has_prior(run):
        raise UserError(
            f"{asked}, but the model in {run.workdir} has no prior to draw codes from; "
            f"{instead}"
        )


def has_discrete_codes(run: Run) -> bool:
    """Says whether codes are indices into codebooks."""
    return isinstance(run.model(), DiscreteCodes)


def check_discrete_codes(run: Run, asked: str) -> None:
    """Raises UserError where what was asked for takes discrete codes."""
    check_decoder(run, asked)
    if not has_discrete_codes(run):
        raise UserError(
            f"{asked}, and the codes of the run in {run.workdir} are not discrete; "
            "configs/vq_vae.py trains a model with discrete codes"
        )


def has_learned_codes(run: Run) -> bool:
    """Says whether there is a learned prior over discrete codes."""
    return has_discrete_codes(run) and hasattr(run.model().prior, "logits")


def check_learned_codes(run: Run, asked: str) -> None:
    """Raises UserError where what was asked for takes a learned prior over indices."""
    check_discrete_codes(run, asked)
    if not has_learned_codes(run):
        raise UserError(
            f"{asked}, and {run.workdir} holds no learned prior over discrete codes; "
            "configs/vq_prior.py trains one"
        )


def check_stack(run: Run, asked: str) -> list[int]:
    """Returns the resolutions in a run's codes, the coarsest first.

    Raises:
      UserError: there is one alone, and what was asked for takes several.
    """
    check_decoder(run, asked)
    sizes = stacks.resolutions(run.model())
    if len(sizes) < 2:
        raise UserError(
            f"{asked}, and the codes of the run in {run.workdir} have one resolution; "
            "configs/hvae.py, configs/vq_vae_2.py and configs/style_vae.py:styles "
            "train models with several"
        )
    return sizes


def check_up_to(run: Run, up_to: int) -> None:
    """Raises UserError where `up_to` is the finest resolution of a code, or none."""
    *coarse, _ = check_stack(run, f"--up_to is {up_to}")
    if up_to not in coarse:
        raise UserError(
            f"--up_to is {up_to}; allowed with {run.workdir} is one of "
            f"{', '.join(map(str, coarse))}"
        )


def check_hierarchical(run: Run, asked: str) -> list[int]:
    """Returns the resolution of each layer of a run's codes, the first one first.

    Raises:
      UserError: they are not layers of noise that can be drawn anew one by one.
    """
    check_decoder(run, asked)
    if not stacks.in_layers(run.model()):
        raise UserError(
            f"{asked}, and {run.workdir} holds no hierarchical model; configs/hvae.py "
            "trains one"
        )
    return [part[0] for part in run.model().code_shape]


def has_flow(run: Run) -> bool:
    """Says whether the prior is a flow over codes."""
    return has_prior(run) and isinstance(run.model().prior_of(), Flow)


def check_flow(run: Run, asked: str) -> None:
    """Raises UserError where what was asked for takes a flow as prior."""
    check_decoder(run, asked)
    if not has_flow(run):
        raise UserError(
            f"{asked}, and {run.workdir} holds no flow over codes; "
            "configs/latent_flow.py trains one"
        )


def check_judge(run: Run, flag: str) -> None:
    """Raises UserError where the run that a flag names is of no classifier."""
    if not hasattr(run.model(), "logits"):
        raise UserError(
            f"--{flag} is '{run.workdir}', which holds no classifier; configs/judge.py "
            "trains one"
        )
