"""Tests that took longest begin first, in whole scopes, and what is new before all others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharing import longest_first, scope


@pytest.mark.parametrize(
    ("nodeid", "whole"),
    [
        ("tests/unit/test_a.py::test_one", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::test_one[x::y[0]]", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::TestGit::test_one[a]", "tests/unit/test_a.py::TestGit"),
    ],
)
def test_what_is_shared_out_as_a_whole(nodeid: str, whole: str) -> None:
    assert scope(nodeid) == whole


def test_the_longest_scope_is_first_and_one_with_a_new_test_before_it() -> None:
    times = {"a.py::x": 1.0, "a.py::y": 1.0, "b.py::x": 3.0, "c.py::x": 0.1}
    key = longest_first([*times, "c.py::new"], times)
    assert sorted(key, key=key.__getitem__) == ["c.py", "b.py", "a.py"]


_CONFTEST = """
from tests.sharing import Sharing

def pytest_configure(config):
    config.pluginmanager.register(Sharing(config))
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_took_long_the_last_time_comes_first_the_next_time(workers: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_a.py").write_text("def test_short(): pass\n")
    (tmp_path / "test_b.py").write_text("import time\ndef test_long(): time.sleep(0.2)\n")
    argv = [sys.executable, "-m", "pytest", "-v", "-n", workers, "--dist", "loadscope", "--no-loadscope-reorder"]

    def order() -> list[str]:
        environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
        ran = subprocess.run(
            argv, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110
        )
        passed = [line for line in ran.stdout.splitlines() if "PASSED" in line]
        return [name for line in passed for name in ("test_a", "test_b") if name in line]

    assert order() == ["test_a", "test_b"]
    assert order() == ["test_b", "test_a"]
