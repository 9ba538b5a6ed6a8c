"""Writing a tfds data set without what tfds does beside it."""

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore
from tensorflow_datasets.core import splits
from tensorflow_datasets.proto import tf_example_pb2

from vae_jax.errors import UserError

# One record is read at a time. JPEGs take no compression, and the names beside them
# take snappy's nearly as well as the default's, which takes three times as long.
_OPTIONS = "group_size:1,snappy"


class Info(tfds.core.DatasetInfo):
    """tfds' own, but for what a builder does where its data set is not there yet.

    It then asks Google for the data set, having made an empty temporary folder that
    it never removes.
    """

    def initialize_from_bucket(self) -> None:
        """Leaves everything as it is."""


class Builder(tfds.core.ShardBasedBuilder):
    """tfds' own, but for shards that yield records in place of keys and examples.

    tfds takes longer to encode a picture's labels than others to decode the picture.
    """

    def _download_and_prepare(
        self, dl_manager: Any, download_config: Any = None
    ) -> None:
        del download_config
        infos = []
        for split, shards in self._shard_iterators_per_split(dl_manager).items():
            template = self._get_filename_template(split_name=split)
            paths, lengths = [], []
            for index, records in enumerate(shards):
                path = template.sharded_filepath(
                    shard_index=index, num_shards=len(shards)
                )
                writer = array_record_module.ArrayRecordWriter(
                    os.fspath(path), _OPTIONS
                )
                length = 0
                for record in records():
                    writer.write(record)
                    length += 1
                writer.close()
                paths.append(path)
                lengths.append(length)
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=lengths,
                    num_bytes=sum(path.stat().length for path in paths),
                    filename_template=template,
                )
            )
        self.info.set_splits(splits.SplitDict(infos))


def record(example: Mapping[str, bytes | Mapping[str, int]]) -> bytes:
    """Returns an example of bytes, and of integers or booleans by name, for `Builder`.

    It holds what tfds' own serialiser would write, in the order of the names.
    """
    message = tf_example_pb2.Example()  # pyright: ignore
    feature = message.features.feature
    for name, value in example.items():
        if isinstance(value, bytes):
            feature[name].bytes_list.value.append(value)
            continue
        for part, number in value.items():
            feature[f"{name}/{part}"].int64_list.value.append(int(number))
    return message.SerializeToString(deterministic=True)


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
