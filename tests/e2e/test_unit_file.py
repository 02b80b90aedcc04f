"""What systemd's own tools say about the unit that is shipped."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("systemd-analyze")

SHIPPED = Path(__file__).parents[2] / "systemd"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The shipped unit with a program that is there: systemd-analyze looks for it."""
    text = (SHIPPED / "rollbackd.service").read_text()
    assert text.count("ExecStart=rollbackd run\n") == 1
    copy = tmp_path / "rollbackd.service"
    copy.write_text(text.replace("ExecStart=rollbackd run\n", "ExecStart=/bin/true\n"))
    return copy


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_the_unit_has_no_fault_that_systemd_can_find(unit: Path) -> None:
    done = _analyze("verify", "--recursive-errors=yes", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_misspelt_setting_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in _analyze("verify", "--recursive-errors=yes", "--man=no", str(unit)).stderr


def test_the_unit_is_hardly_exposed(unit: Path) -> None:
    said = _analyze("security", "--offline=true", str(unit)).stdout
    found = re.search(r"Overall exposure level for rollbackd\.service: (\d+\.\d+)", said)
    assert found is not None, said
    assert float(found.group(1)) < 2.0


def test_steps_may_make_memory_executable(unit: Path) -> None:
    """Node and other just-in-time compilers abort without it, and steps inherit the unit's limits."""
    assert not re.search(r"^MemoryDenyWriteExecute=", unit.read_text(), re.MULTILINE)


def test_the_stop_is_longer_than_a_step_by_default(unit: Path) -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)min$", unit.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found.group(1)) > 10
