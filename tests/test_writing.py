import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from vae_jax.data import writing


def test_a_record_holds_what_tfds_would_write():
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(2, 3, 3), encoding_format="png"),
            "file_name": tfds.features.Text(),
            "attributes": {"Smiling": np.bool_, "Bald": np.bool_},
            "landmarks": {"nose_x": np.int64},
        }
    )
    example = {
        "image": b"\x89PNG and \xff\x00 what follows",
        "file_name": "größe.png".encode(),
        "attributes": {"Smiling": True, "Bald": False},
        "landmarks": {"nose_x": -5},
    }
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    theirs = serializer.serialize_example(features.encode_example(example))
    ours = writing.record(example)
    read = tf_example_pb2.Example.FromString
    assert read(ours) == read(theirs)
    backwards = {name: example[name] for name in reversed(example)}
    assert writing.record(backwards) == ours
