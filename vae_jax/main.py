"""The command line: python -m vae_jax.main --config=configs/vae.py.

  --mode=train        train, then evaluate and draw (the default)
  --mode=eval         figures of the validation and test splits, to eval.json; with
                      --judge=WORKDIR those of a classifier as well
  --mode=sample       images/samples.png, from the prior, or from a --sampler fitted to
                      the training pictures' codes; with --attributes=Smiling=1,Male=0;
                      as single pictures with --folder=PATH, whose former samples
                      --replace deletes
  --mode=reconstruct  images/reconstructions.png, originals over reconstructions over
                      the decoder's standard deviation
  --mode=attributes   directions.npz, a direction for each attribute; with --judge
                      attributes.json, how well those of an --attribute edit
  --mode=edit         images/edit_Smiling.png, along --attribute=Smiling by --alpha
  --mode=interpolate  images/interpolation.png and .gif, between test pictures
                      (--indices), your own (--pictures), or samples (--seeds)
  --mode=traverse     images/traversal.png and .gif, dimension by dimension, of a test
                      picture or your own (--pictures)

All modes but train need --workdir alone. Every setting of a recipe can be overridden:
--config.model.latent_dim=64. Of a run --config.dataset.data_dir says where its pictures
are now.
"""

import io
import math
import os
import shlex
import sys
import traceback
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from vae_jax import config as config_lib
from vae_jax import processes
from vae_jax import run as run_lib
from vae_jax.command_line import (
    define_path,
    keep_compiled_programs,
    parse_flags,
    parse_numbers,
    quieten_failed_saves,
)
from vae_jax.commands import (
    abilities,
    codes,
    directions,
    edits,
    evaluation,
    paths,
    samples,
)
from vae_jax.commands.reconstructions import draw_reconstructions
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError, naming_files
from vae_jax.local_paths import split_paths
from vae_jax.report import plots, tables
from vae_jax.report.writer import read_lines
from vae_jax.run import Run

MODES = (
    "train",
    "eval",
    "sample",
    "reconstruct",
    "attributes",
    "edit",
    "interpolate",
    "traverse",
)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A recipe, configs/vae.py say."
)
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
WORKDIR = define_path("workdir", "The run's folder; runs/<recipe's name and words>.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "Of the run, in all modes but train."
)
NUM_IMAGES = flags.DEFINE_integer("num_images", None, "To draw.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0)
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    samples.SAMPLERS,
    "Where --mode=sample takes codes from; an autoencoder has no prior.",
)
ATTRIBUTES = flags.DEFINE_string(
    "attributes", None, "Of the samples of a conditional VAE: Smiling=1,Male=0."
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "Factor on the prior's codes.", lower_bound=0.0
)
# NaN passes any bound.
flags.register_validator(
    "temperature",
    lambda value: value is None or math.isfinite(value),
    "allowed is a finite number",
)
FOLDER = define_path(
    "folder", "Where --mode=sample writes each picture as a file of its own."
)
REPLACE = flags.DEFINE_bool(
    "replace", None, "Delete the samples that --folder holds of this run."
)
JUDGE = define_path("judge", "Workdir of a run of configs/judge.py.")
GUIDE = define_path(
    "guide", "Another such run, of another seed: finds the direction `held`."
)
ATTRIBUTE = flags.DEFINE_string(
    "attribute", None, "To edit: Smiling, or with weights Smiling=1,Male=-0.5."
)
ALPHA = flags.DEFINE_list(
    "alpha", None, "How far to edit, with signs; -2,-1,0,1,2 if not given."
)
ESTIMATOR = flags.DEFINE_enum(
    "estimator", None, directions.ESTIMATORS, "Of the direction to edit along."
)
PICTURES = flags.DEFINE_string("pictures", None, "Files of your own, commas between.")
INDICES = flags.DEFINE_list("indices", None, "Of test pictures, commas between.")
SEEDS = flags.DEFINE_list("seeds", None, "Of samples of the prior, commas between.")
SPHERICAL = flags.DEFINE_bool("spherical", None, "Interpolate along great circles.")
NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Pictures from one to the next, both included.", lower_bound=2
)
WAY_POINTS = ("pictures", "indices", "seeds")
# What goes with some modes only.
MODES_OF_FLAGS = {
    "sampler": ("sample",),
    "attributes": ("sample",),
    "temperature": ("sample",),
    "folder": ("sample",),
    "replace": ("sample",),
    "judge": ("eval", "attributes"),
    "guide": ("attributes",),
    "attribute": ("edit", "attributes"),
    "alpha": ("edit",),
    "estimator": ("edit",),
    "pictures": ("edit", "interpolate", "traverse"),
    "indices": ("interpolate", "traverse"),
    "seeds": ("interpolate",),
    "spherical": ("interpolate",),
    "num_steps": ("interpolate",),
    "num_images": ("train", "sample", "reconstruct", "edit", "traverse"),
}


def _draw_curves(run: Run) -> Path:
    """Draws metrics.jsonl against the step; writes images/curves.png."""
    path = run.image_path("curves.png")
    plots.loss_curves(read_lines(run.workdir / "metrics.jsonl"), path)
    return path


def _draw_samples(run: Run, sampler: str) -> Path:
    labels = samples.parse_labels(run, ATTRIBUTES.value)
    if TEMPERATURE.value is not None and sampler != "prior":
        raise UserError(
            f"--temperature is {TEMPERATURE.value}; it goes with --sampler=prior, and "
            f"that is {sampler}"
        )
    temperature = 1.0 if TEMPERATURE.value is None else TEMPERATURE.value
    if REPLACE.value and FOLDER.value is None:
        raise UserError("--replace is given; it goes with --folder")
    if FOLDER.value is not None:
        # Before work that would be in vain.
        samples.check_folder(run, FOLDER.value, bool(REPLACE.value))
    images = samples.sample(
        run, sampler, NUM_IMAGES.value or 64, SEED.value, labels, temperature
    )
    drawn_by = {
        "checkpoint_step": run.step,
        "num_images": len(images),
        "seed": SEED.value,
        "temperature": temperature,
        "attributes": ATTRIBUTES.value,
    }
    if FOLDER.value is not None:
        samples.write_samples(run, sampler, images, drawn_by, FOLDER.value)
        return FOLDER.value
    return samples.draw_samples(run, sampler, images, drawn_by)


def _train(workdir: Path) -> list[Path]:
    if CONFIG.value is None:
        raise UserError("--config is missing: --config=configs/vae.py, say")
    run = run_lib.train(CONFIG.value, workdir)
    if run.step < run.config.train.num_steps:
        print(f"stopped at step {run.step}; to go on: {shlex.join(sys.orig_argv)}")
        # Neither done nor wrong: for a scheduler to start again.
        sys.exit(os.EX_TEMPFAIL)
    report = evaluation.evaluate_run(run)
    if not processes.is_first():
        return []
    print(tables.evaluation_table(report))
    written = [workdir / "eval.json", _draw_curves(run)]
    if not abilities.can_decode(run):
        return written
    written += [draw_reconstructions(run, NUM_IMAGES.value or 64)]
    codes.keep(run)
    if codes.is_enough("gaussian", run.num_train):
        written += [_draw_samples(run, "gaussian")]
    if abilities.has_prior(run):
        written += [_draw_samples(run, "prior")]
    return written


def _explore(workdir: Path) -> list[Path]:
    """Does what every mode but train does with the run in a workdir."""
    run = _load(workdir)
    mode = MODE.value
    if mode != "eval":
        abilities.check_decoder(run, f"--mode is {mode}")
    judge = None
    if JUDGE.value is not None:
        judge = evaluation.open_judge("judge", JUDGE.value, run)
    if mode == "eval":
        print(tables.evaluation_table(evaluation.evaluate_run(run, judge)))
        return [workdir / "eval.json"]
    if mode == "sample":
        usual = "prior" if abilities.has_prior(run) else "gaussian"
        return [_draw_samples(run, SAMPLER.value or usual)]
    if mode == "reconstruct":
        return [draw_reconstructions(run, NUM_IMAGES.value or 64)]
    if mode == "attributes":
        name = ATTRIBUTE.value or "Smiling"
        guide = None
        if GUIDE.value is not None:
            guide = evaluation.open_judge("guide", GUIDE.value, run)
        directions.write_directions(run, SEED.value, guide=guide, attribute=name)
        written = [workdir / "directions.npz"]
        if judge is not None:
            report = edits.judge_edits(run, judge, name, SEED.value)
            print(tables.estimators_table(report))
            written.append(workdir / "attributes.json")
        return written
    given = [name for name in WAY_POINTS if flags.FLAGS[name].value is not None]
    if len(given) > 1:
        raise UserError(f"--{' and --'.join(given)} are given; allowed is one of them")
    pictures, own = None, None
    if PICTURES.value is not None:
        files = [str(path) for path in split_paths(PICTURES.value, "--pictures")]
        pictures = read_pictures(files, run.recipe)
        own = (files, pictures)
    if mode == "edit":
        return edits.draw_edit(
            run,
            edits.parse_weights(run, ATTRIBUTE.value or "Smiling"),
            parse_numbers(ALPHA, float) or [-2.0, -1.0, 0.0, 1.0, 2.0],
            estimator=ESTIMATOR.value or directions.ESTIMATORS[0],
            num_images=NUM_IMAGES.value or 8,
            pictures=pictures,
            seed=SEED.value,
        )
    if mode == "interpolate":
        return paths.draw_interpolation(
            run,
            indices=parse_numbers(INDICES, int),
            seeds=parse_numbers(SEEDS, int),
            pictures=own,
            num_steps=NUM_STEPS.value or 10,
            spherical=bool(SPHERICAL.value),
        )
    chosen = parse_numbers(INDICES, int) or [0]
    for flag, those in (("indices", chosen), ("pictures", pictures)):
        if those is not None and len(those) > 1:
            raise UserError(
                f"--{flag} has {len(those)} pictures; with --mode=traverse one is "
                "allowed"
            )
    return paths.draw_traversal(
        run,
        NUM_IMAGES.value or 10,
        image_index=chosen[0],
        picture=None if pictures is None else pictures[0],
    )


def _load(workdir: Path) -> Run:
    """Opens the run; a recipe given beside it may change how it is evaluated."""
    data_dir = None if CONFIG.value is None else CONFIG.value.dataset.data_dir
    run = run_lib.load(workdir, CHECKPOINT.value, data_dir)
    if CONFIG.value is not None:
        config_lib.validate(CONFIG.value)
        different = [
            line
            for line in config_lib.resumed_differences(run.config, CONFIG.value)
            if not line.startswith("eval.")
        ]
        if different:
            raise UserError(
                f"{workdir} holds a run of another config than --config:\n  "
                + "\n  ".join(different)
            )
        run.config.eval = CONFIG.value.eval
    return run


def _workdir() -> Path:
    if WORKDIR.value is not None:
        return WORKDIR.value
    if CONFIG.value is None:
        needed = "--config" if MODE.value == "train" else "--workdir (or --config)"
        raise UserError(
            f"{needed} is missing; to train: "
            "python -m vae_jax.main --config=configs/vae.py"
        )
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    path, _, words = recipe.partition(":")
    return Path("runs") / "_".join([Path(path).stem, *filter(None, words.split(","))])


def main(argv: list[str]) -> None:
    """Does what --mode says."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag; flags look like --mode=eval")
    for name, modes in MODES_OF_FLAGS.items():
        value = flags.FLAGS[name].value
        if value is not None and MODE.value not in modes:
            told = str(value) if isinstance(value, Path) else value
            raise UserError(
                f"--{name} is {told!r}; it goes with --mode="
                f"{' or '.join(modes)}, and that is {MODE.value}"
            )
    workdir = _workdir()
    if CONFIG.value is not None:
        config_lib.validate(CONFIG.value)
    processes.join("auto" if CONFIG.value is None else CONFIG.value.distributed)
    if jax.process_count() > 1 and MODE.value not in ("train", "eval"):
        raise UserError(
            f"--mode is {MODE.value}, which takes one process; {jax.process_count()} "
            "were started. Several go with --mode=train or eval; to work side by side "
            "they need --config with --config.distributed=off"
        )
    processes.check_agreement({"--mode": MODE.value})
    if not processes.is_first():
        # The first speaks for all; errors go to stderr.
        sys.stdout = open(os.devnull, "w")
    with processes.needing_all():
        for path in (_train if MODE.value == "train" else _explore)(workdir):
            print(path)
        # The first has more to do, and JAX takes for lost who ends long before others.
        processes.wait_for_all()


def cli() -> None:
    """Runs `main`; a user's mistake ends with its message and exit status 2."""
    logging.set_verbosity(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Of names that are no text.
        sys.stdout.reconfigure(errors="backslashreplace")
    quieten_failed_saves()
    keep_compiled_programs()
    try:
        with naming_files():
            app.run(
                main,
                flags_parser=lambda argv: parse_flags(flags.FLAGS, CONFIG, argv),
            )
    except UserError as error:
        print(f"vae_jax: {error}", file=sys.stderr)
        processes.leave(2, at_once=isinstance(error, processes.Lost))
    except KeyboardInterrupt:
        print("vae_jax: interrupted", file=sys.stderr)
        processes.leave(130)
    except Exception:
        traceback.print_exc()
        processes.leave(1)


if __name__ == "__main__":
    cli()
