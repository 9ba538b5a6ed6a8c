"""The classifier of attributes, and what it says of pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import accuracy_score, log_loss

from vae_jax import run as run_lib
from vae_jax.config import default_config
from vae_jax.exploration.judging import accuracy, judge_images
from vae_jax.models import build, losses, objectives
from vae_jax.models.classifier import Prediction


def make_judge(config):
    config.model.name, config.objective.name = "classifier", "cross_entropy"
    config.model.attributes = "auto"
    return config


def small_classifier():
    settings = make_judge(default_config()).model
    settings.update({"latent_dim": 5, "hidden_dim": 8, "attributes": "A,B,C"})
    return build.build_model(
        settings, precision="fp32", image_shape=(4, 4, 1), rngs=nnx.Rngs(0)
    )


def test_cross_entropy_and_accuracy_are_another_librarys():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 3)) * 3
    has = rng.random((50, 3)) < 0.4
    prediction = Prediction(jnp.float32(logits), jnp.where(has, 1.0, -1.0))
    labels = prediction.labels
    loss, metrics = losses.cross_entropy()(
        lambda images, key, labels, num_samples: Prediction(prediction.logits, labels),
        jnp.zeros((50, 2, 2, 1)),
        labels,
        jax.random.key(0),
        jnp.int32(0),
    )
    p = 1 / (1 + np.exp(-logits))
    expected = np.mean([log_loss(has[:, k], p[:, k]) for k in range(3)])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    right = np.mean([accuracy_score(has[:, k], logits[:, k] > 0) for k in range(3)])
    assert float(metrics["accuracy"]) == pytest.approx(right)
    by_attribute = accuracy(np.float32(logits), has)
    assert by_attribute.shape == (3,)
    assert by_attribute.mean() == pytest.approx(right)


def test_log_odds_are_linear_in_the_features_and_blind_to_labels():
    model = small_classifier()
    images = jax.random.uniform(jax.random.key(0), (7, 4, 4, 1))
    features, logits = judge_images(model, images)
    assert features.shape == (7, 5)
    np.testing.assert_allclose(
        logits,
        features @ model.head.kernel[...] + model.head.bias[...],
        rtol=1e-4,
        atol=1e-5,
    )
    for labels in (jnp.ones(3), -jnp.ones((7, 3))):
        said = model(images, jax.random.key(1), labels)
        np.testing.assert_allclose(said.logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_learns_and_knows_all_attributes(tiny_config, tmp_path):
    config = make_judge(tiny_config)
    config.model.hidden_dim, config.model.latent_dim = 64, 32
    config.optimizer.learning_rate = 4e-3
    config.ema.decay = 0.9
    config.train.num_steps = 900
    config.train.steps_per_dispatch = 50
    for section in (config.log, config.eval, config.checkpoint):
        section.every_steps = 900
    run = run_lib.train(config, tmp_path)
    names = run.dataset.attribute_names
    assert run.config.model.attributes == ",".join(names)
    train = run.dataset.splits["train"]
    _, logits = judge_images(run.model(), train.images / np.float32(255))
    rates = accuracy(logits, train.attributes)
    guess = np.maximum(train.attributes.mean(0), 1 - train.attributes.mean(0))
    assert rates.mean() > 0.95 > guess.mean()
    # It goes on with "auto" as well.
    config.train.num_steps = 950
    assert run_lib.train(config, tmp_path).step == 950


def test_attributes_keep_their_places_where_a_run_goes_on_with_auto(
    tiny_config, tmp_path
):
    config = make_judge(tiny_config)
    config.model.attributes, config.train.num_steps = "Smiling,Eyeglasses", 4
    run_lib.train(config, tmp_path)
    config.model.attributes, config.train.num_steps = "auto", 8
    run = run_lib.train(config, tmp_path)
    assert run.step == 8 and run.config.model.attributes == "Smiling,Eyeglasses"


def test_half_of_the_pictures_are_mirrored():
    seen = []

    class Watched(nnx.Module):
        def __call__(self, images, key, labels, num_samples):
            seen.append(np.asarray(images))
            return None

    objective = objectives.Objective(lambda *_: {}, lambda *_: jnp.float32(0))
    graphdef, variables = build.split(Watched())
    images = np.random.default_rng(0).integers(0, 256, (400, 2, 2, 1), np.uint8)
    batch = {"image": jnp.asarray(images)}
    for mirror in (False, True):
        loss_fn = build.build_loss_fn(graphdef, objective, mirror=mirror)
        loss_fn(variables.params, {}, batch, jax.random.key(0), jnp.int32(0))
    plain, mirrored = seen
    np.testing.assert_allclose(plain, images / np.float32(255), rtol=1e-6)
    same = (mirrored == plain).all(axis=(1, 2, 3))
    turned = (mirrored == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | turned).all() and 160 < turned.sum() < 240
