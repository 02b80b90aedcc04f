"""What a rollback of a work tree leaves for the next deployment: said with commands that work as they stand."""

import shlex
import subprocess
from pathlib import Path

import pytest

from rollbackd.adapter import Noting
from rollbackd.testing import KEY, finish
from tests.contract.test_adapters_git_odd import ELSEWHERE, go, layer
from tests.contract.worlds import git, new_repository

pytestmark = pytest.mark.needs("git")


def said(repo: Path, key: str = KEY) -> list[str]:
    """The commands of the note."""
    adapter = layer(repo)
    assert isinstance(adapter, Noting)
    return str(finish(adapter.note(key))).split("`")[1::2]


def test_the_branch_and_uncommitted_work_come_back_by_the_commands_that_are_said(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "re po")
    branch = git(repo, "branch", "--show-current")
    (repo / "file1").write_text("mine\n")
    assert said(repo) == [], "nothing was done"
    go(repo)
    assert finish(layer(repo).note(KEY)).startswith("HEAD is on no branch; before the next deployment: `git -C '")
    back, saved = said(repo)
    subprocess.run(shlex.split(back), check=True, capture_output=True)
    assert git(repo, "branch", "--show-current") == branch
    assert len(said(repo)) == 1, "HEAD is on its branch again"
    subprocess.run(shlex.split(saved), check=True, capture_output=True)
    assert (repo / "file1").read_text() == "mine\n"


def test_who_was_on_no_branch_or_is_on_one_or_has_paths_alone_is_left_nothing(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    go(repo, on_branch=True)
    assert said(repo) == []
    git(repo, "checkout", "--quiet", "--detach")
    go(repo, "v3", ELSEWHERE)
    assert said(repo, ELSEWHERE) == []
    other = new_repository(tmp_path / "other")
    assert finish(layer(other, strategy="revert").note(KEY)) == ""
