"""Snapshots of adapter `git`: tags that keep what is there, committed or not, and give it back."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError, Place, Snapshots
from rollbackd.execution.layers import resolve
from rollbackd.model import Release
from rollbackd.testing import finish, place
from rollbackd_adapters.git import GitAdapter, GitSettings
from tests.contract.worlds import GitCheckoutWorld, GitRevertWorld, commit, git, tree

pytestmark = pytest.mark.needs("git")

NOW = datetime(2026, 3, 5, 2, 0, 0, tzinfo=UTC)


class _Fixed:
    """A clock that stands."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def now(self) -> datetime:
        return NOW

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def world(tmp_path: Path) -> GitCheckoutWorld:
    return GitCheckoutWorld(tmp_path)


def layer(path: Path, repo: Path, **settings: Any) -> GitAdapter:
    known = place(path, layer="code")
    still = Place(known.service, known.layer, known.scratch, known.spawner, _Fixed(known.clock))
    return GitAdapter(GitSettings.model_validate({"adapter": "git", "repo": repo, **settings}), still)


@pytest.fixture
def code(world: GitCheckoutWorld) -> GitAdapter:
    return layer(world.path, world.repo)


def refused(message: str) -> Any:
    return pytest.raises(AdapterError, match=message)


def test_a_repository_keeps_its_own_past(code: GitAdapter) -> None:
    assert isinstance(code, Snapshots)


def test_a_snapshot_is_an_annotated_tag_with_a_name_that_says_why_and_when(
    code: GitAdapter, world: GitCheckoutWorld
) -> None:
    made = finish(code.take(why="schedule"))
    assert made.name == "checkpoint-code-schedule-20260305T020000Z"
    assert (made.release, made.why, made.files, made.restorable) == (tree(world.repo, "HEAD"), "schedule", 4, True)
    assert made.size == sum(len((world.repo / name).read_bytes()) for name in ("app", "file1", "file2", "file3"))
    assert git(world.repo, "cat-file", "-t", made.name) == "tag"
    assert git(world.repo, "rev-parse", f"{made.name}^{{commit}}") == git(world.repo, "rev-parse", "HEAD")
    assert git(world.repo, "for-each-ref", "--format=%(taggername)", f"refs/tags/{made.name}") == "rollbackd"
    assert finish(code.take(why="before")).name == "rollback-before-20260305T020000Z"
    assert finish(code.take(why="schedule")).name == f"{made.name}-2", "none is taken twice"


def test_uncommitted_work_is_kept_beside_the_tag_and_nothing_is_touched(
    code: GitAdapter, world: GitCheckoutWorld
) -> None:
    (world.repo / "app").write_text("edited\n")
    (world.repo / "new").write_text("untracked\n")
    before = git(world.repo, "status", "--porcelain"), git(world.repo, "ls-files", "--stage")
    made = finish(code.take("checkpoint-beta-login-1"))
    work = f"refs/rollbackd/snapshots/{made.name}/work"
    assert git(world.repo, "show", f"{work}:app") == "edited"
    assert git(world.repo, "show", f"{work}:new") == "untracked"
    assert (git(world.repo, "status", "--porcelain"), git(world.repo, "ls-files", "--stage")) == before
    assert finish(code.take("checkpoint-beta-login-1")) == made, "the same again is the same"
    (world.repo / "new").write_text("untracked, and edited\n")
    with refused("checkpoint-beta-login-1 is another snapshot already; give another name") as failed:
        finish(code.take("checkpoint-beta-login-1"))
    assert failed.value.permanent
    assert git(world.repo, "show", f"{work}:new") == "untracked", "what is kept is not overwritten"


@pytest.mark.parametrize("name", ["", "-d", "a b", "a/b", "../x", "a..b", "x.lock", "x" * 121, "$(id)", "a\nb"])
def test_a_name_that_cannot_be_a_tags_is_refused(code: GitAdapter, name: str) -> None:
    if name:
        with refused("cannot be the name of a tag"):
            finish(code.take(name))
    with refused("cannot be the name of a tag"):
        finish(code.verify(name))


def test_checkpoints_are_listed_newest_first_whoever_made_them_and_other_tags_are_not(
    code: GitAdapter, world: GitCheckoutWorld
) -> None:
    git(world.repo, "tag", "checkpoint-alpha-cart-20231114T221500Z", "v1")
    mine = finish(code.take("before-the-migration"))
    found = finish(code.snapshots())
    assert [one.name for one in found] == [mine.name, "checkpoint-alpha-cart-20231114T221500Z"]
    assert found[1].release == tree(world.repo, "v1")
    assert found[1].created == datetime.fromtimestamp(1_700_000_060, UTC)


def test_a_release_is_found_by_each_of_its_tags_and_commits(code: GitAdapter, world: GitCheckoutWorld) -> None:
    git(world.repo, "tag", "another-name", "v2")
    releases = finish(code.releases())
    v2 = Release(tree(world.repo, "v2"))
    sha = git(world.repo, "rev-parse", "v2")
    for name in ("v2", "another-name", sha, sha[:8]):
        found = resolve("code", name, releases)
        assert found == v2
        assert found.names == (), "they are for looking up, not for the journal"


def test_verify_finds_what_is_missing_and_what_is_unreadable(code: GitAdapter, world: GitCheckoutWorld) -> None:
    made = finish(code.take())
    assert finish(code.verify(made.name)) == []
    git(world.repo, "repack", "-a", "-d", "--quiet")
    (pack,) = (world.repo / ".git" / "objects" / "pack").glob("*.pack")
    pack.rename(world.path / "pack")
    with (world.path / "pack").open("rb") as file:
        subprocess.run(["git", "unpack-objects", "-q"], cwd=world.repo, stdin=file, check=True)
    blob = git(world.repo, "rev-parse", "HEAD:app")
    loose = world.repo / ".git" / "objects" / blob[:2] / blob[2:]
    whole = loose.read_bytes()
    loose.chmod(0o644)
    loose.write_bytes(whole[:-4] + b"\0\0\0\0")
    assert any("cannot be read" in problem.text for problem in finish(code.verify(made.name)))
    loose.unlink()
    assert any(f"missing blob {blob}" in problem.text for problem in finish(code.verify(made.name)))
    (problem,) = finish(code.rehearse(made.name))
    assert (problem.snapshot, "git bundle" in problem.text) == (made.name, True)
    with refused("there is no snapshot nowhere"):
        finish(code.verify("nowhere"))


def test_a_diff_names_files_and_sizes_and_never_shows_contents(code: GitAdapter, world: GitCheckoutWorld) -> None:
    (world.repo / ".env").write_text("PASSWORD=hunter2\n")
    commit(world.repo, "with a secret", 9, app="version 4\n")
    first = finish(code.take("checkpoint-1"))
    (world.repo / ".env").write_text("PASSWORD=correct horse\nNEW=1\n")
    (world.repo / "file1").unlink()
    (world.repo / "strange \t\n name").write_text("x")
    found = finish(code.diff(first.name))
    assert [(one.path, one.kind, one.lines) for one in found] == [
        (".env", "changed", ("+2 -1 lines",)),
        ("file1", "removed", ("+0 -1 lines",)),
        ("strange \t\n name", "added", ("not known to git",)),
    ]
    assert "horse" not in repr(found)
    git(world.repo, "tag", "checkpoint-0", "v2")
    between = finish(code.diff("checkpoint-0", "checkpoint-1"))
    assert [(one.path, one.kind) for one in between] == [(".env", "added"), ("app", "changed"), ("file3", "added")]


def test_a_restore_keeps_what_was_there_and_goes_to_the_snapshot(code: GitAdapter, world: GitCheckoutWorld) -> None:
    git(world.repo, "tag", "checkpoint-old", "v1")
    (world.repo / "app").write_text("uncommitted\n")
    kept = finish(code.restore("checkpoint-old", "restore-7"))
    assert world.present() == tree(world.repo, "v1")
    assert kept.name == "rollback-before-restore-7"
    assert kept.release == tree(world.repo, "v3")
    assert git(world.repo, "show", f"refs/rollbackd/snapshots/{kept.name}/work:app") == "uncommitted"
    assert finish(code.restore("checkpoint-old", "restore-7")) == kept, "again after a crash: nothing more"
    with refused("restored as a whole"):
        finish(code.restore("checkpoint-old", "restore-8", only=["files"]))


def test_with_paths_even_what_was_never_committed_can_be_gone_back_to(world: GitCheckoutWorld) -> None:
    config = layer(world.path, world.repo, paths=["app"])
    (world.repo / "app").write_text("edited by hand, and it works\n")
    good = finish(config.current())
    made = finish(config.take(why="good"))
    assert made.release == good.id
    (world.repo / "app").write_text("edited by hand, and it does not\n")
    assert good.id in {release.id for release in finish(config.releases())}
    finish(config.restore(made.name, "restore-1"))
    assert (world.repo / "app").read_text() == "edited by hand, and it works\n"


def test_a_snapshot_leaves_as_one_file_and_comes_back_elsewhere(
    code: GitAdapter, world: GitCheckoutWorld, tmp_path: Path
) -> None:
    (world.repo / "app").write_text("uncommitted\n")
    made = finish(code.take("checkpoint-x"))
    bundle = tmp_path / "checkpoint-x.bundle"
    finish(code.export_to(made.name, str(bundle)))
    assert [path.name for path in tmp_path.glob("*.half")] == []
    git(tmp_path, "init", "--quiet", "elsewhere")
    other = layer(tmp_path / "b", tmp_path / "elsewhere")
    assert finish(other.import_from(str(bundle))) == made
    assert finish(other.import_from(str(bundle))) == made, "again is harmless"
    assert finish(other.verify(made.name)) == []
    work = "refs/rollbackd/snapshots/checkpoint-x/work"
    assert git(tmp_path / "elsewhere", "show", f"{work}:app") == "uncommitted"


def test_a_file_that_is_damaged_or_none_of_ours_is_refused_and_leaves_nothing(
    code: GitAdapter, world: GitCheckoutWorld, tmp_path: Path
) -> None:
    finish(code.take("checkpoint-x"))
    bundle = tmp_path / "x.bundle"
    finish(code.export_to("checkpoint-x", str(bundle)))
    git(tmp_path, "init", "--quiet", "elsewhere")
    other = layer(tmp_path / "b", tmp_path / "elsewhere")
    whole = bundle.read_bytes()
    middle = len(whole) // 2 + 100
    bundle.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with refused("git fetch in .*elsewhere"):
        finish(other.import_from(str(bundle)))
    bundle.write_bytes(b"no bundle at all")
    with refused("not a bundle of git"):
        finish(other.import_from(str(bundle)))
    git(world.repo, "bundle", "create", "--quiet", str(bundle), "main", "v1", "v2")
    with refused("not one snapshot"):
        finish(other.import_from(str(bundle)))
    for path, why in (("x.bundle", "begin it with /"), (str(tmp_path / "nowhere"), "no such file")):
        with refused(why):
            finish(other.import_from(path))
    assert git(tmp_path / "elsewhere", "for-each-ref") == ""
    bundle.write_bytes(whole)
    commit(tmp_path / "elsewhere", "another", 1, app="x")
    git(tmp_path / "elsewhere", "tag", "checkpoint-x")
    with refused("checkpoint-x is another snapshot already"):
        finish(other.import_from(str(bundle)))


def test_a_rehearsal_checks_a_snapshot_out_beside_and_leaves_nothing(code: GitAdapter, world: GitCheckoutWorld) -> None:
    (world.repo / "app").write_text("not committed\n")
    finish(code.take("checkpoint-1"))
    before, scratch = world.everything(), sorted((world.path / "scratch").iterdir())
    left = world.path / "scratch/rehearsal/half"
    left.mkdir(parents=True)
    assert finish(code.rehearse("checkpoint-1")) == []
    assert world.everything() == before
    assert sorted((world.path / "scratch").iterdir()) == scratch
    with pytest.raises(AdapterError, match="there is no snapshot"):
        finish(code.rehearse("nothing"))


def test_pruning_keeps_as_many_as_it_is_told(code: GitAdapter, world: GitCheckoutWorld) -> None:
    for number in range(3):
        commit(world.repo, f"n{number}", 100 + number, app=str(number))
        finish(code.take(f"checkpoint-{number}"))
    assert finish(code.prune()) == []
    assert finish(code.prune(last=2)) == ["checkpoint-0"]


def test_pruning_keeps_the_newest_the_present_the_spared_and_what_people_tagged(world: GitCheckoutWorld) -> None:
    code = layer(world.path, world.repo, keep_snapshots=2)
    git(world.repo, "tag", "checkpoint-of-ann", "v1")
    for number in range(6):
        commit(world.repo, f"release {number + 4}", 10 + number, app=f"version {number + 4}\n")
        (world.repo / "file1").write_text(f"uncommitted {number}\n")
        finish(code.take(f"checkpoint-{number}"))
        git(world.repo, "checkout", "--quiet", "file1")
    git(world.repo, "checkout", "--quiet", "--detach", "checkpoint-1")
    spared = tree(world.repo, "checkpoint-0")
    assert finish(code.prune([spared])) == ["checkpoint-3", "checkpoint-2"]
    assert finish(code.prune([spared])) == []
    left = set(git(world.repo, "tag", "--list", "checkpoint-*").split())
    assert left == {"checkpoint-0", "checkpoint-1", "checkpoint-4", "checkpoint-5", "checkpoint-of-ann"}
    refs = git(world.repo, "for-each-ref", "--format=%(refname)", "refs/rollbackd/snapshots").split()
    assert {ref.split("/")[3] for ref in refs} == left - {"checkpoint-of-ann"}


def test_without_a_work_tree_the_remote_tip_is_kept_and_restored(tmp_path: Path) -> None:
    world = GitRevertWorld(tmp_path)
    code = layer(tmp_path, world.repo, strategy="revert")
    made = finish(code.take("checkpoint-tip"))
    world.moved_by_somebody()
    (difference,) = finish(code.diff(made.name))
    assert (difference.path, difference.kind) == ("app", "changed")
    finish(code.restore(made.name, "restore-1"))
    assert world.present() == made.release
