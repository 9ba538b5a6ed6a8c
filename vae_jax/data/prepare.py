"""Turns CelebA's files into a tfds data set.

python -m vae_jax.data.prepare --source=PATH [--data_dir=DIR] [--allow_missing]
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds

from vae_jax.data import celeba
from vae_jax.errors import UserError, naming_files


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, `argv` without the program's name.

    Returns:
      The exit code: 0, 2 if the user has to change something, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="prepare", description=__doc__)
    parser.add_argument(
        "--source",
        required=True,
        help="a folder with img_align_celeba.zip or img_align_celeba/ and "
        "list_attr_celeba and list_eval_partition, .txt or .csv, as they come from "
        "CelebA's page, Google Drive or Kaggle; or the path of the zip",
    )
    parser.add_argument(
        "--data_dir",
        help="the folder where tfds keeps its data sets; default: tfds' own",
    )
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="prepares the pictures that are there, though the label files list more",
    )
    args = parser.parse_args(argv)
    try:
        with naming_files():
            folder = celeba.prepare(args.source, args.data_dir, args.allow_missing)
    except UserError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare: interrupted, nothing is kept", file=sys.stderr)
        return 130
    splits = tfds.builder_from_directory(folder).info.splits
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in splits.items())
    train = "python -m vae_jax.main --config=configs/vae.py"
    train += " --config.dataset.name=celeb_a"
    if args.data_dir is not None:
        place = shlex.quote(str(folder.parents[1].absolute()))
        train += f" --config.dataset.data_dir={place}"
    print(f"{folder}: {counts} pictures; to train: {train}")
    print(celeba.LICENCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
