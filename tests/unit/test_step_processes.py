"""Who is of a step: by the unit's control group, else by ancestors; what cannot be looked at counts for its user."""

import os
from pathlib import Path

import pytest

from rollbackd.system import step_processes
from rollbackd.system.step_processes import is_of_a_step

DAEMON, UNIT = os.getpid(), "/system.slice/rollbackd.service"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which this process is a daemon; what is not in it is hidden, or has ended."""
    monkeypatch.setattr(step_processes, "_PROC", tmp_path)
    monkeypatch.setattr(step_processes, "_root", DAEMON)
    monkeypatch.delenv("SYSTEMD_EXEC_PID", raising=False)
    return tmp_path


def process(proc: Path, pid: int | str, parent: int, group: str = "/") -> None:
    directory = proc / str(pid)
    directory.mkdir()
    (directory / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1 0")
    (directory / "cgroup").write_text(f"1:name=systemd:/legacy\n0::{group}\n")


def test_without_a_unit_ancestors_tell_it(proc: Path) -> None:
    for pid, parent in ((9001, DAEMON), (9002, 9001), (9003, 1), (9004, 9003), (9005, 0), (1, 0)):
        process(proc, pid, parent)
    process(proc, DAEMON, 9003)
    found = {pid: is_of_a_step(pid, ours=True) for pid in (9001, 9002, 9003, 9004, 9005, DAEMON)}
    assert found == {9001: True, 9002: True, 9003: False, 9004: False, 9005: False, DAEMON: False}


@pytest.mark.parametrize(
    ("group", "of_a_step"),
    [
        (UNIT, True),
        (f"{UNIT}/sub", True),
        (f"{UNIT}2", False),
        ("/system.slice", False),
        ("/user.slice/user-1000.slice/session-3.scope", False),
        ("/system.slice/cron.service", False),
    ],
)
def test_as_a_unit_its_control_group_tells_it_whoever_the_parent_is(
    proc: Path, monkeypatch: pytest.MonkeyPatch, group: str, of_a_step: bool
) -> None:
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(DAEMON))
    process(proc, "self", 1, UNIT)
    process(proc, 9001, 1, group)
    assert is_of_a_step(9001, ours=True) is of_a_step


def test_what_only_inherited_a_units_name_is_no_main_process_of_it(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_EXEC_PID", "1")
    process(proc, "self", 1, UNIT)
    process(proc, 9001, 1, UNIT)
    assert not is_of_a_step(9001, ours=True), "such as a daemon in somebody's terminal"


@pytest.mark.parametrize("ours", [True, False])
def test_what_cannot_be_looked_at_counts_for_its_user(proc: Path, ours: bool) -> None:
    assert is_of_a_step(999_999_999, ours=ours) is ours
    process(proc, 9001, 9002)
    assert is_of_a_step(9001, ours=ours) is ours, "nor can its parent"


def test_a_hidden_program_is_known_by_its_session(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_processes, "_started", {os.getsid(os.getppid())})
    assert is_of_a_step(os.getppid(), ours=False)


def test_what_is_no_daemon_has_no_steps() -> None:
    assert not is_of_a_step(os.getppid(), ours=True)
