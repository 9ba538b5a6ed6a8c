"""Eight devices give what one gives, but for the order of sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

TRAINING = """
import json, sys
import jax
from vae_jax import run
from vae_jax.commands.evaluation import evaluate_run
from vae_jax.config import default_config
from vae_jax.training.checkpoint import Checkpoints

data_dir, workdir, feed, sharding, changes = sys.argv[1:]
saved, save = [], Checkpoints.save
Checkpoints.save = lambda self, state, *rest: (
    saved.append(jax.tree.leaves(state)), save(self, state, *rest)
)
config = default_config()
config.precision = "fp32"
config.dataset.name = "synthetic_faces"
config.dataset.data_dir = data_dir
config.dataset.size = 16
config.dataset.feed = feed
config.train.sharding = sharding
config.model.latent_dim, config.model.hidden_dim = 4, 16
config.train.batch_size, config.train.num_steps = 16, 20
config.eval.importance_samples = 2
config.update_from_flattened_dict(json.loads(changes))
for section in (config.log, config.eval, config.checkpoint):
    section.every_steps = 10
trained = run.train(config, __import__("pathlib").Path(workdir))
evaluated = evaluate_run(run.load(workdir))["test"]["ema"]
print(json.dumps({
    "figures": [evaluated[name] for name in ("elbo", "bits_per_dim", "psnr")]
    + [evaluated.get("iw_bound", 0.0)],
    "devices": {len(leaf.sharding.device_set) for leaf in saved[-1]}.pop(),
    "share": sum(leaf.addressable_data(0).nbytes for leaf in saved[-1])
    / sum(leaf.nbytes for leaf in saved[-1]),
    "params": [a.ravel().tolist() for a in jax.tree.leaves(trained.variables)],
    "state": jax.tree.map(lambda a: a.ravel().tolist(), trained.variables["raw"].state),
}))
"""

GRADIENT = """
import json, re, sys
import jax
import jax.numpy as jnp
from flax import nnx
from vae_jax import sharding
from vae_jax.config import default_config
from vae_jax.models import build

config = default_config()
config.model.network = sys.argv[1]
config.model.width, config.model.hidden_dim = 8, 8
model = build.build_model(
    config.model, precision="fp32", image_shape=(16, 16, 1), rngs=nnx.Rngs(0)
)
graphdef, variables = build.split(model)

def loss(variables, images, key):
    terms = build.merge(graphdef, variables)(images, key, None, 5)
    return -jnp.mean(jax.nn.logsumexp(terms.log_px, axis=0))

mesh = sharding.data_mesh()
whole = sharding.replicated(mesh)
program = jax.jit(
    jax.grad(loss), in_shardings=(whole, sharding.cut_images(mesh), whole)
).lower(variables, jnp.zeros((16, 16, 16, 1)), jax.random.key(0))
text = program.compile().as_text()
print(json.dumps(re.findall(r" (all-[a-z]+|collective-[a-z]+)(?:-start)?\\(", text)))
"""


def on_devices(devices, program, *arguments):
    """Returns what a program prints last, as JSON."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Its codes are averages over the whole batch, and some are dead from the start.
VQ_VAE = {
    "model.name": "vq",
    "model.network": "conv",
    "model.hidden_dim": 512,
    "model.width": 4,
    "model.code_size": 4,
    "model.prior": "uniform",
    "model.quantizer": "ema",
    "model.codebook_size": 64,
    "model.codebook_decay": 0.7,
    "objective.name": "quantised",
}
HIERARCHICAL = {
    "model.name": "hierarchical",
    "model.network": "ladder",
    "model.hidden_dim": 512,
    "model.layers": "2:1,4:2",
    "model.widths": "2:8,4:4",
    "model.likelihood": "logistic_mixture",
    # Of a batch of 16 that is the images of two of the eight devices.
    "model.drop_layers": "4:0.25",
}

# Its statistics are sums over the whole batch.
FLOW = {
    "model.prior": "flow",
    "model.prior_width": 16,
    "model.prior_steps": 4,
    "objective.name": "flow",
    "parts.frozen": "encoder,decoder",
    "eval.importance_samples": 1,
}


# What is new is laid out over the devices as what was there.
GROWN = {
    "dataset.size": 32,
    "model.network": "conv",
    "model.hidden_dim": 512,
    "model.width": 16,
    "model.skips": True,
    "train.stages": "16:10:32",
}


@pytest.mark.parametrize(
    ("feed", "sharding", "share", "changes"),
    [("device", "data_parallel", 1, {}), ("stream", "data_parallel", 1, {})]
    # Not all is large enough to be cut, or a multiple of the devices.
    + [("device", "fsdp", 0.2, {}), ("device", "data_parallel", 1, VQ_VAE)]
    + [("device", "data_parallel", 1, each) for each in (HIERARCHICAL, FLOW)]
    + [("device", "fsdp", 0.2, GROWN)],
    ids=["device", "stream", "fsdp", "vq", "hierarchical", "flow", "grown"],
)
def test_eight_devices_are_one(data_dir, tmp_path, feed, sharding, share, changes):
    told = json.dumps(changes)
    plain, cut = (("data_parallel", told), (sharding, told))
    one = on_devices(1, TRAINING, data_dir, tmp_path / "one", feed, *plain)
    eight = on_devices(8, TRAINING, data_dir, tmp_path / "eight", feed, *cut)
    assert (one["devices"], eight["devices"]) == (1, 8)
    np.testing.assert_allclose(eight["figures"], one["figures"], rtol=1e-5)
    assert share / 2 < eight["share"] <= share
    if changes is VQ_VAE:
        # Averages of shares add up to 1, and to more since codes began anew.
        assert sum(one["state"]["quantizers"]["0"]["shares"]) > 1.001
    for a, b in zip(one["params"], eight["params"], strict=True):
        # What is new begins at zero: rounding is as large as its first gradients.
        close = 1e-4 if "train.stages" in changes else 1e-5
        np.testing.assert_allclose(a, b, rtol=close, atol=close * np.abs(a).max())
    logs = [
        [
            json.loads(x)
            for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
        ]
        for n in ("one", "eight")
    ]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_each_device_decodes_the_samples_of_its_own_images(network):
    found = on_devices(8, GRADIENT, network)
    # Of the gradients, and not of codes, which would make every device decode all.
    assert set(found) == {"all-reduce"}
