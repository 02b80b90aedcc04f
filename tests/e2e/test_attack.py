"""`make attack`, for a few seconds: everything at once, during a real rollback."""

import subprocess
import sys

import pytest

from tests.e2e.toy import REPO


@pytest.mark.needs("git")
@pytest.mark.timeout(300)
def test_a_rollback_ends_right_whatever_the_world_sends_meanwhile() -> None:
    argv = [sys.executable, "-m", "tests.attack", "--seconds", "10"]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
