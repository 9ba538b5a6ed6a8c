"""Writing a tfds data set without what tfds does beside it."""

import contextlib
import io
import os
import tempfile

import tensorflow_datasets as tfds

from vae_jax.errors import UserError


class Info(tfds.core.DatasetInfo):
    """tfds' own, but for what a builder does where its data set is not there yet.

    It then asks Google for the data set, having made an empty temporary folder that
    it never removes.
    """

    def initialize_from_bucket(self) -> None:
        """Leaves everything as it is."""


def write(builder: tfds.core.DatasetBuilder, root: str | os.PathLike[str]) -> None:
    """Writes a builder's data set, whole or not at all, and quietly.

    tfds writes to a folder beside the final one, and renames it when it is whole.

    Raises:
      UserError: if `root`, the builder's data_dir, cannot take it.
    """
    # tfds announces itself on stdout, and makes a folder for downloads, not needed.
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            tempfile.TemporaryDirectory() as downloads,
        ):
            builder.download_and_prepare(download_dir=downloads)
    except RuntimeError as error:
        # This is how array_record reports a full disk.
        if "() failed: " not in str(error):
            raise
        raise UserError(f"cannot write to {root}: {error}") from error
