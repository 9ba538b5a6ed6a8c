"""Every setting of an experiment, gathered from the options that declare them.

`python -m vae_jax.settings > docs/settings.md` writes the table of them.
"""

from vae_jax import processes, sharding
from vae_jax.data import batches, cache
from vae_jax.evaluation import evaluate
from vae_jax.models import build
from vae_jax.options import (
    Setting,
    choice,
    gather,
    goes_with,
    optional,
    path,
    positive,
    resumable,
    switch,
    text,
    whole,
)
from vae_jax.training import growth, optimizers, step


def _section(name: str, declared: dict[str, Setting]) -> dict[str, Setting]:
    return {f"{name}.{own}": setting for own, setting in declared.items()}


SETTINGS = gather(
    {
        "seed": whole(
            0, "Seed of the parameters, the order of images and the noise.", low=0
        ),
        "distributed": processes.SETTING,
        "precision": choice(
            "auto",
            "Precision of the activations; auto is bf16 on a GPU or TPU and fp32 on a "
            "CPU.",
            ("auto", *build.PRECISIONS),
        ),
        "deterministic": switch(
            False,
            "Restriction to kernels whose results are the same bits each time; they "
            "are slower on a GPU, and a CPU has no others.",
        ),
        "init_from": path("Workdir of a run whose EMA parameters start this one."),
        **_section("dataset", cache.SETTINGS | batches.SETTINGS),
        **_section("model", build.SETTINGS),
        "objective.name": choice("elbo", "Objective of training.", build.OBJECTIVES),
        **optimizers.SETTINGS,
        **step.SETTINGS,
        "parts.frozen": text(
            "",
            "Parts of the model that keep their initial parameters and state, for "
            "example encoder,prior.",
            "names of parts with commas between, or nothing",
        ),
        "parts.optimizer": text(
            "",
            "Settings of the optimiser for single parts of the model, which are then "
            "clipped by themselves, for example "
            "prior.learning_rate=1e-3,decoder.clip_norm=10.",
            "PART.SETTING=VALUE with commas between, or nothing",
        ),
        "parts.initialised": text(
            "",
            "Parts of the model that the run of init_from must fill whole.",
            "names of parts with commas between, or nothing",
        ),
        "train.batch_size": whole(64, "Images in an update."),
        "train.mirror": switch(
            False, "Half of the images are mirrored, drawn anew each time."
        ),
        "train.num_epochs": resumable(positive(3.0, "Passes over the training split.")),
        "train.num_steps": resumable(
            optional(
                int,
                # Loops go over a list of all dispatches to come.
                whole(1, "Updates; where set, num_epochs does not count.", high=10**7),
            )
        ),
        "train.stages": growth.STAGES,
        "train.sharding": resumable(sharding.SETTING),
        "train.steps_per_dispatch": whole(10, "Updates in one compiled program."),
        "log.every_steps": resumable(
            whole(50, "Updates between two lines of metrics.jsonl.")
        ),
        "log.tensorboard": resumable(
            switch(False, "Event files of TensorBoard are written as well.")
        ),
        "eval.every_steps": resumable(
            whole(1000, "Updates between two evaluations on the validation split.")
        ),
        **{
            name: resumable(setting)
            for name, setting in _section("eval", evaluate.SETTINGS).items()
        },
        "checkpoint.every_steps": resumable(
            whole(1000, "Updates between two checkpoints.")
        ),
    }
)
# The choices that bring a setting in; elsewhere it stays at its default.
ONLY_WITH = goes_with(SETTINGS)

_HEAD = """# Settings

Every setting can be given as `--config.a.b=value`, `None` included where it is allowed.
`--config.train.num_epochs=10` by itself replaces the `train.num_steps` of a recipe or a
run; otherwise steps count before epochs. A name or value that is
not allowed is refused before any work, and so is a setting that would do nothing beside
the others. A recipe in `configs/` is `default_config()` and what differs; `conv_vae`
takes words, `--config=configs/conv_vae.py:colour,128,gaussian`, and `beta_vae`, `cvae`,
`iwae`, `vamp` and `rae` say what differs from it.

This page is written by `python -m vae_jax.settings > docs/settings.md`.

| `config.` | default | meaning | allowed | goes with |
|---|---|---|---|---|
"""


def table() -> str:
    """Returns the page of all settings, in Markdown."""
    rows = []
    for name, setting in SETTINGS.items():
        chooser, choices = ONLY_WITH.get(name, ("", []))
        with_ = f"`{chooser}` {', '.join(choices)}" if chooser else ""
        cells = [f"`{name}`", f"`{setting.default!r}`", setting.meaning]
        cells += [setting.allowed, with_]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells))
    return _HEAD + "".join(f"{row} |\n" for row in rows)


if __name__ == "__main__":
    print(table(), end="")
