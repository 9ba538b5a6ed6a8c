"""Writing a tfds data set without what tfds does beside it."""

import itertools
import os
import random
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore
from tensorflow_datasets.core import dataset_builder, splits
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from vae_jax.errors import UserError

# One record is read at a time. JPEGs take no compression, and the names beside them
# take snappy's nearly as well as the default's, which takes three times as long.
_OPTIONS = "group_size:1,snappy"
_DAMAGED = 10  # pictures after which to stop looking for more


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


class Builder(Quiet, dataset_builder.FileReaderBuilder):
    """tfds' own, but for pictures that a subclass reads one by one into records.

    tfds takes longer to encode a picture's labels than others to decode the picture.

    Attributes:
      per_file: pictures in a file.
      source: what the pictures are read from, as errors name it.
      advice: what to do about damaged ones.
    """

    per_file: int
    source: str
    advice: str

    def _pictures_by_split(self) -> dict[str, list[Any]]:
        """Returns what `_read` is given for each picture, by split."""
        raise NotImplementedError

    def _read(self, picture: Any) -> tuple[bytes, str | None]:
        """Returns a picture's record and None, or what is wrong with the picture."""
        raise NotImplementedError

    def _records(self, pictures: list[Any]) -> Iterator[bytes]:
        """Yields the records of whole pictures; raises UserError after damaged ones."""
        damaged = []
        bar = tqdm(
            total=len(pictures), desc="preparing", unit=" pictures", disable=None
        )
        with bar:
            for record, problem in map(self._read, pictures):
                bar.update()
                if problem is None:
                    yield record
                    continue
                damaged.append(problem)
                if len(damaged) == _DAMAGED:
                    break
        if damaged:
            stopped = " or more" if len(damaged) == _DAMAGED else ""
            raise UserError(
                f"{len(damaged)}{stopped} of {len(pictures)} pictures in {self.source} "
                f"are damaged: {', '.join(damaged)}; {self.advice}"
            )

    def _download_and_prepare(
        self, dl_manager: Any, download_config: Any = None
    ) -> None:
        self.restore_random_numbers()
        pictures, infos = self._pictures_by_split(), []
        # All files draw on this one iterator, in order. It leaves damaged pictures
        # out, so that the last file comes to its end, where it raises.
        records = self._records(list(itertools.chain(*pictures.values())))
        for split, those in pictures.items():
            template = self._get_filename_template(split_name=split)
            starts = range(0, len(those), self.per_file)
            paths, lengths = [], []
            for index, start in enumerate(starts):
                path = template.sharded_filepath(
                    shard_index=index, num_shards=len(starts)
                )
                writer = array_record_module.ArrayRecordWriter(
                    os.fspath(path), _OPTIONS
                )
                number = len(those[start : start + self.per_file])
                length = 0
                for each in itertools.islice(records, number):
                    writer.write(each)
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
