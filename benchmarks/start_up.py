"""Start-up: seconds from the start of a process, to its imports and its first update.

Each time is of a process of its own. Neither JAX nor PyTorch is imported above, for
this module is what the processes of PyTorch run.
"""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import durations, in_turn

ROOT = Path(__file__).parents[1]
IMPORTS = {"vae_jax": "vae_jax.main", "JAX": "jax", "PyTorch": "torch"}
PICTURES = {"train": 256, "validation": 16, "test": 16}


def torch_first_update(
    pictures: str,
    batch_size: int,
    hidden_dim: int,
    latent_dim: int,
    learning_rate: float,
    weight_decay: float,
    compiled: bool,
) -> None:
    """Trains PyTorch's VAE for one update and says so on the standard output.

    Args:
      pictures: path of the [N,H,W,C] uint8 array.
      batch_size: pictures in the update.
      hidden_dim: hidden units of the VAE.
      latent_dim: latent dimensions of the VAE.
      learning_rate: learning rate of AdamW.
      weight_decay: weight decay of AdamW.
      compiled: the best loop with torch.compile, or the one that most people write.
    """
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks import torch_models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = np.load(pictures)
    if compiled:
        batches = torch_models.tensor_batches(images, batch_size, device)
    else:
        batches = torch_models.eager_batches(images, batch_size)
    train = torch_models.trainer(
        torch_models.VAE(images[0].size, hidden_dim, latent_dim).to(device),
        batches,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        best=compiled,
        compiled="default" if compiled else None,
    )
    print("updated", train(1), flush=True)


def _start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def _killed_in_the_end(process: subprocess.Popen):
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _train(data_dir: Path, workdir: Path, caches: Path) -> None:
    """Starts the command line, and returns at its first line of metrics.jsonl.

    Args:
      data_dir: folder with prepared synthetic faces.
      workdir: emptied before.
      caches: the user's folder of caches.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    every = ("train.steps_per_dispatch", "log.every_steps")
    arguments = [
        "-m",
        "vae_jax.main",
        f"--config={ROOT / 'configs' / 'vae.py'}",
        f"--workdir={workdir}",
        "--config.dataset.name=synthetic_faces",
        f"--config.dataset.data_dir={data_dir}",
        *(f"--config.{name}=1" for name in every),
    ]
    log = workdir / "metrics.jsonl"
    with _killed_in_the_end(
        _start(arguments, {"XDG_CACHE_HOME": str(caches)})
    ) as process:
        while not (log.exists() and log.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(arguments)} ended without an update")
            time.sleep(0.001)


def _train_torch(settings: dict[str, Any], caches: Path) -> None:
    """Starts `torch_first_update`, and returns at its update."""
    process = _start(
        ["-m", "benchmarks.start_up", json.dumps(settings)],
        {"TORCHINDUCTOR_CACHE_DIR": str(caches)},
    )
    with _killed_in_the_end(process):
        assert process.stdout is not None
        # It warns there, too.
        if not any(line.startswith(b"updated") for line in process.stdout):
            raise RuntimeError(f"PyTorch ended without an update: {settings}")


def _import(module: str) -> None:
    process = _start(["-c", f"import {module}; print(flush=True)"], {})
    with _killed_in_the_end(process):
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{module} cannot be imported")


def _in_new_folder(train: Callable[[Path], None], parent: Path) -> None:
    train(Path(tempfile.mkdtemp(dir=parent)))


def measure(repeats: int) -> list[dict[str, Any]]:
    """Returns the seconds to the imports' end, and to the end of the first update.

    The update is of the notebook's VAE on drawn faces that are prepared: vae_jax by its
    command line, with its cache of compiled programs and with an empty one; PyTorch as
    most people write it, and by torch.compile, with its cache of kernels and with an
    empty one.

    Args:
      repeats: processes of each rival, after one that is not counted.
    """
    from configs import vae
    from vae_jax.data import cache, synthetic_faces

    has_torch = importlib.util.find_spec("torch") is not None
    config = vae.get_config()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthetic_faces.prepare(folder, sizes=PICTURES)
        # Decodes them as the run would.
        images = cache.load("synthetic_faces", folder).splits["train"].images
        np.save(folder / "pictures.npy", images)
        train = functools.partial(_train, folder, folder / "run")
        rivals: dict[str, Callable[[], None]] = {
            "vae_jax": lambda: train(folder / "warm"),
            "vae_jax, cold cache": lambda: _in_new_folder(train, folder),
        }
        settings = {
            "pictures": str(folder / "pictures.npy"),
            "batch_size": config.train.batch_size,
            "hidden_dim": config.model.hidden_dim,
            "latent_dim": config.model.latent_dim,
            "learning_rate": config.optimizer.learning_rate,
            "weight_decay": config.optimizer.weight_decay,
        }
        if has_torch:
            eager, compiled = (
                functools.partial(_train_torch, {**settings, "compiled": chosen})
                for chosen in (False, True)
            )
            rivals["PyTorch, eager"] = lambda: eager(folder / "torch")
            try:
                compiled(folder / "torch")
            except RuntimeError:
                # torch.compile asks for a C++ compiler, and for more than that.
                print("PyTorch, compiled: left out, for it fails")
            else:
                rivals["PyTorch, compiled"] = lambda: compiled(folder / "torch")
                rivals["PyTorch, compiled, cold cache"] = lambda: _in_new_folder(
                    compiled, folder
                )
        updates = durations(in_turn(rivals, repeats=repeats))
    imports = {
        name: functools.partial(_import, module)
        for name, module in IMPORTS.items()
        if name != "PyTorch" or has_torch
    }
    return [
        {
            "name": "start of the process to its imports' end",
            "unit": "s",
            "rivals": durations(in_turn(imports, repeats=repeats)),
        },
        {
            "name": f"start to first update, VAE, batch {settings['batch_size']}",
            "unit": "s",
            "rivals": updates,
        },
    ]


if __name__ == "__main__":
    torch_first_update(**json.loads(sys.argv[1]))
