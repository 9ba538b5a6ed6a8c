"""README.md and docs/: links, and what they say of the code; constraints.txt."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vae_jax.report.writer import read_lines

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
EXTENDING = ROOT / "examples" / "extending"
PAGE = (ROOT / "docs" / "extending.md").read_text()
# The new file, the file of its table, and the line before which the new one goes.
ADDED = {
    "laplace": ("vae.py", '    "logistic": logistics.LOGISTIC,\n'),
    "cyclical": ("build.py", '    "mse": losses.MSE,\n'),
}

SUM_OF_LEVELS = """
import jax, jax.numpy as jnp
from vae_jax.models.laplace import LearnedLaplace
levels = (jnp.arange(256) / 255).reshape(256, 1, 1, 1)
maps = (jnp.full((256, 1, 1, 1), 0.3), jnp.full((256, 1, 1, 1), -3.0))
print(float(jnp.exp(LearnedLaplace(0.5)(maps).log_mass(levels)).sum()))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package, extended as the page says."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("vae_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    for name, (table, before) in ADDED.items():
        models = folder / "vae_jax" / "models"
        shutil.copy(EXTENDING / f"{name}.py", models)
        (line,) = re.findall(rf'^    "{name}": .*\n', PAGE, re.MULTILINE)
        text = (models / table).read_text()
        assert text.count(before) == 1
        text = text.replace(before, line + before)
        imported = f"import jax.numpy as jnp\nfrom vae_jax.models import {name}\n"
        text = text.replace("import jax.numpy as jnp\n", imported, 1)
        (models / table).write_text(text)
    shutil.copy(EXTENDING / "laplace_vae.py", folder / "configs")
    return folder


def python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_new_likelihood_sums_to_one(extended):
    assert float(python(extended, "-c", SUM_OF_LEVELS)) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_the_new_parts_train(extended, data_dir, tmp_path):
    python(
        extended,
        "-m",
        "vae_jax.main",
        "--config=configs/laplace_vae.py",
        f"--workdir={tmp_path}",
        f"--config.dataset.data_dir={data_dir}",
        "--config.dataset.size=16",
        "--config.train.num_steps=400",
        "--config.eval.importance_samples=2",
        "--config.objective.period=2000",
    )
    train = [x for x in read_lines(tmp_path / "metrics.jsonl") if x["split"] == "train"]
    assert train[-1]["elbo"] > train[0]["elbo"] + 100
    # Early in its cycle the KL hardly weighs.
    assert train[0]["loss"] == pytest.approx(-train[0]["log_px"], rel=0.05)
    assert np.isfinite(train[-1]["elbo"])


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(words)
    return found


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^()\s]+)\)", text)
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name


@pytest.mark.slow
def test_settings_of_the_new_parts_are_listed_and_go_with_them_alone(extended):
    listed = python(extended, "-m", "vae_jax.settings")
    assert re.search(r"`model.largest_scale` .*`model.likelihood` laplace \|", listed)
    assert re.search(r"`objective.period` .*`objective.name` cyclical \|", listed)
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "vae_jax.main", "--config=configs/vae.py"),
            "--config.objective.period=500",
        ],
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "objective.period is 500; it goes with objective.name cyc" in refused.stderr


def test_every_fault_names_a_test_that_exists():
    text = (ROOT / "docs" / "faults.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| fault |")]
    assert len(rows) > 20
    for row in rows:
        tests = re.findall(r"`(\S+\.py)::(\w+)`", row.split("|")[-2])
        assert tests, row
        for file, name in tests:
            (path,) = (ROOT / "tests").rglob(file)
            assert re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE), row


def test_the_constraints_pin_what_is_required_within_its_bounds():
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    required = [
        Requirement(line)
        for line in cfg["options"]["install_requires"].splitlines()
        if line and not line.startswith("#")
    ]
    pinned = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    versions = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pinned
    }
    assert required
    for requirement in required:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
