"""A git repository with two releases and somebody's uncommitted work, and what must be true of it after a rollback."""

import json
from pathlib import Path

from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import git, tree

FILES = 400
KEY = "shop-1/0/code"
"""Of the change that takes it back."""
TRACKED, UNTRACKED, IGNORED = "edited in place\n", "nobody has added this yet\n", "local, and in the way\n"


def make_repository(repo: Path) -> None:
    """Two releases that differ in every file; somebody's work of three kinds lies in the tree."""
    repo.mkdir()
    git(repo, "init", "--quiet", "--initial-branch=main")
    for release in (1, 2):
        for number in range(FILES):
            (repo / f"file{number}").write_text(f"release {release}\n" * 200)
        (repo / "only-before").write_text("x") if release == 1 else (repo / "only-before").unlink()
        (repo / ".gitignore").write_text("only-before\n" if release == 2 else "")
        git(repo, "add", "--all")
        git(repo, "commit", "--quiet", "--message", f"release {release}")
        git(repo, "tag", f"v{release}")
    (repo / "file7").write_text(TRACKED)
    (repo / "notes").write_text(UNTRACKED)
    (repo / "only-before").write_text(IGNORED)


def check_repository(repo: Path, changes: Path) -> None:
    """It is at v1, marked as done, and nobody's work is lost; `changes` is where the adapter keeps its traces."""
    assert tree(repo, "HEAD") == tree(repo, "v1")
    assert git(repo, "status", "--porcelain") == "?? notes"
    assert git(repo, "rev-parse", "main") == git(repo, "rev-parse", "v2")
    (one,) = (path.name for path in changes.iterdir())
    assert json.loads((changes / one / "done.json").read_text()) == {"after": tree(repo, "v1")}
    saved = f"refs/rollbackd/{one}/saved"
    found = {name: git(repo, "show", f"{saved}:{name}") + "\n" for name in ("file7", "notes", "only-before")}
    assert found == {"file7": TRACKED, "notes": UNTRACKED, "only-before": IGNORED}
    assert git(repo, "rev-parse", f"{saved}^1") == git(repo, "rev-parse", "v2")


def check_paths(repo: Path) -> None:
    """Only the files are at v1; HEAD is where it was, and nobody's work is lost."""
    assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "v2")
    wrong = [path.name for path in repo.glob("file*") if path.read_text() != "release 1\n" * 200]
    assert wrong == []
    assert len(list(repo.glob("file*"))) == FILES
    assert (repo / ".gitignore").read_text() == ""
    assert (repo / "only-before").read_text() == IGNORED
    assert (repo / "notes").read_text() == UNTRACKED
    saved = f"refs/rollbackd/{safe_name(KEY)}/saved"
    found = {name: git(repo, "show", f"{saved}:{name}") + "\n" for name in ("file7", "notes")}
    assert found == {"file7": TRACKED, "notes": UNTRACKED}
