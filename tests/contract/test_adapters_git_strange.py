"""One strange thing among the refs, commits and reflogs of a repository hides none of the others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress
from rollbackd.testing import finish, perform, planned, problems
from rollbackd_adapters.git import GitAdapter
from tests.contract.test_adapters_git import git_layer
from tests.contract.worlds import GitRevertWorld, git, new_repository, script, tree

pytestmark = pytest.mark.needs("git")

NOWHERE = "1234567890" * 4
MEGABYTES = 17_000_000
"""More than is read of any answer."""


def _object(repo: Path, kind: str, text: str) -> str:
    return git(repo, "hash-object", "-t", kind, "-w", "--stdin", "--literally", stdin=text)


def _made(
    repo: Path, *, at: str = "1700000500 +0000", who: str = "a <a@b>", message: str = "x\n", more: str = ""
) -> str:
    """A commit of v1's tree on top of v3."""
    text = (
        f"tree {tree(repo, 'v1')}\nparent {git(repo, 'rev-parse', 'v3^0')}\nauthor {who} {at}\ncommitter {who} {at}\n"
    )
    return _object(repo, "commit", f"{text}{more}\n{message}")


def _tag(repo: Path, commit: str, name: str = "strange") -> None:
    git(repo, "update-ref", f"refs/tags/{name}", commit)


def _ref(repo: Path, ref: str) -> None:
    git(repo, "update-ref", ref, "v1^0")


def _annotated(
    repo: Path, *, at: str = "1700000500 +0000", message: str = "x\n", name: str = "checkpoint-strange"
) -> None:
    text = f"object {git(repo, 'rev-parse', 'v1^0')}\ntype commit\ntag {name}\ntagger a <a@b> {at}\n\n{message}"
    _tag(repo, _object(repo, "tag", text), name)


def _written(repo: Path, ref: str, text: str) -> None:
    path = Path(git(repo, "rev-parse", "--absolute-git-dir")) / ref
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _without(repo: Path, name: str) -> None:
    """An object is lost."""
    (Path(git(repo, "rev-parse", "--absolute-git-dir")) / "objects" / name[:2] / name[2:]).unlink()


def _lost_tree(repo: Path) -> None:
    blob = _object(repo, "blob", "lost")
    lost = git(repo, "mktree", stdin=f"100644 blob {blob}\tlost\n")
    text = f"tree {lost}\nauthor a <a@b> 1700000500 +0000\ncommitter a <a@b> 1700000500 +0000\n\nx\n"
    _tag(repo, _object(repo, "commit", text))
    _without(repo, lost)


def _lost_parent(repo: Path) -> None:
    lost = _made(repo)
    text = (
        f"tree {tree(repo, 'v1')}\nparent {lost}\nauthor a <a@b> 1700000500 +0000\ncommitter a <a@b> 1700000500 +0000\n"
    )
    _tag(repo, _object(repo, "commit", f"{text}\nx\n"))
    _without(repo, lost)


def _damaged(repo: Path) -> None:
    broken = _made(repo)
    _tag(repo, broken)
    path = Path(git(repo, "rev-parse", "--absolute-git-dir")) / "objects" / broken[:2] / broken[2:]
    path.chmod(0o644)
    path.write_text("nonsense")


def _in_the_reflog_alone(repo: Path) -> None:
    strange = _made(repo, at="99999999999999 +0000", message="y" * MEGABYTES)
    head = git(repo, "rev-parse", "HEAD")
    path = Path(git(repo, "rev-parse", "--absolute-git-dir")) / "logs" / "HEAD"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as log:
        log.write(f"{head} {strange} a <a@b> 1700000500 +0000\tx\n{strange} {head} a <a@b> 1700000501 +0000\tx\n")


def _replaced(repo: Path, what: str, by: str) -> None:
    _written(repo, f"refs/replace/{git(repo, 'rev-parse', what)}", f"{by}\n")


def _many(repo: Path) -> None:
    commit = git(repo, "rev-parse", "v1^0")
    git(repo, "pack-refs", "--all")
    with (Path(git(repo, "rev-parse", "--absolute-git-dir")) / "packed-refs").open("a") as packed:
        packed.writelines(f"{commit} refs/tags/x{'many' * 10}-{number:05}\n" for number in range(20_000))


STRANGE: dict[str, Callable[[Path], None]] = {
    "a date in the year 3170843": lambda repo: _tag(repo, _made(repo, at="99999999999999 +0000")),
    "a date beyond all numbers": lambda repo: _tag(repo, _made(repo, at=f"{10**30} +0000")),
    "a date before all times": lambda repo: _tag(repo, _made(repo, at="-99999999999999 +0000")),
    "no date": lambda repo: _tag(repo, _made(repo, at="")),
    "a date that is none": lambda repo: _tag(repo, _made(repo, at="yesterday")),
    "nobody": lambda repo: _tag(repo, _made(repo, who="", at="")),
    "a subject of megabytes": lambda repo: _tag(repo, _made(repo, message="y" * MEGABYTES)),
    "a subject of megabytes without width": lambda repo: _tag(repo, _made(repo, message="\u0301" * (MEGABYTES // 2))),
    "a body of megabytes": lambda repo: _tag(repo, _made(repo, message="x\n\n" + "y\n" * (MEGABYTES // 2))),
    "trailers of megabytes": lambda repo: _tag(
        repo, _made(repo, message="x\n\nRollbackd-Change: " + "y" * MEGABYTES + "\n")
    ),
    "a header of megabytes": lambda repo: _tag(repo, _made(repo, more="gpgsig " + "y" * MEGABYTES + "\n")),
    "another encoding": lambda repo: _tag(repo, _made(repo, more="encoding no-such-thing\n", message="\x07\x1b[2J\n")),
    "no message": lambda repo: _tag(repo, _made(repo, message="")),
    "only in the reflog": _in_the_reflog_alone,
    "a tag HEAD": lambda repo: _ref(repo, "refs/tags/HEAD"),
    "a branch HEAD": lambda repo: _ref(repo, "refs/heads/HEAD"),
    "a remote HEAD": lambda repo: _ref(repo, "refs/remotes/HEAD"),
    "a tag main": lambda repo: _ref(repo, "refs/tags/main"),
    "a tag of the branch's whole name": lambda repo: _ref(repo, "refs/tags/refs/heads/main"),
    "a ref that ends like the branch": lambda repo: _ref(repo, "refs/a/refs/heads/main"),
    "a tag like an option": lambda repo: _ref(repo, "refs/tags/--all"),
    "a tag with commas and brackets": lambda repo: _ref(repo, "refs/tags/a,tag,(HEAD)"),
    "a tag of another script": lambda repo: _ref(repo, "refs/tags/версия-\u202e1"),
    "a very long tag": lambda repo: _ref(repo, f"refs/tags/{'/'.join(['y' * 200] * 15)}"),
    "twenty thousand tags": _many,
    "a tag of a file": lambda repo: _tag(repo, _object(repo, "blob", "x")),
    "a tag of a tree": lambda repo: _tag(repo, tree(repo, "v1")),
    "a tag of nothing": lambda repo: _written(repo, "refs/tags/strange", f"{NOWHERE}\n"),
    "a tag of no object": lambda repo: _written(repo, "refs/tags/strange", "not an object\n"),
    "an empty tag": lambda repo: _written(repo, "refs/tags/strange", ""),
    "a tag that leads nowhere": lambda repo: _written(repo, "refs/tags/strange", "ref: refs/heads/nowhere\n"),
    "a remote branch that leads nowhere": lambda repo: _written(
        repo, "refs/remotes/origin/HEAD", "ref: refs/remotes/origin/nowhere\n"
    ),
    "a lost tree": _lost_tree,
    "a lost parent": _lost_parent,
    "a damaged commit": _damaged,
    "a snapshot of the year 3170843": lambda repo: _annotated(repo, at="99999999999999 +0000"),
    "a snapshot without a date": lambda repo: _annotated(repo, at=""),
    "a snapshot with megabytes to say": lambda repo: _annotated(repo, message="y" * MEGABYTES),
    "a history that replacements bend into a ring": lambda repo: _replaced(repo, "v1", _made(repo)),
    "a history that grafts bend into a ring": lambda repo: _written(
        repo, "info/grafts", f"{git(repo, 'rev-parse', 'v1')} {git(repo, 'rev-parse', 'v3')}\n"
    ),
    "a release that is replaced by nothing": lambda repo: _replaced(repo, "v1", NOWHERE),
    "a file that is replaced by another": lambda repo: _replaced(repo, "v2:app", git(repo, "rev-parse", "v1:app")),
    "a reflog that is none": lambda repo: _written(repo, "logs/HEAD", "nonsense\n\0\n"),
}

DAMAGE = {
    "a tag of nothing",
    "a tag of no object",
    "an empty tag",
    "a tag that leads nowhere",
    "a lost tree",
    "a lost parent",
    "a damaged commit",
    "a release that is replaced by nothing",
}
"""Of these a remote takes no push, whoever pushes."""


def _goes_back(layer: GitAdapter, id_: str, name: str) -> None:
    assert [problem.text for problem in finish(layer.ready())] == []
    found = {release.id: release for release in finish(layer.releases())}
    assert name in found[id_].names
    finish(layer.current())
    finish(layer.take("checkpoint-own"))
    assert "checkpoint-own" in [snapshot.name for snapshot in finish(layer.snapshots())]
    assert finish(perform(layer, finish(planned(layer, found[id_])))) is Progress.DONE


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("paths", [(), ("app",)], ids=["whole", "paths"])
def test_one_strange_thing_hides_no_release(tmp_path: Path, strange: str, paths: tuple[str, ...]) -> None:
    repo = new_repository(tmp_path / "repo")
    STRANGE[strange](repo)
    layer = git_layer(tmp_path, repo, paths=paths)
    release = next(each for each in finish(layer.releases()) if "v2" in each.names)
    _goes_back(layer, release.id, "v2")
    assert (repo / "app").read_text() == "version 2\n"


@pytest.mark.parametrize("strange", STRANGE)
def test_one_strange_thing_in_the_clone_hinders_no_revert(tmp_path: Path, strange: str) -> None:
    world = GitRevertWorld(tmp_path)
    STRANGE[strange](world.repo)
    _goes_back(world.adapter(), tree(world.origin, "v2"), "v2")
    assert tree(world.origin, "refs/heads/main") == tree(world.origin, "v2")


@pytest.mark.parametrize("strange", sorted({*STRANGE} - DAMAGE - {"a tag of the branch's whole name"}))
def test_one_strange_thing_at_the_remote_hinders_no_revert(tmp_path: Path, strange: str) -> None:
    world = GitRevertWorld(tmp_path)
    STRANGE[strange](world.origin)
    _goes_back(world.adapter(), tree(world.origin, "v2"), "v2")
    assert tree(world.origin, "refs/heads/main") == tree(world.origin, "v2")


def test_a_remote_that_no_git_can_push_to_is_told(tmp_path: Path) -> None:
    world = GitRevertWorld(tmp_path)
    STRANGE["a tag of the branch's whole name"](world.origin)
    (problem,) = finish(world.adapter().ready())
    assert "matches more than one" in problem.text


def test_a_branch_called_like_a_commit_is_not_checked_out(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    git(repo, "update-ref", f"refs/heads/{git(repo, 'rev-parse', 'v2')}", "v1")
    layer = git_layer(tmp_path, repo)
    _goes_back(layer, tree(repo, "v2"), "v2")
    assert tree(repo, "HEAD") == tree(repo, "v2")


def test_what_would_stop_every_plan_is_told_beforehand(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    git(repo, "config", "status.showUntrackedFiles", "perhaps")
    (problem,) = finish(problems(git_layer(tmp_path, repo)))
    assert "status" in problem.text


def test_an_answer_of_another_shape_is_an_error_with_what_to_do(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    program = script(
        tmp_path / "bin" / "git", 'case "$*" in *rev-parse*) echo one; echo two;; *) exec /usr/bin/git "$@";; esac'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(program).parent}:{os.environ['PATH']}")
        with pytest.raises(AdapterError, match=r"answered 'one \| two', which is not understood; call it"):
            finish(git_layer(tmp_path, repo).take())


def test_more_tags_than_can_be_read_hide_no_release_of_the_branch(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    v2, sha = tree(repo, "v2"), git(repo, "rev-parse", "v1")
    name = "x" * 236  # so that what can be read ends in the middle of a commit
    lines = (f"{sha} refs/tags/{number:06}{name}\n" for number in range(60_000))
    (repo / ".git" / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + "".join(lines))
    layer = git_layer(tmp_path, repo)
    assert v2 in {release.id for release in finish(layer.releases())}
    assert finish(layer.ready()) == []
