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
from vae_jax.config import default_config

data_dir, workdir, feed = sys.argv[1:]
config = default_config()
config.precision = "fp32"
config.dataset.name = "synthetic_faces"
config.dataset.data_dir = data_dir
config.dataset.size = 16
config.dataset.feed = feed
config.model.latent_dim, config.model.hidden_dim = 4, 16
config.train.batch_size, config.train.num_steps = 16, 20
config.eval.importance_samples = 2
for section in (config.log, config.eval, config.checkpoint):
    section.every_steps = 10
trained = run.train(config, __import__("pathlib").Path(workdir))
leaf = jax.tree.leaves(trained.params["raw"])[0]
print(json.dumps({
    "devices": len(leaf.sharding.device_set),
    "params": [a.ravel().tolist() for a in jax.tree.leaves(trained.params)],
}))
"""


def train(data_dir, workdir, devices, feed):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(data_dir), str(workdir), feed],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("feed", ["device", "stream"])
def test_eight_devices_are_one(data_dir, tmp_path, feed):
    one = train(data_dir, tmp_path / "one", 1, feed)
    eight = train(data_dir, tmp_path / "eight", 8, feed)
    assert (one["devices"], eight["devices"]) == (1, 8)
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
