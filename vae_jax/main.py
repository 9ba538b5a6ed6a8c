"""The command line: python -m vae_jax.main --help.

It reads --mode and hands over; each file in commands/ has the flags of one mode.
"""

import os
import sys
import traceback

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from vae_jax import config as config_lib
from vae_jax import processes
from vae_jax.command_line import (
    define_config,
    keep_compiled_programs,
    parse_flags,
    print_any_name,
    quieten_failed_saves,
    workdir_of,
)
from vae_jax.commands import (
    attributes,
    code_maps,
    completions,
    edits,
    evaluation,
    interpolations,
    layers,
    mixing,
    reconstructions,
    report,
    samples,
    training,
    traversals,
)
from vae_jax.commands import help as help_lib
from vae_jax.commands.flags import VALUES, WORKDIR, Command, check_given
from vae_jax.errors import UserError, naming_files

COMMANDS: dict[str, Command] = {
    "train": training.COMMAND,
    "eval": evaluation.COMMAND,
    "sample": samples.COMMAND,
    "reconstruct": reconstructions.COMMAND,
    "attributes": attributes.COMMAND,
    "edit": edits.COMMAND,
    "interpolate": interpolations.COMMAND,
    "traverse": traversals.COMMAND,
    "layers": layers.COMMAND,
    "mix": mixing.COMMAND,
    "codes": code_maps.COMMAND,
    "complete": completions.COMMAND,
    "report": report.COMMAND,
}
CONFIG = define_config()
MODE = flags.DEFINE_enum("mode", "train", [*COMMANDS], "What to do.")
for _name in VALUES:
    flags.DEFINE_flag(VALUES[_name], flags.FLAGS, "vae_jax.main")


def main(argv: list[str]) -> None:
    """Does what --mode says."""
    if len(argv) > 1:
        raise UserError(
            f"{argv[1]!r} is no flag; flags look like --mode=eval, and --help says more"
        )
    check_given(COMMANDS, MODE.value)
    workdir, command = WORKDIR.value, COMMANDS[MODE.value]
    if workdir is None and CONFIG.value is None:
        needed = "--config" if MODE.value == "train" else "--workdir (or --config)"
        raise UserError(
            f"{needed} is missing; to train: {help_lib.PROGRAM} "
            "--config=configs/vae.py; --help says more"
        )
    if workdir is None:
        workdir = workdir_of(config_flags.get_config_filename(flags.FLAGS["config"]))
    if CONFIG.value is not None:
        config_lib.validate(CONFIG.value)
    processes.join("auto" if CONFIG.value is None else CONFIG.value.distributed)
    if jax.process_count() > 1 and not command.several_processes:
        together = [mode for mode, each in COMMANDS.items() if each.several_processes]
        raise UserError(
            f"--mode is {MODE.value}, which takes one process; {jax.process_count()} "
            f"were started. Several go with --mode={' or '.join(together)}; to work "
            "side by side they need --config with --config.distributed=off"
        )
    processes.check_agreement({"--mode": MODE.value})
    if not processes.is_first():
        # The first speaks for all; errors go to stderr.
        sys.stdout = open(os.devnull, "w")
    with processes.needing_all():
        for path in command.work(CONFIG.value, workdir):
            print(path)
        # The first has more to do, and JAX takes for lost who ends long before others.
        processes.wait_for_all()


def cli() -> None:
    """Runs `main`; a user's mistake ends with its message and exit status 2."""
    logging.set_verbosity(logging.WARNING)
    print_any_name()
    try:
        if help_lib.is_asked_for(sys.argv[1:]):
            print(help_lib.screen(COMMANDS, sys.argv))
            sys.exit(0)
        quieten_failed_saves()
        keep_compiled_programs()
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
