"""A short soak; the long one is for releases."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = [
    "--config.precision=fp32",
    "--config.dataset.size=16",
    "--config.model.latent_dim=4",
    "--config.model.hidden_dim=16",
    "--config.train.batch_size=8",
    "--config.train.num_steps=10000000",
    "--config.train.steps_per_dispatch=2",
    "--config.log.every_steps=4",
    "--config.eval.every_steps=20",
    "--config.checkpoint.every_steps=20",
]


def test_nothing_grows(data_dir):
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes=0.15"]
        + [f"--config={ROOT / 'configs' / 'vae.py'}"]
        + [f"--config.dataset.data_dir={data_dir}", *TINY],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" updates, ")[1].split()[0]) > 10
