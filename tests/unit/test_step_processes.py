"""Who is of a step: by the unit's control group, else by ancestors; what cannot be looked at counts for its user."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rollbackd.system import step_processes
from rollbackd.system.step_processes import is_of_a_step

DAEMON, UNIT = os.getpid(), "/system.slice/rollbackd.service"
LIMITS = "Limit Soft Limit Hard Limit Units\nMax open files 1024 4096 files\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which this process is a daemon; what is not in it is hidden, or has ended."""
    monkeypatch.setattr(step_processes, "_PROC", tmp_path)
    monkeypatch.setattr(step_processes, "_root", DAEMON)
    monkeypatch.delenv("SYSTEMD_EXEC_PID", raising=False)
    return tmp_path


def process(proc: Path, pid: int | str, parent: int, group: str = "/", locks: str = "unlimited") -> None:
    directory = proc / str(pid)
    directory.mkdir()
    (directory / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1 0")
    (directory / "limits").write_text(f"{LIMITS}Max file locks {locks:>20} {locks:>20} locks\n")
    (directory / "cgroup").write_text(f"1:name=systemd:/legacy\n0::{group}\n")


def test_without_a_unit_ancestors_tell_it(proc: Path) -> None:
    for pid, parent in ((9001, DAEMON), (9002, 9001), (9003, 1), (9004, 9003), (9005, 0), (1, 0)):
        process(proc, pid, parent)
    process(proc, DAEMON, 9003)
    found = {pid: is_of_a_step(pid, ours=True) for pid in (9001, 9002, 9003, 9004, 9005, DAEMON)}
    assert found == {9001: True, 9002: True, 9003: False, 9004: False, 9005: False, DAEMON: False}


@pytest.mark.parametrize(("locks", "of_a_step"), [("unlimited", False), ("4097", False), ("4096", True), ("0", True)])
@pytest.mark.parametrize("unit", [True, False])
def test_what_an_earlier_life_started_is_known_by_its_mark(
    proc: Path, monkeypatch: pytest.MonkeyPatch, locks: str, of_a_step: bool, unit: bool
) -> None:
    if unit:
        monkeypatch.setenv("SYSTEMD_EXEC_PID", str(DAEMON))
    process(proc, "self", 1, UNIT)
    process(proc, 9001, 1, locks=locks)
    assert is_of_a_step(9001, ours=True) is of_a_step


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 4096, 100])
def test_what_a_daemon_starts_is_marked_whatever_it_becomes(hard: int) -> None:
    """In a process of its own, since the mark is for good."""
    begin = (
        "import resource, subprocess; from rollbackd.system import step_processes\n"
        f"resource.setrlimit(10, ({hard}, {hard})); step_processes.keep_orphans(in_container=True)\n"
        "subprocess.run(['env', '-i', 'setsid', '--wait', 'grep', 'file locks', '/proc/self/limits'], check=True)"
    )
    said = subprocess.run([sys.executable, "-c", begin], check=True, capture_output=True, text=True).stdout
    assert said.split()[3:5] == [str(min(hard, 4096) if hard >= 0 else 4096)] * 2


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
    process(proc, 9002, 1)
    assert not is_of_a_step(9001, ours=ours)
    (proc / "9001/limits").write_text("")
    assert is_of_a_step(9001, ours=ours) is ours, "a zombie has none"


def test_a_hidden_program_is_known_by_its_session(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_processes, "_started", {os.getsid(os.getppid())})
    assert is_of_a_step(os.getppid(), ours=False)


def test_what_is_no_daemon_has_no_steps() -> None:
    assert not is_of_a_step(os.getppid(), ours=True)
