"""Work trees and remotes as people leave them: flags in the index, repositories in repositories, other people's files."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.config.load import ConfigErrors, load
from rollbackd.model import Progress, Release
from rollbackd.testing import KEY, finish, place, planned
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.remote.releases import as_one
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import commit, git, new_repository, script, tree

pytestmark = pytest.mark.needs("git")

SAVED = f"refs/rollbackd/{safe_name(KEY)}/saved"
ELSEWHERE = "shop-2/0/code"
"""The key of another change."""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo")


def layer(repo: Path, **settings: Any) -> GitAdapter:
    return GitAdapter(GitSettings.model_validate({"adapter": "git", "repo": repo, **settings}), place(repo.parent))


def go(repo: Path, to: str = "v2", key: str = KEY, **settings: Any) -> None:
    """As the core does it: nothing begins while something is not ready."""
    adapter = layer(repo, **settings)
    assert finish(adapter.ready()) == []
    change = finish(planned(adapter, Release(tree(repo, to)), key))
    finish(adapter.apply(change))
    assert finish(adapter.progress(change)) is Progress.DONE
    assert git(repo, "status", "--porcelain", "--untracked-files=no") == ""


# -- nobody's work is lost, and none stops a rollback ------------------------------------------
def test_what_is_ignored_and_was_taken_out_of_the_index_is_saved(repo: Path) -> None:
    git(repo, "rm", "--quiet", "--cached", "file1")
    (repo / ".git" / "info" / "exclude").write_text("file1\n")
    (repo / "file1").write_text("local now\n")
    go(repo)
    assert (repo / "file1").read_text() == "1\n", "the target's own"
    assert git(repo, "show", f"{SAVED}:file1") == "local now"


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_edits_that_git_was_told_to_overlook_are_saved_and_give_way(repo: Path, flag: str) -> None:
    git(repo, "update-index", flag, "app", "file1")
    (repo / "app").write_text("local settings\n")
    (repo / "file1").write_text("local too\n")
    go(repo)
    assert (repo / "app").read_text() == "version 2\n"
    assert git(repo, "show", f"{SAVED}:app") == "local settings"
    assert git(repo, "show", f"{SAVED}:file1") == "local too"


def test_edits_that_git_was_told_to_overlook_in_the_paths_are_named_before_anything_begins(repo: Path) -> None:
    git(repo, "update-index", "--skip-worktree", "app")
    (problem,) = finish(layer(repo, paths=["app"]).ready())
    assert problem.text == (
        f"{repo}/app is marked so that git overlooks its edits; `git update-index --no-assume-unchanged "
        "--no-skip-worktree app` takes that away"
    )


def test_work_outside_of_a_sparse_checkout_is_saved(repo: Path) -> None:
    for number in (4, 5):
        (repo / "far").mkdir(exist_ok=True)
        (repo / "far" / "code").write_text(f"far {number}\n")
        commit(repo, f"release {number}", number, app=f"version {number}\n")
        git(repo, "tag", f"v{number}")
    git(repo, "sparse-checkout", "set", "near")
    (repo / "far").mkdir()
    (repo / "far" / "new").write_text("untracked\n")
    (repo / "app").write_text("edited\n")
    go(repo, "v4")
    assert git(repo, "show", f"{SAVED}:far/new") == "untracked"
    assert git(repo, "show", f"{SAVED}:app") == "edited"
    assert (repo / "app").read_text() == "version 4\n"


def test_what_a_sparse_checkout_leaves_out_stays_out_whatever_other_attributes_make_of_it(repo: Path) -> None:
    (repo / "far").mkdir()
    for number, how in ((4, "text eol=crlf"), (5, "text")):
        (repo / "far" / "code").write_text("the same\n")
        commit(repo, f"release {number}", number, **{".gitattributes": f"* {how}\n"})
        git(repo, "tag", f"v{number}")
    git(repo, "sparse-checkout", "set", "near")
    go(repo, "v4")
    assert not (repo / "far").exists()
    assert (repo / "app").read_bytes() == b"version 3\r\n"


def test_a_submodule_whose_own_repository_is_lost_stops_nothing(repo: Path) -> None:
    git(repo, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},lib")
    (repo / "lib").mkdir()
    commit(repo, "with a submodule", 4)
    git(repo, "tag", "v4")
    commit(repo, "the next", 5, app="version 5\n")
    (repo / "lib" / ".git").write_text("gitdir: ../nowhere\n")
    adapter = layer(repo)
    assert finish(adapter.ready()) == []
    change = finish(planned(adapter, Release(tree(repo, "v4"))))
    finish(adapter.apply(change))
    assert finish(adapter.progress(change)) is Progress.DONE
    assert (repo / "app").read_text() == "version 3\n"


def test_more_names_than_are_read_of_other_answers_stop_nothing(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        (repo / f"{number}{'x' * 200}").write_text("one of many\n")
    commit(repo, "many", 4)
    monkeypatch.setattr("rollbackd_adapters.git.repo.READ_LIMIT", 4096)
    go(repo)


def test_a_dump_that_nobody_overwrites_is_not_read(repo: Path) -> None:
    with (repo / "dump").open("wb") as dump:
        dump.truncate(2**40)
    (repo / "note").write_text("mine\n")
    go(repo, timeout="20s")
    assert git(repo, "ls-tree", "--name-only", SAVED).split() == ["app", "file1", "file2", "file3", "note"]
    assert (repo / "dump").stat().st_size == 2**40


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _fixed(path: Path) -> None:
    if subprocess.run(["chattr", "+i", path], check=False).returncode:
        pytest.skip("this file system has no immutable files")


def _only_in_the_target(path: Path) -> None:
    git(path.parent, "rm", "--quiet", "app")
    commit(path.parent, "without it", 4)
    os.mkfifo(path)


def _in_a_fixed_directory(path: Path) -> None:
    _fixed(path.parent)


@pytest.mark.needs("root", "chattr")
@pytest.mark.parametrize(
    ("made", "why"),
    [
        (_pipe, "/app is a pipe"),
        (_only_in_the_target, "/app is a pipe"),
        (_fixed, "/app is immutable"),
        (_in_a_fixed_directory, " is immutable"),
    ],
    ids=["pipe", "untracked", "immutable", "in an immutable directory"],
)
def test_what_cannot_give_way_is_refused_before_anything_begins(
    repo: Path, made: Callable[[Path], None], why: str
) -> None:
    made(repo / "app")
    try:
        with pytest.raises(AdapterError, match=rf"{repo}{why}.* so nothing was touched; move it away") as raised:
            finish(planned(layer(repo), Release(tree(repo, "v2"))))
    finally:
        subprocess.run(["chattr", "-i", repo, repo / "app"], check=False, capture_output=True)
    assert raised.value.permanent


def test_a_work_tree_that_is_elsewhere_is_told(repo: Path) -> None:
    git(repo, "config", "core.worktree", str(repo.parent))
    (problem,) = finish(layer(repo).ready())
    assert problem.text == (
        f"{repo}: its files are elsewhere, in {repo.parent} (core.worktree); name that one as `repo`"
    )


def test_what_a_partial_clone_left_at_its_remote_is_fetched_before_anything_moves(repo: Path, tmp_path: Path) -> None:
    clone, away = tmp_path / "partial", tmp_path / "away"
    git(repo, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", f"file://{repo}", str(clone))
    repo.rename(away)
    with pytest.raises(AdapterError, match="could not fetch"):
        go(clone)
    assert git(clone, "status", "--porcelain") == ""
    away.rename(repo)
    go(clone, key=ELSEWHERE)


def test_repositories_that_lie_in_the_tree_are_left_alone(repo: Path) -> None:
    for name in ("empty", "clone"):
        git(repo, "init", "--quiet", name)
        (repo / name / "work").write_text("theirs\n")
    commit(repo / "clone", "theirs", 9)
    (repo / "app").write_text("edited\n")
    go(repo)
    assert {(repo / name / "work").read_text() for name in ("empty", "clone")} == {"theirs\n"}
    assert git(repo, "ls-tree", "--name-only", SAVED).split() == ["app", "file1", "file2", "file3"]


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("lib", "is a submodule with uncommitted work where"),
        ("lib/code", "is a repository of its own where the target"),
    ],
)
def test_a_repository_where_the_target_has_files_stops_it_before_anything_is_touched(
    repo: Path, at: str, why: str
) -> None:
    (repo / "lib").mkdir()
    (repo / "lib" / "code").write_text("ours\n")
    commit(repo, "with a lib", 4)
    git(repo, "tag", "v4")
    git(repo, "rm", "--quiet", "-r", "lib")
    git(repo, "commit", "--quiet", "--message", "without")
    git(repo, "init", "--quiet", at)
    theirs = repo / at / "code"
    theirs.write_text("theirs\n")
    with pytest.raises(AdapterError, match=f"{repo}/{at} {why}") as refused:
        go(repo, "v4")
    assert refused.value.permanent
    assert theirs.read_text() == "theirs\n"
    assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "main")


def test_what_cannot_come_back_by_itself_is_said_in_the_plan(repo: Path) -> None:
    adapter = layer(repo)
    assert finish(adapter.plan(Release(tree(repo, "v2")))).aside == ""
    (repo / "app").write_text("edited\n")
    change = finish(adapter.plan(Release(tree(repo, "v2"))))
    aside = change.aside
    assert as_one("code", change.after, {"web1": change}, ()).aside == f"web1: {aside}", "of another host too"
    assert aside == f"1 uncommitted change(s) in {repo} would not come back by themselves; commit or remove them first"


def test_what_was_uncommitted_in_the_paths_can_be_gone_back_to(repo: Path) -> None:
    (repo / "app").write_text("edited by hand\n")
    adapter = layer(repo, paths=["app"])
    before = finish(adapter.current())
    there = finish(planned(adapter, next(one for one in finish(adapter.releases()) if one.label == "v2")))
    assert there.aside == ""
    finish(adapter.apply(there))
    back = finish(planned(adapter, before, ELSEWHERE))
    finish(adapter.apply(back))
    assert (repo / "app").read_text() == "edited by hand\n"
    assert finish(adapter.current()) == before


def test_saved_work_is_on_the_disk_before_anything_is_overwritten(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git itself would leave it to the system when to write: a power cut could take the old and the saved one."""
    trace = repo.parent / "trace"
    (repo.parent / ".gitconfig").write_text(f"[trace2]\n\teventTarget = {trace}\n")
    monkeypatch.setenv("HOME", str(repo.parent))
    (repo / "app").write_text("edited\n")
    go(repo)
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    names = {event["sid"]: event["name"] for event in events if event["event"] == "cmd_name"}
    flushed = {names[event["sid"]] for event in events if event.get("category") == "fsync"}
    assert flushed >= {"add", "commit-tree", "update-ref"}


# -- HEAD ---------------------------------------------------------------------------------------
def test_who_goes_back_to_where_a_branch_was_left_is_on_the_branch_again(repo: Path) -> None:
    for on_branch in (False, True):
        go(repo, on_branch=on_branch)
        assert git(repo, "branch", "--show-current") == ("rollback/contract-1" if on_branch else "")
        go(repo, "v3", ELSEWHERE, on_branch=on_branch)
        assert git(repo, "branch", "--show-current") == "main"
        shutil.rmtree(repo.parent / "scratch")


def test_a_branch_that_moved_meanwhile_is_not_taken_up_again(repo: Path) -> None:
    go(repo)
    git(repo, "branch", "--force", "main", "v1")
    go(repo, "v3", ELSEWHERE)
    assert git(repo, "branch", "--show-current") == ""


def test_a_branch_that_cannot_be_made_leaves_head_detached(repo: Path) -> None:
    git(repo, "branch", "rollback")
    go(repo, on_branch=True)
    assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "v2")
    assert git(repo, "branch", "--show-current") == ""


def test_the_lock_of_a_branch_that_a_killed_git_left_is_removed(repo: Path) -> None:
    heads = repo / ".git" / "refs" / "heads"
    for name in ("rollback", "emergency"):
        (heads / name).mkdir()
        (heads / name / "contract-1.lock").touch()
    go(repo, on_branch=True, emergency=True)
    assert git(repo, "branch", "--show-current") == "rollback/contract-1"
    assert git(repo, "rev-parse", "emergency/contract-1") == git(repo, "rev-parse", "v3")


# -- what can be gone back to -------------------------------------------------------------------
def test_a_tag_is_found_however_many_commits_came_after_it(repo: Path) -> None:
    for number in range(4, 9):
        commit(repo, f"c{number}", number, app=f"{number}\n")
    git(repo, "checkout", "--quiet", "--detach")
    (repo / ".git" / "logs" / "HEAD").unlink()
    labels = [release.label for release in finish(layer(repo, keep_looking=3).releases())]
    assert labels[-3:] == ["v3", "v2", "v1"]
    with pytest.raises(AdapterError, match="is not among the newest 3 commits, and no tag or earlier HEAD has it"):
        finish(layer(repo, keep_looking=3).plan(Release(tree(repo, "HEAD~4"))))


def test_a_target_whose_objects_are_gone_is_no_target(repo: Path) -> None:
    git(repo, "repack", "-ad", "--quiet")
    pack = next((repo / ".git" / "objects" / "pack").glob("*.pack"))
    shutil.move(pack, repo.parent / "pack")
    with (repo.parent / "pack").open("rb") as file:
        subprocess.run(["git", "unpack-objects", "-q"], cwd=repo, stdin=file, check=True)
    blob = git(repo, "rev-parse", "v2:app")
    (repo / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(
        AdapterError, match=r"objects of .* are missing: .*; fetch them again, or go to another"
    ) as failed:
        finish(layer(repo).plan(Release(tree(repo, "v2"))))
    assert failed.value.permanent
    assert finish(layer(repo).plan(Release(tree(repo, "v1")))).after.label == "v1"


def test_a_snapshot_of_a_shallow_clone_is_tried_out_and_not_exported(repo: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=2", f"file://{repo}", "shallow")
    adapter = layer(tmp_path / "shallow")
    name = finish(adapter.take()).name
    assert finish(adapter.verify(name)) == finish(adapter.rehearse(name)) == []
    with pytest.raises(AdapterError, match="a shallow clone has not all of its history; run `git fetch --unshallow`"):
        finish(adapter.export_to(name, str(tmp_path / "file")))


# -- whose files --------------------------------------------------------------------------------
@pytest.fixture
def shared() -> Iterator[Path]:
    """A repository that another user reaches too."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        yield new_repository(Path(root) / "repo")


def given_to_nobody(repo: Path) -> None:
    for path in (repo.parent, repo, *repo.rglob("*")):
        os.lchown(path, 65534, 65534)


def as_nobody(work: Callable[[], list[str]]) -> list[str]:
    """What it says when another user than root does it."""
    answer, says = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(says, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(says)
    with os.fdopen(answer, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    found: list[str] = json.loads(said)
    return found


@pytest.mark.needs("root")
def test_what_root_writes_belongs_to_whose_repository_it_is(repo: Path) -> None:
    (repo / "app").write_text("edited\n")
    given_to_nobody(repo)
    (repo / "data").write_text("root's own, and not git's\n")
    adapter = layer(repo, emergency=True, on_branch=True)
    change = finish(planned(adapter, Release(git(repo, "-c", "safe.directory=*", "rev-parse", "v1^{tree}"))))
    finish(adapter.apply(change))
    finish(adapter.take())
    roots = [str(path.relative_to(repo)) for path in repo.rglob("*") if path.lstat().st_uid == 0]
    assert roots == ["data"]


@pytest.mark.needs("root")
def test_directories_that_may_not_be_written_are_named_before_anything_begins(shared: Path) -> None:
    (shared / "sub").mkdir()
    (shared / "sub" / "file").write_text("x\n")
    commit(shared, "a directory", 4)
    given_to_nobody(shared)
    os.chown(shared / "sub", 0, 0)
    texts = as_nobody(lambda: [problem.text for problem in finish(layer(shared).ready())])
    remedy = "give its user that right, or make the file system writable"
    assert texts == [f"{shared}/sub: rollbackd may not write there; {remedy}"]


@pytest.mark.needs("root")
def test_a_file_that_may_not_be_read_and_is_in_nobodys_way_stops_nothing(shared: Path) -> None:
    (shared / "notes").write_text("everybody's\n")
    given_to_nobody(shared)
    (shared / "secret").write_text("root's own\n")
    (shared / "secret").chmod(0o600)

    def saved() -> list[str]:
        go(shared)
        return git(shared, "ls-tree", "--name-only", SAVED).split()

    assert as_nobody(saved) == ["app", "file1", "file2", "file3", "notes"]
    assert (shared / "secret").read_text() == "root's own\n"


# -- remotes ------------------------------------------------------------------------------------
@pytest.fixture
def origin(repo: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", "--bare", str(repo), "origin.git")
    return tmp_path / "origin.git"


def test_a_mirror_pushes_only_its_branch(origin: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--mirror", str(origin), "mirror.git")
    adapter = layer(tmp_path / "mirror.git", strategy="revert", emergency=True)
    assert finish(adapter.ready()) == []
    finish(adapter.apply(finish(planned(adapter, Release(tree(origin, "v2"))))))
    assert tree(origin, "main") == tree(origin, "v2")
    assert git(origin, "for-each-ref", "--format=%(refname)").split() == [
        "refs/heads/emergency/contract-1", "refs/heads/main", "refs/tags/v1", "refs/tags/v2", "refs/tags/v3",
    ]  # fmt: skip


@pytest.mark.needs("root")
def test_why_a_remote_cannot_be_read_is_said(origin: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    adapter = layer(tmp_path / "clone", strategy="revert")
    os.chown(origin, 65534, 65534)
    with pytest.raises(AdapterError, match=r"fatal: detected dubious ownership in repository at '.*/origin.git'$"):
        finish(adapter.current())
    git(tmp_path / "clone", "remote", "set-url", "origin", "git@127.0.0.1:x/y.git")
    ssh = script(tmp_path / "ssh", "echo 'git@: Denied (key).' >&2", "exit 255")
    git(tmp_path / "clone", "config", "core.sshCommand", ssh)
    with pytest.raises(AdapterError, match=r"exit 128: git@: Denied \(key\)\.$"):
        finish(adapter.current())


# -- one repository, several layers -------------------------------------------------------------
LAYERS = """
daemon: {{mode: shadow, open_on_loopback: true}}
services:
  - name: checkout
    match: {{service: checkout}}
    layers:
      code: {{adapter: git, repo: {repo}}}
      config: {{adapter: git, repo: {repo}, paths: [config/]}}
      site: {{adapter: git, repo: {repo}, strategy: revert, branch: site}}
    plans: {plans}
    plan: first
    verify: {{checks: [{{tcp: 127.0.0.1:3000}}]}}
"""


def test_a_plan_that_moves_a_repository_has_its_parts_before_it(repo: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(LAYERS.format(repo=repo, plans="{first: [config], both: [config, code], site: [site]}"))
    load(config)
    config.write_text(LAYERS.format(repo=repo, plans="{first: [code, config]}"))
    with pytest.raises(ConfigErrors, match=rf'10:13: "code" moves all of git:{repo}, also "config"; name "config" bef'):
        load(config)
    config.write_text(LAYERS.format(repo=repo, plans="{}").replace("    plans: {}\n    plan: first\n", ""))
    with pytest.raises(ConfigErrors, match=r'6:5: "code" moves all of .*; name "config" before it'):
        load(config)


def test_a_look_that_has_to_read_all_contents_anew_has_the_time_that_the_layer_has(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repo, "config", "filter.slow.clean", "cat")
    commit(repo, "a large file", 10, **{".gitattributes": "model filter=slow\n", "model": "m\n"})
    commit(repo, "worse", 11, app="5\n")
    os.utime(repo / "model", (1, 1))
    git(repo, "config", "filter.slow.clean", "sleep 1; cat")
    monkeypatch.setattr("rollbackd_adapters.git.repo.LOOK_TIMEOUT", timedelta(milliseconds=700))
    go(repo, "HEAD~1", timeout="20s")
    assert (repo / "app").read_text() != "5\n"
