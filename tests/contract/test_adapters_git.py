"""What the contract does not ask of every adapter, and git must all the same."""

import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import KEY, finish, killed_at, perform, place, planned
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import (
    GitCheckoutWorld,
    GitRevertWorld,
    commit,
    cut_off_before_the_checkout,
    git,
    new_repository,
    script,
    tree,
)

pytestmark = pytest.mark.needs("git")

SAVED = f"refs/rollbackd/{safe_name(KEY)}/saved"


@pytest.fixture
def world(tmp_path: Path) -> GitCheckoutWorld:
    return GitCheckoutWorld(tmp_path)


@pytest.fixture
def revert(tmp_path: Path) -> GitRevertWorld:
    return GitRevertWorld(tmp_path)


def git_layer(path: Path, repo: Path, **settings: Any) -> GitAdapter:
    return GitAdapter(GitSettings.model_validate({"adapter": "git", "repo": repo, **settings}), place(path))


def roll_back(adapter: GitAdapter, target: Release, key: str = KEY) -> None:
    change = finish(planned(adapter, target, key))
    finish(adapter.apply(change))
    assert finish(adapter.progress(change)) is Progress.DONE


async def failure_of(work: Awaitable[object]) -> AdapterError | None:
    try:
        await work
    except AdapterError as error:
        return error
    return None


# -- checkout: nobody's work is lost ------------------------------------------------------------
def test_uncommitted_work_of_every_kind_is_saved_and_comes_back_as_a_stash(world: GitCheckoutWorld) -> None:
    repo = world.repo
    (repo / ".gitignore").write_text("file3\n")
    git(repo, "rm", "--quiet", "--cached", "file3")
    git(repo, "add", ".gitignore")
    git(repo, "commit", "--quiet", "--message", "file3 is local now")
    (repo / "app").write_text("staged\n")
    git(repo, "add", "app")
    (repo / "app").write_text("edited after it was staged\n")
    (repo / "file1").unlink()
    (repo / "new 'file'\n").write_text("untracked\n")
    (repo / "file3").write_text("ignored, and in the way\n")
    change = finish(planned(world.adapter(), Release(tree(repo, "v3"))))
    assert any("uncommitted" in risk for risk in change.risks)
    finish(world.adapter().apply(change))

    assert git(repo, "show", f"{SAVED}:app") == "edited after it was staged"
    assert git(repo, "show", f"{SAVED}^2:app") == "staged"
    assert git(repo, "show", f"{SAVED}:new 'file'\n") == "untracked"
    assert git(repo, "show", f"{SAVED}:file3") == "ignored, and in the way"
    assert "file1" not in git(repo, "ls-tree", "--name-only", SAVED).split()
    assert (repo / "file3").read_text() == "3\n", "the target's own"
    assert (repo / "new 'file'\n").read_text() == "untracked\n", "it was in nobody's way"

    git(repo, "clean", "--quiet", "--force")
    git(repo, "checkout", "--quiet", "main")
    git(repo, "stash", "apply", "--quiet", SAVED)
    assert (repo / "app").read_text() == "edited after it was staged\n"
    assert (repo / "new 'file'\n").read_text() == "untracked\n"
    assert not (repo / "file1").exists()


def test_an_ignored_directory_where_the_target_has_a_file_is_saved(world: GitCheckoutWorld) -> None:
    repo = world.repo
    git(repo, "rm", "--quiet", "file1")
    (repo / ".gitignore").write_text("file1/\n")
    git(repo, "add", ".gitignore")
    git(repo, "commit", "--quiet", "--message", "file1 is a directory of everybody's own now")
    (repo / "file1").mkdir()
    (repo / "file1" / "mine").write_text("work\n")
    roll_back(world.adapter(), world.target())
    assert (repo / "file1").read_text() == "1\n"
    assert git(repo, "show", f"{SAVED}:file1/mine") == "work"


def test_with_nothing_uncommitted_nothing_is_saved(world: GitCheckoutWorld) -> None:
    roll_back(world.adapter(), world.target())
    assert git(world.repo, "for-each-ref", "refs/rollbackd") == ""


def test_branches_stay_where_they_are_and_head_says_who_moved_it(world: GitCheckoutWorld) -> None:
    main = git(world.repo, "rev-parse", "main")
    roll_back(world.adapter(), world.target())
    assert git(world.repo, "rev-parse", "main") == main
    assert git(world.repo, "rev-parse", "HEAD") == git(world.repo, "rev-parse", "v2")
    assert git(world.repo, "branch", "--show-current") == ""
    assert KEY in git(world.repo, "reflog", "-1", "--format=%gs")


def test_what_cannot_be_saved_stops_it_before_anything_is_touched(world: GitCheckoutWorld) -> None:
    (world.repo / "app").write_text("work\n")
    change = finish(planned(world.adapter(), world.target()))
    shutil.rmtree(world.repo / ".git" / "objects" / "info", ignore_errors=True)
    git(world.repo, "config", "filter.broken.clean", "false")
    git(world.repo, "config", "filter.broken.required", "true")
    (world.repo / ".git" / "info" / "attributes").write_text("app filter=broken\n")
    with pytest.raises(AdapterError, match="what is uncommitted cannot be saved, so nothing was touched") as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    assert (world.repo / "app").read_text() == "work\n"
    assert world.present() == change.before.id


def test_what_somebody_mends_in_a_half_checked_out_tree_is_saved_beside_the_first(world: GitCheckoutWorld) -> None:
    (world.repo / "app").write_text("the original work\n")
    change = finish(planned(world.adapter(), world.target()))
    cut_off_before_the_checkout(world.adapter().apply(change), world.path)
    (world.repo / ".git" / "index.lock").touch()
    (world.repo / "app").write_text("mended by somebody at three in the morning\n")
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert git(world.repo, "show", f"{SAVED}:app") == "the original work"
    assert git(world.repo, "show", f"{SAVED}-2:app") == "mended by somebody at three in the morning"
    assert world.finished() == 1


def test_what_then_makes_of_the_tree_is_not_checked_out_over_in_the_next_life(world: GitCheckoutWorld) -> None:
    second = script(world.path / "second", f"test -e {world.path}/go")
    script(Path(world.build), "echo made > app", f"echo built >> {world.built}")
    adapter = git_layer(world.path, world.repo, then=[[world.build], [second]])
    change = finish(planned(adapter, world.target()))
    with pytest.raises(AdapterError, match=r"`.*/second` in .*/repo: exit 1") as failed:
        finish(adapter.apply(change))
    assert not failed.value.permanent
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    (world.path / "go").touch()
    finish(adapter.apply(change))
    assert (world.repo / "app").read_text() == "made\n"
    assert world.finished() == 1, "the first command had succeeded"


# -- checkout: whose locks, whose hooks ---------------------------------------------------------
def test_hooks_of_the_repository_do_not_run(world: GitCheckoutWorld) -> None:
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        script(world.repo / ".git" / "hooks" / name, f"touch {world.path}/hooked")
    (world.repo / "app").write_text("work\n")
    roll_back(world.adapter(), world.target())
    assert not (world.path / "hooked").exists()


def test_a_fresh_lock_of_somebody_elses_git_is_left_alone(world: GitCheckoutWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    lock = world.repo / ".git" / "index.lock"
    lock.touch()
    with pytest.raises(AdapterError, match="if none runs, remove the file") as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    assert lock.exists()
    assert "index.lock" in finish(world.adapter().ready())[0].text


def test_an_old_lock_that_nobody_has_open_is_removed(world: GitCheckoutWorld) -> None:
    lock = world.repo / ".git" / "index.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    assert finish(world.adapter().ready()) == []
    roll_back(world.adapter(), world.target())
    assert not lock.exists()


def test_a_lock_that_a_living_process_has_open_is_left_alone_however_old(world: GitCheckoutWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    lock = world.repo / ".git" / "index.lock"
    with lock.open("w") as file, subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(file.fileno(),)) as holder:
        os.utime(lock, (0, 0))
        with pytest.raises(AdapterError, match=r"git \(process \d+\) works in there"):
            finish(world.adapter().apply(change))
        holder.communicate()
    assert lock.exists()


@pytest.mark.needs("root")
def test_a_repository_of_another_user_works(world: GitCheckoutWorld) -> None:
    target = world.target()
    for path in (world.repo, *world.repo.rglob("*")):
        os.lchown(path, 65534, 65534)
    with pytest.raises(subprocess.CalledProcessError):
        git(world.repo, "status")
    roll_back(world.adapter(), target)


def test_then_is_told_what_it_is_run_for(world: GitCheckoutWorld) -> None:
    script(Path(world.build), f"env | grep ^ROLLBACKD_ | sort > {world.built}; pwd >> {world.built}")
    change = finish(planned(world.adapter(), world.target()))
    finish(world.adapter().apply(change))
    assert change.intended is not None
    assert world.built.read_text().splitlines() == [
        f"ROLLBACKD_AFTER={change.after.id}",
        f"ROLLBACKD_BEFORE={change.before.id}",
        "ROLLBACKD_INCIDENT=contract-1",
        f"ROLLBACKD_INTENDED={change.intended.isoformat()}",
        f"ROLLBACKD_KEY={KEY}",
        "ROLLBACKD_LAYER=layer",
        "ROLLBACKD_SERVICE=contract",
        str(world.repo),
    ]


# -- releases -----------------------------------------------------------------------------------
def test_releases_are_trees_newest_first_with_what_people_call_them(world: GitCheckoutWorld) -> None:
    git(world.repo, "revert", "--no-edit", "HEAD")
    releases = finish(world.adapter().releases())
    assert [release.id for release in releases] == [tree(world.repo, name) for name in ("v2", "v3", "v1")]
    assert [release.label for release in releases] == ["v2", "v3", "v1"]
    assert [release.good for release in releases] == [False, False, True]
    assert releases[2].created == datetime.fromtimestamp(1_700_000_060, UTC)
    assert finish(world.adapter().current()) == releases[0]


def test_what_only_an_earlier_head_had_can_be_gone_back_to(world: GitCheckoutWorld) -> None:
    commit(world.repo, "tried and thrown away", 20, app="tried\n")
    thrown_away = tree(world.repo, "HEAD")
    git(world.repo, "reset", "--quiet", "--hard", "v3")
    roll_back(world.adapter(), Release(thrown_away))
    assert world.present() == thrown_away


def test_what_nothing_leads_to_is_refused_with_what_to_do(world: GitCheckoutWorld) -> None:
    with pytest.raises(AdapterError, match=r"no tag or earlier HEAD has it in .*; tag it") as refused:
        finish(world.adapter().plan(Release("0" * 40)))
    assert refused.value.permanent


def test_labels_cannot_play_tricks_on_a_terminal(world: GitCheckoutWorld) -> None:
    commit(world.repo, "\x1b[2Jred \u202e text", 20, app="x\n")
    assert finish(world.adapter().current()).label.endswith(" red ? text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repo": "srv/checkout"}, '"srv/checkout" depends on where the daemon was started; write the whole path'),
        ({"remote": "--upload-pack=touch"}, "String should match pattern"),
        ({"branch": "a..b"}, '"a..b" cannot be the name of a branch or a remote'),
        ({"branch": "main.lock"}, '"main.lock" cannot be'),
        ({"then": [[]]}, "at least 1 item"),
        ({"author": "me"}, "String should match pattern"),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        GitSettings.model_validate({"adapter": "git", "repo": "/srv/checkout", **settings})
    assert message in str(failed.value)


# -- ready --------------------------------------------------------------------------------------
def test_ready_says_what_to_do(world: GitCheckoutWorld, tmp_path: Path) -> None:
    def first(repo: Path, **settings: Any) -> str:
        return finish(git_layer(tmp_path, repo, **settings).ready())[0].text

    assert first(tmp_path / "nowhere").endswith("/nowhere: no such directory; correct `repo`, or clone it there")
    (tmp_path / "plain").mkdir()
    assert first(tmp_path / "plain").endswith("is it a git repository?")
    git(tmp_path, "init", "--quiet", "--bare", "bare")
    assert "a bare repository has no work tree; use `strategy: revert`" in first(tmp_path / "bare")
    git(tmp_path, "init", "--quiet", "empty")
    assert first(tmp_path / "empty").endswith("HEAD names no commit; check one out")
    assert first(world.repo, then=[["no-such-program"]]).startswith("no-such-program: no such program")
    assert "MiB free, wants 1073741824 MiB (`room`); make room" in first(world.repo, room=2**50)
    (world.repo / ".git" / "rebase-merge").mkdir()
    assert first(world.repo).endswith("a rebase is unfinished; finish it or run `git rebase --abort`")


# -- revert -------------------------------------------------------------------------------------
def test_a_revert_is_one_commit_on_the_tip_and_touches_no_work_tree(revert: GitRevertWorld) -> None:
    tip = git(revert.origin, "rev-parse", "main")
    (revert.repo / "app").write_text("somebody's work\n")
    head = git(revert.repo, "rev-parse", "HEAD")
    roll_back(revert.adapter(), revert.target())
    assert git(revert.origin, "rev-parse", "main^") == tip
    assert git(revert.origin, "rev-list", "--count", f"{tip}..main") == "1"
    message = git(revert.origin, "log", "-1", "--format=%an <%ae>%n%B", "main")
    assert message.startswith("rollbackd <rollbackd@localhost>\nRoll back to v2\n")
    assert message.endswith(f"Rollbackd-Change: {KEY}")
    assert git(revert.repo, "rev-parse", "HEAD") == head
    assert (revert.repo / "app").read_text() == "somebody's work\n"


def test_a_revert_works_from_a_bare_clone_that_is_behind(revert: GitRevertWorld, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    git(tmp_path, "clone", "--quiet", "--bare", str(revert.origin), str(bare))
    revert.moved_by_somebody()
    layer = git_layer(tmp_path, bare, strategy="revert")
    assert finish(layer.current()).id == revert.present()
    roll_back(layer, revert.target())
    assert revert.present() == revert.target().id


def test_killed_anywhere_there_is_one_commit(tmp_path: Path) -> None:
    for n in count(1):
        world = GitRevertWorld(tmp_path / str(n))
        tip = git(world.origin, "rev-parse", "main")
        adapter = git_layer(world.path, world.repo, strategy="revert")
        change = finish(planned(adapter, world.target()))
        survived = not killed_at(n, lambda a=adapter, c=change: perform(a, c), descending=False)  # type: ignore[misc]
        assert finish(perform(adapter, change)) is Progress.DONE
        assert git(world.origin, "rev-list", "--count", f"{tip}..main") == "1", f"killed at boundary {n}"
        if survived:
            break


def test_somebody_who_pushes_at_any_moment_is_never_overwritten(tmp_path: Path) -> None:
    for n in range(1, 12):
        world = GitRevertWorld(tmp_path / str(n))
        change = finish(planned(world.adapter(), world.target()))
        started = count(1)

        def hook(name: str, world: GitRevertWorld = world, started: Any = started, n: int = n) -> None:
            if name == "process.before" and next(started) == n:
                world.moved_by_somebody()

        boundary.hook = hook
        failed = finish(failure_of(world.adapter().apply(change)))
        boundary.hook = lambda _name: None
        assert failed is None or (failed.permanent and "somebody else pushed" in str(failed))
        assert world.finished() == (0 if failed else 1)
        moved = next(started) > n
        subjects = git(world.origin, "log", "--format=%s", "main").splitlines()
        assert ("a fix" in subjects) is moved, f"pushed before start {n}"


def test_after_our_commit_was_undone_by_somebody_it_is_theirs(revert: GitRevertWorld) -> None:
    adapter = revert.adapter()
    script(Path(revert.build), "exit 1")
    change = finish(planned(adapter, revert.target()))
    with pytest.raises(AdapterError):
        finish(adapter.apply(change))
    git(revert.work, "pull", "--quiet", "--ff-only", "origin", "main")
    git(revert.work, "revert", "--no-edit", "HEAD")
    git(revert.work, "push", "--quiet", "origin", "HEAD:main")
    assert finish(adapter.progress(change)) is Progress.SUPERSEDED


def test_a_remote_that_refuses_is_quoted_and_not_tried_again(revert: GitRevertWorld) -> None:
    script(revert.origin / "hooks" / "pre-receive", "echo main is protected >&2", "exit 1")
    with pytest.raises(AdapterError) as refused:
        finish(revert.adapter().apply(finish(planned(revert.adapter(), revert.target()))))
    assert str(refused.value) == (
        "origin/main refused our commit: [remote rejected] (pre-receive hook declined): main is protected; let "
        "rollbackd's key push there"
    )
    assert refused.value.permanent
    assert "main is protected" in refused.value.evidence


def test_a_remote_that_is_away_is_worth_another_try(revert: GitRevertWorld) -> None:
    change = finish(planned(revert.adapter(), revert.target()))
    revert.break_it()
    for question in (revert.adapter().current(), revert.adapter().apply(change), revert.adapter().progress(change)):
        with pytest.raises(AdapterError, match="git ls-remote in") as failed:
            finish(question)
        assert not failed.value.permanent


def test_a_branch_that_is_not_there_is_named(revert: GitRevertWorld, tmp_path: Path) -> None:
    layer = git_layer(tmp_path, revert.repo, strategy="revert", branch="release")
    with pytest.raises(AdapterError, match="origin/release does not exist; correct `branch`") as failed:
        finish(layer.current())
    assert failed.value.permanent


def test_a_remote_that_hangs_is_ended(revert: GitRevertWorld, tmp_path: Path) -> None:
    silent = script(tmp_path / "silent", "sleep 1000")
    git(revert.repo, "remote", "set-url", "origin", "ssh://example.com/x")
    git(revert.repo, "config", "core.sshCommand", silent)
    layer = git_layer(tmp_path, revert.repo, strategy="revert", timeout="300ms")
    with pytest.raises(AdapterError, match="took longer than its limit"):
        finish(layer.current(), timedelta(seconds=10))


def test_the_program_that_an_ext_remote_names_is_never_run(revert: GitRevertWorld, tmp_path: Path) -> None:
    git(revert.repo, "remote", "set-url", "origin", f"ext::touch {tmp_path}/ran")
    git(revert.repo, "config", "protocol.ext.allow", "always")
    with pytest.raises(AdapterError, match="transport 'ext' not allowed"):
        finish(git_layer(tmp_path, revert.repo, strategy="revert").current())
    assert not (tmp_path / "ran").exists()


def test_two_layers_with_one_repository_exclude_each_other(world: GitCheckoutWorld, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(world.repo)
    assert git_layer(tmp_path, link).resource == world.adapter().resource
    locks = tmp_path / "locks"
    change = finish(planned(world.adapter(), world.target()))
    finish(world.adapter().progress(change))
    roll_back(world.adapter(), world.target(), key="other-1/0/code")
    (owner,) = locks.glob("*.owner")
    program = [
        sys.executable,
        "-c",
        f"import fcntl; f = open({str(owner)!r}); fcntl.flock(f, fcntl.LOCK_EX); print(); input()",
    ]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        again = finish(planned(world.adapter(), Release(tree(world.repo, "v1")), "third-1/0/code"))
        with pytest.raises(AdapterError, match="another rollbackd works on it") as failed:
            finish(world.adapter().apply(again))
        assert not failed.value.permanent
        other.communicate(b"\n")


@pytest.mark.parametrize("paths", [[], ["etc/"]], ids=["whole", "paths"])
def test_a_file_is_read_as_a_release_has_it_without_going_there(tmp_path: Path, paths: list[str]) -> None:
    repo = new_repository(tmp_path / "our repo")
    (repo / "etc").mkdir()
    for at, revision in ((11, "r1"), (12, "r2")):
        commit(repo, revision, at, **{"etc/REVISION": f"{revision}\n"})
    (tmp_path / "link").symlink_to(repo)
    adapter = git_layer(tmp_path, tmp_path / "link", paths=paths)
    before = (repo / "etc/REVISION").read_text()
    _, old, *_ = finish(adapter.releases())
    for place_of in (repo, tmp_path / "link"):
        assert finish(adapter.read(old, place_of / "etc/REVISION")) == "r1\n"
        assert finish(adapter.read(old, place_of / "etc/nothing")) == ""
        assert finish(adapter.read(old, place_of / "etc")) == "", "a directory is no file"
    assert (repo / "etc/REVISION").read_text() == before == "r2\n"
