import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.optimised
def test_killed_runs_end_as_one_let_alone():
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_runs", "--count=5"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "5 kills in" in done.stdout
