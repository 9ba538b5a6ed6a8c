"""The real pictures, where somebody has put them beside the repository."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vae_jax import run as run_lib
from vae_jax.data import cache, celeba
from vae_jax.models.likelihoods import to_unit_interval

SOURCE = Path(__file__).parents[3] / "shared" / "celeba"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SOURCE / "img_align_celeba.zip").exists(),
        reason=f"the official CelebA files are not in {SOURCE}",
    ),
]


@pytest.fixture(scope="module")
def celeba_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("celeba")
    celeba.prepare(SOURCE, folder, allow_missing=True)
    return folder


def test_pictures_and_labels_are_the_official_ones(celeba_dir):
    info = tfds.builder("celeb_a:2.1.0", data_dir=celeba_dir).info
    counts = {name: split.num_examples for name, split in info.splits.items()}
    assert sum(counts.values()) == info.metadata["pictures"] <= info.metadata["of"]
    assert info.metadata["of"] == 202_599
    dataset = cache.load("celeb_a", celeba_dir)
    assert dataset.splits["train"].images.shape[1:] == (64, 64, 1)
    assert sorted(dataset.attribute_names) == sorted(celeba.ATTRIBUTES)
    smiling = dataset.attribute_names.index("Smiling")
    # 48.2% of all 202,599 smile.
    assert abs(dataset.splits["train"].attributes[:, smiling].mean() - 0.482) < 0.03
    means = dataset.splits["train"].images[:2000].mean(axis=0)[..., 0]
    # A mean face: symmetric, and darker at the eyes than on the cheeks below them.
    assert np.corrcoef(means.ravel(), means[:, ::-1].ravel())[0, 1] > 0.95


def test_a_vae_learns_faces(celeba_dir, tiny_config, tmp_path):
    tiny_config.dataset.name = "celeb_a"
    tiny_config.dataset.data_dir = str(celeba_dir)
    tiny_config.dataset.size = 32
    tiny_config.model.latent_dim, tiny_config.model.hidden_dim = 32, 128
    tiny_config.optimizer.learning_rate = 1e-3
    tiny_config.train.batch_size, tiny_config.train.num_steps = 64, 600
    tiny_config.train.steps_per_dispatch = 20
    for section in (tiny_config.log, tiny_config.eval, tiny_config.checkpoint):
        section.every_steps = 200
    run = run_lib.train(tiny_config, tmp_path)
    levels = run.dataset.splits["validation"].images[:500]
    images = to_unit_interval(jnp.asarray(levels))
    model = run.model()
    mse = np.mean((model.decode(model.encode(images)).mean - images) ** 2)
    assert mse < 0.4 * images.var(axis=0).mean()
