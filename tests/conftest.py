"""Shared by all tests: shapes are checked, data sets are tiny."""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# Before JAX is imported: tests of numbers want the same products everywhere.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# What is compiled runs a few times: how fast it runs is not what most tests are about.
# Those that are about bits compile with all optimisations, see `optimised`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Fused operations compile in half of the time the older way, which later ones lack. A
# process has one way, so only those that tests start can have the users' here.
_OLDER_WAY = "--xla_cpu_use_fusion_emitters=false"
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", _OLDER_WAY)
# The tests build the same small programs many times, in several processes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from jaxtyping import install_import_hook  # noqa: E402

# The rooms whose signatures carry shapes; not `training`, whose TrainState JAX and
# Orbax fill with placeholders.
install_import_hook(
    [
        f"vae_jax.{room}"
        for room in ("keys", "models", "evaluation", "exploration", "report")
    ],
    "beartype.beartype",
)

# Grain and main define flags, which would be undefined after a test that imported them
# first.
import grain  # noqa: E402, F401
import jax  # noqa: E402
import pytest  # noqa: E402
from absl.testing import flagsaver  # noqa: E402

import vae_jax.main  # noqa: E402, F401
from vae_jax import run as run_lib  # noqa: E402
from vae_jax.commands import evaluation, kept_codes  # noqa: E402
from vae_jax.config import default_config  # noqa: E402
from vae_jax.data import cache, synthetic_faces  # noqa: E402


def pytest_collection_modifyitems(items):
    """Marks as fast what is not marked as slow, so that `-m fast` takes two minutes."""
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def optimised(request, monkeypatch):
    """Has tests marked as optimised compile well, and their processes as users do."""
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", flags.replace(_OLDER_WAY, ""))
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def flags_of_this_test_alone():
    """Flags are the process's: what one test parses, no later one is given."""
    with flagsaver.flagsaver():
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A tfds folder with a few synthetic faces."""
    folder = tmp_path_factory.mktemp("tfds")
    synthetic_faces.prepare(folder, sizes={"train": 40, "validation": 10, "test": 6})
    return folder


@pytest.fixture(scope="session")
def faces(data_dir) -> cache.Dataset:
    """The faces of `data_dir`, gray, 16x16."""
    return cache.load("synthetic_faces", data_dir, size=16)


@pytest.fixture
def tiny_config(data_dir):
    """A VAE that trains in a second, on the faces of `data_dir`."""
    return new_tiny_config(data_dir)


def new_tiny_config(data_dir):
    """Returns `tiny_config` for fixtures of a wider scope."""
    config = default_config()
    config.precision = "fp32"
    config.dataset.name = "synthetic_faces"
    config.dataset.data_dir = str(data_dir)
    config.dataset.size = 16
    config.model.latent_dim = 4
    config.model.hidden_dim = 16
    config.train.batch_size = 8
    config.train.num_steps = 12
    config.train.steps_per_dispatch = 2
    config.log.every_steps = 4
    config.eval.every_steps = 4
    config.eval.batch_size = 4
    config.eval.importance_samples = 6
    config.eval.samples_per_chunk = 4
    config.checkpoint.every_steps = 4
    return config


def new_small_config(data_dir, kind):
    """Returns the config of a small run of each kind that commands tell apart."""
    config = new_tiny_config(data_dir)
    config.train.num_steps = 4
    if kind == "ae":
        config.model.name, config.objective.name = "ae", "mse"
    if kind in ("conv", "vq", "transformer"):
        config.model.hidden_dim = 512
        config.model.network, config.model.width = "conv", 4
    if kind == "conv":
        config.model.likelihood, config.dataset.channels = "logistic", 3
    if kind in ("vq", "transformer"):
        config.model.name, config.objective.name = "vq", "quantised"
        config.model.prior, config.model.quantizer = "uniform", "ema"
        config.model.codebook_size, config.model.code_size = 8, 4
    if kind == "transformer":
        config.model.prior = "transformer"
        config.model.prior_width, config.model.prior_depth = 8, 1
        config.model.prior_heads = 2
    if kind == "dial":
        config.model.realism, config.objective.adversarial_weight = True, 0.2
    if kind == "shared":
        config.model.likelihood = "shared_gaussian"
    if kind == "flow":
        config.model.prior, config.objective.name = "flow", "flow"
        config.model.prior_width, config.model.prior_depth = 8, 1
        config.model.prior_steps = 4
        config.eval.importance_samples = config.eval.samples_per_chunk = 1
        config.parts.frozen = "encoder,decoder"
    if kind == "classifier":
        config.model.name, config.objective.name = "classifier", "cross_entropy"
        config.model.attributes = "Smiling,Eyeglasses"
    return config


@pytest.fixture(scope="session")
def small_runs(data_dir, tmp_path_factory):
    """Returns a function that gives a run of a kind, evaluated, to be read only."""
    folder, made = tmp_path_factory.mktemp("small"), {}

    def run_of(kind):
        if kind not in made:
            config = new_small_config(data_dir, kind)
            if kind == "transformer":
                config.init_from = str(run_of("vq").workdir)
            run = run_lib.train(config, folder / kind)
            evaluation.write_evaluation(run, evaluation.evaluate_run(run))
            if kind != "classifier":
                kept_codes.keep(run)
            made[kind] = run
        return made[kind]

    return run_of
