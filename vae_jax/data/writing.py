"""Writing a tfds data set without what tfds does beside it."""

import os
import random
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore
from tensorflow_datasets.core import splits
from tensorflow_datasets.proto import tf_example_pb2

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


# pyright takes it for the builder that it is mixed into.
_Mixin = tfds.core.DatasetBuilder if TYPE_CHECKING else object


class Quiet(_Mixin):
    """What makes a builder of tfds print, download and change nothing beside its files.

    tfds draws the name of its unfinished folder from Python's global random numbers,
    and two processes that have seeded them alike would write into the same.
    """

    _random_state: Any = None

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass

    def _make_download_manager(self, download_dir: Any, download_config: Any) -> Any:
        del download_dir, download_config
        self._random_state = random.getstate()
        random.seed()
        # All that is asked of it where nothing is downloaded.
        return types.SimpleNamespace(downloaded_size=0)

    def _download_and_prepare(
        self, dl_manager: Any, download_config: Any = None
    ) -> None:
        self.restore_random_numbers()
        super()._download_and_prepare(dl_manager, download_config)  # pyright: ignore

    def restore_random_numbers(self) -> None:
        """Sets Python's random numbers to where they were before the folder's name."""
        state, self._random_state = self._random_state, None
        if state is not None:
            random.setstate(state)


class Builder(Quiet, tfds.core.ShardBasedBuilder):
    """tfds' own, but for shards that yield records in place of keys and examples.

    tfds takes longer to encode a picture's labels than others to decode the picture.
    """

    def _download_and_prepare(
        self, dl_manager: Any, download_config: Any = None
    ) -> None:
        del download_config
        self.restore_random_numbers()
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


def write(builder: Quiet) -> None:
    """Writes a builder's data set, whole or not at all.

    tfds writes to a folder beside the final one, of a name of its own, and renames it
    when it is whole. Where another process was first, its data set stands.

    Raises:
      OSError: the builder's data_dir cannot take it.
    """
    folder = builder.data_dir
    try:
        builder.download_and_prepare()
    except OSError:
        if not os.path.exists(folder):
            raise
    except RuntimeError as error:
        # This is how array_record reports a full disk.
        if "() failed: " not in str(error):
            raise
        raise OSError(str(error)) from error
    finally:
        builder.restore_random_numbers()
