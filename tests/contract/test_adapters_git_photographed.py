"""What a rollback of a work tree changes is what its plan told, in owners and modes too; and back again it is as before."""

import subprocess
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.testing import finish
from tests.contract.test_adapters_git import git_layer
from tests.contract.worlds import commit, git, new_repository, tree
from tests.photograph import differences, photograph

pytestmark = pytest.mark.needs("git")


def _data_where_v1_has_a_file(path: Path) -> Path:
    repo = new_repository(path / "repo")
    git(repo, "rm", "--quiet", "file1")
    (repo / ".gitignore").write_text("file1\nuploads\n")
    commit(repo, "file1 and uploads are this host's own now", 10)
    (repo / "file1").mkdir()
    (repo / "file1" / "db.sqlite").write_text("orders\n")
    return repo


def test_data_that_git_ignores_is_told_and_no_drill_takes_it_away(tmp_path: Path) -> None:
    repo = _data_where_v1_has_a_file(tmp_path)
    change = finish(git_layer(tmp_path, repo).plan(Release(tree(repo, "v2"))))
    (risk,) = change.risks
    assert risk.endswith(
        "git ignores make room for this release; what lies there is saved under refs/rollbackd/: file1"
    )
    assert change.aside == f"file1 in {repo} would not come back by themselves; move them elsewhere first"


def test_edits_that_git_was_told_to_overlook_are_told(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    git(repo, "update-index", "--assume-unchanged", "app")
    (repo / "app").write_text("of this host\n")
    change = finish(git_layer(tmp_path, repo).plan(Release(tree(repo, "v2"))))
    assert "1 file(s)" in change.risks[0]
    assert "told to overlook become this release's" in change.risks[0]
    assert change.aside.startswith("app in ")


@pytest.mark.needs("root")
@pytest.mark.parametrize("what", ["file1", "app"])
def test_what_is_mounted_is_never_taken_away(tmp_path: Path, what: str) -> None:
    repo = _data_where_v1_has_a_file(tmp_path)
    (tmp_path / "other").write_text("of another file system\n")
    mount = ["mount", "-t", "tmpfs", "none"] if what == "file1" else ["mount", "--bind", str(tmp_path / "other")]
    layer = git_layer(tmp_path, repo)
    subprocess.run([*mount, str(repo / what)], check=True)
    try:
        if what == "file1":
            (repo / what / "orders").write_text("orders\n")
        before = photograph(repo, without=[repo / ".git"])
        with pytest.raises(
            AdapterError, match=f"repo/{what} is mounted there, .*nothing was touched; unmount it"
        ) as no:
            finish(layer.plan(Release(tree(repo, "v2"))))
        assert no.value.permanent
        assert differences(before, photograph(repo, without=[repo / ".git"])) == {}
    finally:
        subprocess.run(["umount", str(repo / what)], check=True)
