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
PATCHES = re.findall(
    r"```diff\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL
)

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)

SUM_OF_LEVELS = """
import jax, jax.numpy as jnp
from vae_jax.config import default_config
from vae_jax.models.build import LIKELIHOODS
levels = (jnp.arange(256) / 255).reshape(256, 1, 1, 1)
likelihood = LIKELIHOODS["laplace"](default_config().model)
maps = (jnp.full((256, 1, 1, 1), 0.3), jnp.full((256, 1, 1, 1), -3.0))
print(float(jnp.exp(likelihood(maps).log_mass(levels)).sum()))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with every patch of the page applied."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "vae_jax", folder / "vae_jax")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for patch in PATCHES:
        applied = subprocess.run(
            ["git", "apply", "-"],
            cwd=folder,
            input=patch,
            text=True,
            capture_output=True,
        )
        assert applied.returncode == 0, applied.stderr
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


def test_the_parts_take_at_most_forty_lines_and_leave_the_loop_alone():
    added = [
        line
        for patch in PATCHES
        for line in patch.splitlines()
        if line.startswith("+") and not line.startswith("+++") and line != "+"
    ]
    assert 10 < len(added) <= 40
    changed = set(re.findall(r"^\+\+\+ b/(\S+)", "\n".join(PATCHES), re.MULTILINE))
    assert {Path(path).parent.name for path in changed} == {"models"}


def test_the_new_likelihood_sums_to_one(extended):
    assert float(python(extended, "-c", SUM_OF_LEVELS)) == pytest.approx(1, abs=1e-4)


def test_the_new_parts_train(extended, data_dir, tmp_path):
    python(
        extended,
        "-m",
        "vae_jax.main",
        "--config=configs/vae.py",
        f"--workdir={tmp_path}",
        f"--config.dataset.data_dir={data_dir}",
        "--config.dataset.size=16",
        "--config.train.num_steps=400",
        "--config.eval.importance_samples=2",
        "--config.model.likelihood=laplace",
        "--config.objective.name=cyclical",
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
