"""A work tree that is damaged or gone is cloned anew; branches that are left; saved work that is dropped in time."""

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.system.spawner import Spawner
from rollbackd.testing import KEY, finish, killed_at, perform, place, planned
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.git.damage import DAMAGED
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import GitRevertWorld, commit, git, new_repository, script, tree
from tests.photograph import differences, photograph

pytestmark = pytest.mark.needs("git")


class ClonedWorld:
    """A work tree that is a clone of a bare repository; `main` is at v3, .env is local and ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.origin = path / "origin.git"
        work = new_repository(path / "work")
        (work / ".gitignore").write_text(".env\ncache/\n")
        git(work, "add", "--all")
        git(work, "commit", "--quiet", "--amend", "--no-edit")
        git(work, "tag", "--force", "v3")
        git(path, "clone", "--quiet", "--bare", str(work), str(self.origin))
        self.repo = path / "repo"
        git(path, "clone", "--quiet", str(self.origin), str(self.repo))
        (self.repo / ".env").write_text("PORT=1\n")
        (self.repo / "cache" / "deep").mkdir(parents=True)
        (self.repo / "cache" / "deep" / "data").write_text("cached\n")
        (self.repo / "notes").write_text("untracked\n")
        self.built = path / "built"
        self.build = script(path / "build", "sleep 0.2", f"echo built >> {self.built}")
        self.v2 = Release(tree(work, "v2"))
        finish(self.adapter().releases())  # as the daemon does while all is well

    def adapter(self, **settings: Any) -> GitAdapter:
        known = {"adapter": "git", "repo": self.repo, "restore_from": "origin", "then": [[self.build]]}
        return GitAdapter(GitSettings.model_validate({**known, "timeout": "20s", **settings}), place(self.path))

    @property
    def aside(self) -> Path:
        (found,) = self.path.glob("repo.damaged-*")
        return found

    def check(self) -> None:
        assert tree(self.repo, "HEAD") == self.v2.id
        assert git(self.repo, "status", "--porcelain", "--untracked-files=no") == ""
        assert self.built.read_text() == "built\n"
        assert not list(self.path.glob("repo.new-*"))
        git(self.repo, "fsck", "--strict")


def _remove_git(repo: Path) -> None:
    shutil.rmtree(repo / ".git")


def _corrupt_index(repo: Path) -> None:
    (repo / ".git" / "index").write_bytes(b"DIRC nonsense")


def _empty_head(repo: Path) -> None:
    (repo / ".git" / "HEAD").write_bytes(b"")


def _lose_branch(repo: Path) -> None:
    (repo / ".git" / "refs" / "heads" / "main").write_bytes(b"\0" * 41)


def _lose_objects(repo: Path) -> None:
    shutil.rmtree(repo / ".git" / "objects")
    (repo / ".git" / "objects").mkdir()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (shutil.rmtree, "the directory is gone"),
    (_remove_git, "it has no .git"),
    (_empty_head, "HEAD cannot be read"),
    (_lose_branch, "HEAD cannot be read"),
    (_lose_objects, "HEAD cannot be read"),
    (_corrupt_index, ""),
]


@pytest.fixture
def world(tmp_path: Path) -> ClonedWorld:
    return ClonedWorld(tmp_path)


@pytest.mark.parametrize(("damage", "why"), DAMAGES, ids=lambda item: getattr(item, "__name__", ""))
def test_what_is_damaged_is_cloned_anew_and_the_old_one_kept(
    world: ClonedWorld, damage: Callable[[Path], None], why: str
) -> None:
    damage(world.repo)
    there = world.repo.exists()
    current = finish(world.adapter().current())
    if why:
        assert current.id == DAMAGED
        assert current.label.startswith(f"damaged: {why}")
    assert DAMAGED not in {release.id for release in finish(world.adapter().releases())}
    assert finish(world.adapter().ready()) == []
    change = finish(planned(world.adapter(), world.v2))
    if why:
        assert "cloned anew from origin" in change.risks[0]
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    world.check()
    assert git(world.repo, "remote", "get-url", "origin") == str(world.origin)
    if there:
        assert (world.repo / ".env").read_text() == "PORT=1\n", "what git ignores is still there"
        assert (world.repo / "cache" / "deep" / "data").read_text() == "cached\n"
        assert not (world.repo / "notes").exists()
        assert (world.aside / "notes").read_text() == "untracked\n", "what it does not ignore is in the old one"


def test_a_file_that_cannot_be_read_is_noticed_when_it_is_checked_out(world: ClonedWorld) -> None:
    blob = git(world.repo, "rev-parse", "v2:app")
    loose = world.repo / ".git" / "objects" / blob[:2] / blob[2:]
    loose.unlink()  # it is a hard link of the remote's own
    loose.write_bytes(b"garbage")
    (world.repo / "app").write_text("uncommitted\n")
    change = finish(planned(world.adapter(), world.v2))
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    world.check()
    assert git(world.aside, "show", f"refs/rollbackd/{safe_name(KEY)}/saved:app") == "uncommitted"


def test_killed_at_each_boundary_the_swap_is_finished(tmp_path: Path) -> None:
    template = tmp_path / "template"
    ClonedWorld(template)
    for n in range(1, 200, 2):
        world = object.__new__(ClonedWorld)
        world.__dict__.update(path=tmp_path / str(n), repo=tmp_path / str(n) / "repo")
        shutil.copytree(template, world.path, symlinks=True)
        world.origin, world.built = template / "origin.git", world.path / "built"
        world.build = script(world.path / "build", f"echo built >> {world.built}")
        world.v2 = Release(tree(template / "work", "v2"))
        _remove_git(world.repo)
        change = finish(planned(world.adapter(), world.v2))
        survived = not killed_at(n, lambda w=world, c=change: perform(w.adapter(), c), descending=True)  # type: ignore[misc]
        assert finish(perform(world.adapter(), change, retries=1)) is Progress.DONE, f"killed at boundary {n}"
        world.check()
        assert (world.aside / "notes").exists()
        shutil.rmtree(world.path)
        if survived:
            break


def test_a_crash_between_the_two_renames_leaves_both_and_is_finished(world: ClonedWorld) -> None:
    _remove_git(world.repo)
    change = finish(planned(world.adapter(), world.v2))

    def hook(name: str) -> None:
        if name == "git.aside":
            raise KeyboardInterrupt

    boundary.hook = hook
    with pytest.raises(KeyboardInterrupt):
        finish(world.adapter().apply(change))
    boundary.hook = lambda _name: None
    assert not world.repo.exists()
    assert (world.aside / "notes").exists()
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    world.check()


def test_without_restore_from_damage_is_an_error_that_is_told(world: ClonedWorld) -> None:
    _remove_git(world.repo)
    plain = world.adapter(restore_from="")
    with pytest.raises(AdapterError, match="not a git repository"):
        finish(plain.current())
    assert finish(plain.ready())[0].text.endswith("is it a git repository?")


def test_ready_says_while_all_is_well_what_a_new_clone_would_lack(world: ClonedWorld) -> None:
    assert finish(world.adapter().ready()) == []
    (problem,) = finish(world.adapter(restore_from="upstream").ready())
    assert "has no remote upstream" in problem.text
    assert world.adapter().needs.writes == (world.path,)
    assert world.adapter(restore_from="").needs.writes == (world.repo,)


def test_a_remote_that_is_away_or_lacks_the_release_stops_it_and_nothing_was_touched(world: ClonedWorld) -> None:
    git(world.repo, "checkout", "--quiet", "-b", "local")
    (world.repo / "app").write_text("never pushed\n")
    git(world.repo, "-c", "user.name=Ann", "-c", "user.email=a@b", "commit", "--quiet", "--all", "--message", "local")
    only_here = Release(tree(world.repo, "HEAD"))
    finish(world.adapter().releases())
    _remove_git(world.repo)
    change = finish(planned(world.adapter(), only_here))
    with pytest.raises(AdapterError, match="go to a release that was pushed there") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent
    world.origin.rename(world.path / "elsewhere")
    (problem,) = finish(world.adapter().ready())
    assert "cannot be reached to clone" in problem.text
    change = finish(planned(world.adapter(), world.v2, "other-1/0/code"))
    with pytest.raises(AdapterError, match="git clone in") as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    assert (world.repo / "app").read_text() == "never pushed\n"
    assert not list(world.path.glob("repo.damaged-*"))


def test_what_only_stands_in_the_way_is_never_taken_for_damage(world: ClonedWorld) -> None:
    script(world.path / "bin" / "git", "echo 'fatal: cannot fork: Resource temporarily unavailable' >&2", "exit 128")
    known = place(world.path)

    class Broken(Spawner):
        @staticmethod
        def environment(extra: Any = None) -> dict[str, str]:
            made = Spawner.environment(extra)
            return made | {"PATH": f"{world.path / 'bin'}:{made['PATH']}"}

    known = type(known)(
        known.service, known.layer, known.scratch, Broken(world.path / "locks", known.clock), known.clock
    )
    settings = {"adapter": "git", "repo": world.repo, "restore_from": "origin"}
    adapter = GitAdapter(GitSettings.model_validate(settings), known)
    with pytest.raises(AdapterError, match="cannot fork") as failed:
        finish(adapter.current())
    assert not failed.value.permanent
    shutil.rmtree(world.path / "bin")
    world.repo.rename(world.path.parent / f"{world.path.name}-away")
    shutil.rmtree(world.path)
    with pytest.raises(AdapterError, match="no such directory; is it mounted"):
        finish(GitAdapter(GitSettings.model_validate(settings), place(world.path.parent / "scratch")).current())


@pytest.mark.needs("root")
def test_the_new_one_belongs_to_whom_the_old_one_did(world: ClonedWorld) -> None:
    for path in (world.repo, *world.repo.rglob("*")):
        os.lchown(path, 65534, 65534)
    world.repo.chmod(0o750)
    _remove_git(world.repo)
    change = finish(planned(world.adapter(then=[]), world.v2))
    finish(world.adapter(then=[]).apply(change))
    for path in (world.repo, world.repo / "app", world.repo / ".git" / "HEAD", world.repo / "cache" / "deep" / "data"):
        assert path.stat().st_uid == 65534, path
    assert world.repo.stat().st_mode & 0o777 == 0o750


@pytest.mark.needs("root")
@pytest.mark.parametrize("damage", [_remove_git, _corrupt_index])
def test_files_of_the_new_one_are_as_they_were_in_the_old_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    work = new_repository(tmp_path / "work")
    for name in ("views", "bin"):
        (work / name).mkdir()
    (work / "bin" / "nightly").touch(0o755)
    commit(work, "pages", 10, **{"views/index": "1\n", "views/more": "1\n", "bin/nightly": "#!/bin/sh\n", "app": "4\n"})
    wanted = tree(work, "HEAD")
    git(work, "rm", "-q", "views/more")
    commit(work, "another page", 11, **{"views/index": "22\n"})
    git(tmp_path, "clone", "-q", "--bare", str(work), str(tmp_path / "origin.git"))
    git(tmp_path, "clone", "-q", str(tmp_path / "origin.git"), str(tmp_path / "repo"))
    repo = tmp_path / "repo"
    subprocess.run(["chown", "-R", "nobody:nogroup", repo], check=True)
    os.chown(repo / "bin" / "nightly", 0, 0)
    (repo / "bin" / "nightly").chmod(0o4700)
    shutil.chown(repo / "views", group="www-data")
    (repo / "views").chmod(0o2750)
    shutil.chown(repo / "views" / "index", "games", "www-data")
    (repo / "views" / "index").chmod(0o640)
    os.setxattr(repo / "app", "user.note", b"of this host")

    def layer() -> GitAdapter:
        known = {"adapter": "git", "repo": repo, "restore_from": "origin", "timeout": "20s"}
        return GitAdapter(GitSettings.model_validate(known), place(tmp_path))

    finish(layer().releases())
    before = photograph(repo, without=[repo / ".git"])
    damage(repo)
    umask = os.umask(0o077)
    try:
        assert finish(perform(layer(), finish(planned(layer(), Release(wanted))))) is Progress.DONE
    finally:
        os.umask(umask)
    after = photograph(repo, without=[repo / ".git"])
    found = {path: {*what} - {"inode"} for path, what in differences(before, after).items()}
    changed = {path.removeprefix(f"{repo}/"): what for path, what in found.items() if what}
    assert changed == {"views/index": {"content"}, "views/more": {"new"}}
    more, index = after[f"{repo}/views/more"], before[f"{repo}/views/index"]
    assert (more.owner, more.group, more.mode) == (index.owner, index.group, index.mode)


# -- submodules, prompts ------------------------------------------------------------------------
def test_a_submodule_is_left_as_it_is_and_breaks_nothing(world: ClonedWorld, tmp_path: Path) -> None:
    module = new_repository(tmp_path / "module")
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(module), "lib")
    git(world.repo, *add)
    git(world.repo, "commit", "--quiet", "--message", "with a library")
    (world.repo / "lib" / "app").write_text("work in the library\n")
    change = finish(planned(world.adapter(), world.v2))
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert tree(world.repo, "HEAD") == world.v2.id
    assert (world.repo / "lib" / "app").read_text() == "work in the library\n"
    forth = finish(planned(world.adapter(), Release(tree(world.repo, "main")), "other-1/0/code"))
    assert finish(perform(world.adapter(), forth)) is Progress.DONE
    assert (world.repo / "lib" / "app").read_text() == "work in the library\n"


def test_nobody_is_ever_asked_for_a_password(tmp_path: Path) -> None:
    revert = GitRevertWorld(tmp_path)
    said = tmp_path / "said"
    ssh = script(tmp_path / "bin" / "ssh", f'echo "$@" > {said}', "exit 255")
    git(revert.repo, "remote", "set-url", "origin", "ssh://nobody@git.example/x")
    known = place(tmp_path)

    class Found(Spawner):
        @staticmethod
        def environment(extra: Any = None) -> dict[str, str]:
            made = Spawner.environment(extra)
            said.with_name("env").write_text(repr(sorted(made.items())))
            return made | {"PATH": f"{Path(ssh).parent}:{made['PATH']}"}

    known = type(known)(known.service, known.layer, known.scratch, Found(tmp_path / "locks", known.clock), known.clock)
    settings = {"adapter": "git", "repo": revert.repo, "strategy": "revert"}
    with pytest.raises(AdapterError, match="git ls-remote"):
        finish(GitAdapter(GitSettings.model_validate(settings), known).current())
    assert "-oBatchMode=yes" in said.read_text()
    environment = said.with_name("env").read_text()
    for pair in (("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", "false"), ("SSH_ASKPASS", "false")):
        assert repr(pair) in environment


# -- branches -----------------------------------------------------------------------------------
def test_an_emergency_branch_is_left_at_what_was_left_and_none_is_ever_moved(world: ClonedWorld) -> None:
    bad = git(world.repo, "rev-parse", "HEAD")
    git(world.repo, "branch", "emergency/contract-1", "v1")
    adapter = world.adapter(emergency=True, on_branch=True)
    assert finish(perform(adapter, finish(planned(adapter, world.v2)))) is Progress.DONE
    assert git(world.repo, "rev-parse", "emergency/contract-1") == git(world.repo, "rev-parse", "v1")
    assert git(world.repo, "rev-parse", "emergency/contract-1-2") == bad
    assert git(world.repo, "symbolic-ref", "HEAD") == "refs/heads/rollback/contract-1"
    assert git(world.repo, "rev-parse", "main") == bad
    assert git(world.repo, "status", "--porcelain") == "?? .env\n?? cache/\n?? notes", "v2 ignores none"


def test_a_branch_that_cannot_be_made_does_not_stop_a_rollback(world: ClonedWorld) -> None:
    git(world.repo, "branch", "emergency", "v1")
    adapter = world.adapter(emergency=True)
    assert finish(perform(adapter, finish(planned(adapter, world.v2)))) is Progress.DONE


def test_killed_anywhere_there_is_one_branch_of_each_kind(tmp_path: Path) -> None:
    template = tmp_path / "template"
    new_repository(template / "repo")
    for n in range(1, 200, 2):
        path = tmp_path / str(n)
        shutil.copytree(template, path)
        settings = {"adapter": "git", "repo": path / "repo", "emergency": "hotfix/{incident}", "on_branch": True}
        adapter = GitAdapter(GitSettings.model_validate(settings), place(path))
        change = finish(planned(adapter, Release(tree(path / "repo", "v2"))))
        survived = not killed_at(n, lambda a=adapter, c=change: perform(a, c), descending=True)  # type: ignore[misc]
        assert finish(perform(adapter, change, retries=1)) is Progress.DONE, f"killed at boundary {n}"
        names = git(path / "repo", "for-each-ref", "--format=%(refname:short)", "refs/heads").split()
        assert names == ["hotfix/contract-1", "main", "rollback/contract-1"], f"killed at boundary {n}"
        assert git(path / "repo", "rev-parse", "hotfix/contract-1") == git(path / "repo", "rev-parse", "v3")
        if survived:
            break


def test_a_revert_leaves_its_branch_at_the_remote(tmp_path: Path) -> None:
    world = GitRevertWorld(tmp_path)
    tip = git(world.origin, "rev-parse", "main")
    settings = {"adapter": "git", "repo": world.repo, "strategy": "revert", "emergency": True}
    adapter = GitAdapter(GitSettings.model_validate(settings), place(tmp_path))
    assert finish(perform(adapter, finish(planned(adapter, world.target())))) is Progress.DONE
    assert git(world.origin, "rev-parse", "emergency/contract-1") == tip
    again = finish(planned(adapter, Release(tree(world.origin, "v1"))))  # the same incident, another plan
    assert finish(perform(adapter, type(again)(**{**_fields(again), "key": "contract-1/1/layer"}))) is Progress.DONE
    assert git(world.origin, "rev-parse", "emergency/contract-1") == tip, "never overwritten"


def _fields(change: Any) -> dict[str, Any]:
    return {name: getattr(change, name) for name in change.__slots__}


# -- saved work ---------------------------------------------------------------------------------
def test_saved_work_is_dropped_by_age_but_never_the_newest_five(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    for number in range(8):
        who = {"GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x", "GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x"}
        date = {"GIT_COMMITTER_DATE": f"{1_700_000_000 + number} +0000"}
        argv = ["git", "commit-tree", "-m", f"saved {number}", "HEAD^{tree}"]
        made = subprocess.run(argv, cwd=repo, env={**os.environ, **who, **date}, capture_output=True, check=True)
        git(repo, "update-ref", f"refs/rollbackd/old-{number}/saved", made.stdout.decode().strip())
    git(repo, "update-ref", "refs/rollbackd/snapshots/checkpoint-1/work", "v1")
    (repo / "app").write_text("uncommitted\n")

    def saved() -> set[str]:
        return set(git(repo, "for-each-ref", "--format=%(refname:strip=2)", "refs/rollbackd").split())

    def roll_back(keep: str, name: str, key: str) -> None:
        settings = {"adapter": "git", "repo": repo, "keep_saved": keep}
        adapter = GitAdapter(GitSettings.model_validate(settings), place(tmp_path))
        assert finish(perform(adapter, finish(planned(adapter, Release(tree(repo, name)), key)))) is Progress.DONE

    before = saved()
    roll_back("36500d", "v2", KEY)
    assert saved() > before, "young enough: all stay"
    roll_back("1d", "v1", "other-1/0/layer")
    names = {name.split("/")[0] for name in saved()}
    assert {"old-4", "old-5", "old-6", "old-7", "snapshots"} < names
    assert not {"old-0", "old-1", "old-2", "old-3"} & names
    assert len(names) == 6


def test_work_of_the_very_second_in_which_git_looked_is_saved(tmp_path: Path) -> None:
    """Same size, same second, same inode: git then compares contents, if the index has its own time."""
    repo = new_repository(tmp_path / "repo")
    adapter = GitAdapter(GitSettings.model_validate({"adapter": "git", "repo": repo}), place(tmp_path))
    index = repo / ".git" / "index"
    git(repo, "update-index", "--refresh")
    stat = (repo / "app").stat()
    with (repo / "app").open("r+") as file:
        file.write("VERSION 3\n")
    os.utime(repo / "app", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    os.utime(index, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    finish(perform(adapter, finish(planned(adapter, Release(tree(repo, "v2"))))))
    (saved,) = git(repo, "for-each-ref", "--format=%(refname)", "refs/rollbackd").split()
    assert git(repo, "show", f"{saved}:app") == "VERSION 3"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restore_from": "--upload-pack=x"}, "neither a remote's name nor an address"),
        ({"restore_from": "https://ann:secret@git.example/x"}, "use a credential helper"),
        ({"restore_from": "origin", "strategy": "revert"}, "`restore_from` is for a work tree"),
        ({"emergency": "mine"}, "should match pattern"),
        ({"emergency": "a..b/{incident}"}, "cannot be the name of a branch"),
        ({"keep_saved": "soon"}, "not a duration"),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        GitSettings.model_validate({"adapter": "git", "repo": "/srv/checkout", **settings})
    assert message in str(failed.value)
    assert timedelta(days=30) == GitSettings(adapter="git", repo=Path("/srv/x")).keep_saved
