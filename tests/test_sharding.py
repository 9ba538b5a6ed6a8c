"""Eight devices give what one gives, but for the order of sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import json, sys
import jax
from vae_jax import run
from vae_jax.commands.evaluation import evaluate_run
from vae_jax.config import default_config
from vae_jax.training.checkpoint import Checkpoints

data_dir, workdir, feed, sharding = sys.argv[1:]
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
for section in (config.log, config.eval, config.checkpoint):
    section.every_steps = 10
trained = run.train(config, __import__("pathlib").Path(workdir))
evaluated = evaluate_run(run.load(workdir))["test"]["ema"]
print(json.dumps({
    "figures": [evaluated[name] for name in ("elbo", "iw_bound", "psnr")],
    "devices": {len(leaf.sharding.device_set) for leaf in saved[-1]}.pop(),
    "share": sum(leaf.addressable_data(0).nbytes for leaf in saved[-1])
    / sum(leaf.nbytes for leaf in saved[-1]),
    "params": [a.ravel().tolist() for a in jax.tree.leaves(trained.params)],
}))
"""


def train(data_dir, workdir, devices, feed, sharding="data_parallel"):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(data_dir), str(workdir)] + [feed, sharding],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("feed", "sharding", "share"),
    [("device", "data_parallel", 1), ("stream", "data_parallel", 1)]
    # Not all is large enough to be cut, or a multiple of the devices.
    + [("device", "fsdp", 0.2)],
)
def test_eight_devices_are_one(data_dir, tmp_path, feed, sharding, share):
    one = train(data_dir, tmp_path / "one", 1, feed)
    eight = train(data_dir, tmp_path / "eight", 8, feed, sharding)
    assert (one["devices"], eight["devices"]) == (1, 8)
    np.testing.assert_allclose(eight["figures"], one["figures"], rtol=1e-5)
    assert share / 2 < eight["share"] <= share
    for a, b in zip(one["params"], eight["params"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())
    logs = [
        [
            json.loads(x)
            for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
        ]
        for n in ("one", "eight")
    ]
    for a, b in zip(*logs, strict=True):
        assert a["elbo"] == pytest.approx(b["elbo"], rel=1e-5)
