"""The command line of exports: python -m vae_jax.export --help."""

import sys
from collections.abc import Sequence

import vae_jax.export
from vae_jax import run as run_lib
from vae_jax.command_line import Parser, exit_status
from vae_jax.export.programs import KINDS
from vae_jax.export.saving import export
from vae_jax.local_paths import local_path


def work(argv: Sequence[str] | None = None) -> None:
    """Writes what flags name.

    Raises:
      UserError: a flag is to be changed, or as `saving.export`.
    """
    parser = Parser("vae_jax.export", vae_jax.export.__doc__)
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--to", required=True, help="a new or empty folder")
    parser.add_argument(
        "--format",
        choices=("safetensors", *KINDS),
        default="safetensors",
        help="the format; with onnx or stablehlo programs of encoder and decoder are "
        "written as well",
    )
    args = parser.parse_args(argv)
    run = run_lib.load(local_path(args.workdir, "--workdir"))
    kind = args.format if args.format in KINDS else None
    for path in export(run, local_path(args.to, "--to"), kind=kind):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, `argv` without the program's name.

    Returns:
      The exit code, see `exit_status`.
    """
    return exit_status("export", lambda: work(argv))


if __name__ == "__main__":
    sys.exit(main())
