"""Opens a page in the browser on which the faces of a trained model are changed.

  python -m vae_jax.explorer --demo              # a small model of drawn faces
  python -m vae_jax.explorer --workdir=runs/vae  # a run, or an exported model

With --to no page is opened: the picture that the other flags describe is written. The
page shows that command for each of its pictures.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import vae_jax
from vae_jax.command_line import Parser, exit_status, keep_compiled_programs
from vae_jax.commands.flags import parse_numbers
from vae_jax.commands.prior_flags import parse_temperature
from vae_jax.errors import UserError
from vae_jax.explorer import server
from vae_jax.explorer.looks import Face, Look, parse_face
from vae_jax.explorer.source import Source, is_exported, open_source, plain
from vae_jax.local_paths import local_path
from vae_jax.report import grids
from vae_jax.storage import writing

DEMO = Path(vae_jax.__file__).parents[1] / "examples" / "demo_model"
HOST, PORT = "127.0.0.1", 7860
# What --to writes is said by these.
OF_PICTURE = (
    "face",
    "toward",
    "share",
    "up_to",
    "sampler",
    "temperature",
    "estimator",
    "attribute",
    "dimensions",
    "realism",
)


def _parser() -> Parser:
    parser = Parser("vae_jax.explorer", __doc__)
    add = parser.add_argument
    add("--workdir", help="the folder of a run, or of an exported model")
    add("--demo", action="store_true", help="the model in examples/demo_model")
    add(
        "--checkpoint",
        choices=("latest", "best"),
        help="the checkpoint of the run; latest by default",
    )
    add(
        "--data_dir", help="the folder where the run's data set is now, if it was moved"
    )
    add("--host", help=f"the address that the page is served at; {HOST} by default")
    add("--port", type=_port, help=f"the port of the page; {PORT} by default")
    picture = parser.add_argument_group("one picture")
    add = picture.add_argument
    add("--to", help="the PNG file that is written, instead of a page")
    add("--face", help="the face: seed=5, test=3 or picture=me.jpg")
    add("--toward", help="a second face")
    add("--share", type=float, help="the share of the way to it, from 0 to 1")
    add("--up_to", help="the finest resolution whose codes change on it")
    add("--sampler", help="the source of samples, prior or gaussian")
    add(
        "--temperature",
        help="the temperature of samples: 0.8, or by resolution 4:1,16:0.7",
    )
    add("--attribute", help="the attributes that are added: Smiling=1.5,Male=-0.5")
    add("--estimator", help="the estimator of the directions of attributes")
    add("--dimensions", help="the standard deviations that are added: 3=1.5,12=-2")
    add("--realism", type=float, help="the dial of a decoder that has one, from 0 to 1")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise UserError(f"--port is {text!r}; allowed is a number from 1 to 65535")
    return int(text)


def _refuse(args: argparse.Namespace, names: Sequence[str], goes_with: str) -> None:
    """Raises UserError where one of these flags is given."""
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name} is {getattr(args, name)!r}; it goes with {goes_with}"
            )


def _face(source: Source, text: str, flag: str) -> Face:
    try:
        return source.face(*parse_face(text, flag))
    except UserError as error:
        told = str(error)
        raise UserError(
            told if flag in told else f"{flag} is {text!r}: {told}"
        ) from error


def look_of(source: Source, args: argparse.Namespace) -> Look:
    """Returns the look that flags describe.

    Raises:
      UserError: one of them is not allowed with the model.
    """
    if args.face is None:
        raise UserError("--face is missing; it goes with --to: seed=5, say")
    begun = plain(source, _face(source, args.face, "--face"))
    goal = None if args.toward is None else _face(source, args.toward, "--toward")
    share = 0.0 if args.share is None else args.share
    if not 0 <= share <= 1 or (args.share is None) != (goal is None):
        raise UserError(
            f"--share is {args.share}; allowed is a number from 0 to 1, with --toward"
        )
    if args.up_to is not None and goal is None:
        raise UserError(f"--up_to is {args.up_to}; it goes with --toward")
    up_to = {None: None} | {str(at): at for at in source.coarse}
    if args.up_to not in up_to:
        allowed = ", ".join(map(str, source.coarse)) or "none"
        raise UserError(
            f"--up_to is {args.up_to!r}; allowed with {source.opened[0]} is {allowed}"
        )
    sampler = begun.sampler if args.sampler is None else args.sampler
    temperature = 1.0
    if args.temperature is not None:
        temperature = parse_temperature(args.temperature)
    if args.sampler is not None or temperature != 1.0:
        source.check_sampling(sampler, temperature)
    realism = 0.0 if args.realism is None else args.realism
    if args.realism is not None and not (source.has_dial and 0 <= realism <= 1):
        allowed = (
            "a number from 0 to 1"
            if source.has_dial
            else f"none with {source.opened[0]}, which has no dial of realism"
        )
        raise UserError(f"--realism is {realism}; allowed is {allowed}")
    estimator = begun.estimator if args.estimator is None else args.estimator
    if args.estimator is not None and estimator not in source.directions:
        raise UserError(
            f"--estimator is {estimator!r}; allowed with {source.opened[0]} is "
            f"{' or '.join(source.directions) or 'none'}"
        )
    known = source.directions[estimator] if estimator else {}

    def attribute(name: str) -> str:
        if name not in known:
            raise UserError(
                f"--attribute has {name!r}; with {source.opened[0]} allowed is one of "
                f"{', '.join(known) or 'none'}"
            )
        return name

    def dimension(name: str) -> int:
        # Python reads no numbers of thousands of digits.
        if not name.isdecimal() or len(name) > 9 or int(name) >= len(source.std):
            raise UserError(
                f"--dimensions has {name!r}; with {source.opened[0]} allowed are whole "
                f"numbers below {len(source.std)}"
            )
        return int(name)

    given, numbers = args.attribute, args.dimensions
    return Look(
        begun.face,
        sampler=sampler,
        estimator=estimator,
        goal=goal,
        share=share,
        up_to=up_to[args.up_to],
        temperature=temperature,
        attributes=parse_numbers(given, "--attribute", attribute) if given else {},
        dimensions=parse_numbers(numbers, "--dimensions", dimension) if numbers else {},
        realism=realism,
    )


def work(argv: Sequence[str] | None = None) -> None:
    """Does what flags say: serves the page, or writes a picture.

    Raises:
      UserError: a flag, the model or the port is to be changed.
    """
    args = _parser().parse_args(argv)
    if args.demo == (args.workdir is not None):
        raise UserError("allowed is one of --demo and --workdir; --help says more")
    if args.to is None:
        _refuse(args, OF_PICTURE, "--to")
    else:
        _refuse(args, ("host", "port"), "the page, which is not opened with --to")
        if Path(args.to).suffix.lower() != ".png":
            raise UserError(f"--to is {args.to!r}; allowed is a new file .png")
    if args.demo and not DEMO.is_dir():
        raise UserError(
            f"--demo needs {DEMO}, which is there where the repository was copied and "
            "`pip install -e .` was run in it"
        )
    host, port = args.host or HOST, args.port or PORT
    if args.to is None:
        # Before the model, which takes longer.
        server.check(host, port)
    workdir = DEMO if args.demo else local_path(args.workdir, "--workdir")
    if is_exported(workdir):
        _refuse(args, ("checkpoint", "data_dir"), "a run, not with an exported model")
    source = open_source(workdir, args.checkpoint or "latest", args.data_dir)
    if args.demo:
        source = dataclasses.replace(source, opened=("--demo",))
    if args.to is None:
        server.serve(source, host, port)
        return
    picture = source.picture(look_of(source, args))
    path = local_path(args.to, "--to")
    with writing(path):
        grids.to_picture(picture).save(path, "PNG")
    print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, `argv` without the program's name.

    Returns:
      The exit code, see `exit_status`.
    """
    keep_compiled_programs()
    return exit_status("explorer", lambda: work(argv))


if __name__ == "__main__":
    sys.exit(main())
