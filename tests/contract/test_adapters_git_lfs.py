"""Adapter `git` on repositories with Git LFS and with submodules: what is claimed is what lies there."""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.system.spawner import Spawner
from rollbackd.testing import KEY, finish, perform, place, planned
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import commit, git, new_repository, script, tree
from tests.photograph import differences, photograph

pytestmark = pytest.mark.needs("git", "git-lfs")

POINTER = "version https://git-lfs.github.com/spec/v1\n"
SAVED = f"refs/rollbackd/{safe_name(KEY)}/saved"


def layer(path: Path, repo: Path, **settings: Any) -> GitAdapter:
    """Nobody's configuration of git counts but the repository's, and what is in `gitconfig`."""
    (path / "gitconfig").touch()

    class Alone(Spawner):
        @staticmethod
        def environment(extra: Any = None) -> dict[str, str]:
            own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(path / "gitconfig")}
            return Spawner.environment(extra) | own

    known = place(path)
    there = replace(known, spawner=Alone(path / "locks", known.clock))
    return GitAdapter(GitSettings.model_validate({"adapter": "git", "repo": repo, "timeout": "20s", **settings}), there)


class AssetsWorld:
    """A clone at v3 whose `big.bin` is in LFS; what the older releases have in it is only on the server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repo = path / "repo"
        self.origin = path / "origin.git"
        self.big = self.repo / "big.bin"
        git(self.repo, "remote", "set-url", "origin", f"file://{self.origin}")
        self.v1, self.v3 = (Release(tree(self.repo, tag)) for tag in ("v1", "v3"))

    def adapter(self, **settings: Any) -> GitAdapter:
        return layer(self.path, self.repo, **settings)

    def lose(self) -> Path:
        """The server has nothing any more; where it went."""
        return (self.origin / "lfs").rename(self.path / "lost")

    def status(self) -> str:
        return git(self.repo, "status", "--porcelain")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("assets")
    work = path / "work"
    work.mkdir()
    git(work, "init", "--quiet", "--initial-branch=main")
    git(work, "lfs", "install", "--local")
    git(work, "lfs", "track", "*.bin")
    for number in (1, 2, 3):
        commit(work, f"release {number}", number, **{"big.bin": f"big {number}\n", "app": f"version {number}\n"})
        git(work, "tag", f"v{number}")
    git(path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(work, "remote", "add", "origin", f"file://{path / 'origin.git'}")
    git(work, "push", "--quiet", "--tags", "origin", "main")
    git(path, "clone", "--quiet", f"file://{path / 'origin.git'}", "repo")
    git(path / "repo", "lfs", "install", "--local")
    git(path / "repo", "lfs", "pull")
    return path


@pytest.fixture
def assets(template: Path, tmp_path: Path) -> AssetsWorld:
    for name in ("repo", "origin.git"):
        shutil.copytree(template / name, tmp_path / name)
    return AssetsWorld(tmp_path)


# -- LFS ----------------------------------------------------------------------------------------
def test_a_release_gets_its_contents_from_the_server(assets: AssetsWorld) -> None:
    adapter = assets.adapter()
    assert finish(adapter.ready()) == []
    change = finish(planned(adapter, assets.v1))
    assert finish(perform(adapter, change)) is Progress.DONE
    assert assets.big.read_text() == "big 1\n"
    assert assets.status() == ""
    assert finish(adapter.current()) == assets.v1
    assert git(assets.repo, "for-each-ref", "refs/rollbackd") == ""


def test_contents_that_cannot_be_had_are_found_missing_before_anything_is_touched(assets: AssetsWorld) -> None:
    lost = assets.lose()
    adapter = assets.adapter()
    change = finish(planned(adapter, assets.v1))
    for _ in range(2):
        with pytest.raises(AdapterError, match=r"keeps in Git LFS cannot be had, .*remote missing object") as failed:
            finish(adapter.apply(change))
        assert not failed.value.permanent
        assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    assert (assets.big.read_text(), (assets.repo / "app").read_text()) == ("big 3\n", "version 3\n")
    assert finish(adapter.current()) == assets.v3
    assert assets.status() == ""
    assert git(assets.repo, "for-each-ref", "refs/rollbackd") == ""
    shutil.copytree(lost, assets.origin / "lfs", dirs_exist_ok=True)
    assert finish(perform(adapter, change)) is Progress.DONE
    assert assets.big.read_text() == "big 1\n"


def test_pointers_never_pass_for_the_release(assets: AssetsWorld) -> None:
    git(assets.repo, "lfs", "uninstall", "--local")
    adapter = assets.adapter()
    (problem,) = finish(adapter.ready())
    assert "its files in Git LFS would become pointers" in problem.text
    assert problem.text.endswith("run `git lfs install --system`")
    change = finish(planned(adapter, assets.v1))
    with pytest.raises(
        AdapterError, match=r"of 1 file\(s\) in Git LFS only the pointers are there \(big.bin\)"
    ) as failed:
        finish(adapter.apply(change))
    assert failed.value.permanent
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    git(assets.repo, "lfs", "install", "--local")
    git(assets.repo, "lfs", "pull")
    assert finish(perform(adapter, change)) is Progress.DONE
    assert assets.big.read_text() == "big 1\n"


def test_pointers_may_lie_where_they_lay_and_where_git_lfs_leaves_them(assets: AssetsWorld) -> None:
    git(assets.repo, "config", "lfs.fetchexclude", "*.bin")
    assert finish(perform(assets.adapter(), finish(planned(assets.adapter(), assets.v1)))) is Progress.DONE
    assert assets.big.read_text().startswith(POINTER)
    git(assets.repo, "config", "--unset", "lfs.fetchexclude")
    git(assets.repo, "lfs", "install", "--local", "--force", "--skip-smudge")
    assert finish(assets.adapter().ready()) == []
    back = finish(planned(assets.adapter(), assets.v3, "other-1/0/code"))
    assert finish(perform(assets.adapter(), back)) is Progress.DONE
    assert assets.big.read_text().startswith(POINTER)


def test_what_is_left_out_is_for_then(assets: AssetsWorld) -> None:
    git(assets.repo, "lfs", "install", "--local", "--force", "--skip-smudge")
    adapter = assets.adapter(then=[["git", "lfs", "pull"]])
    assert finish(perform(adapter, finish(planned(adapter, assets.v1)))) is Progress.DONE
    assert (assets.big.read_text(), assets.status()) == ("big 1\n", "")


def test_uncommitted_work_in_lfs_is_saved_and_comes_back(assets: AssetsWorld) -> None:
    assets.big.write_text("work\n")
    (assets.repo / "new.bin").write_text("new work\n")
    adapter = assets.adapter()
    assert finish(perform(adapter, finish(planned(adapter, assets.v1)))) is Progress.DONE
    assert assets.big.read_text() == "big 1\n"
    git(assets.repo, "checkout", "--quiet", "--force", "v3")
    (assets.repo / "new.bin").unlink(missing_ok=True)
    git(assets.repo, "stash", "apply", "--quiet", SAVED)
    assert assets.big.read_text() == "work\n"
    assert (assets.repo / "new.bin").read_text() == "new work\n"


def test_work_that_the_filter_cannot_save_stops_the_rollback(assets: AssetsWorld) -> None:
    git(assets.repo, "config", "filter.lfs.process", "false")
    git(assets.repo, "config", "filter.lfs.clean", "false")
    assets.big.write_text("work\n")
    change = finish(planned(assets.adapter(), assets.v1))
    with pytest.raises(AdapterError):
        finish(assets.adapter().apply(change))
    assert assets.big.read_text() == "work\n"
    assert finish(assets.adapter().progress(change)) is Progress.NOT_STARTED


class Locked(BaseHTTPRequestHandler):
    """A server of LFS that wants a password."""

    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append(self.headers.get("Authorization", ""))
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="lfs"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def locked() -> Iterator[HTTPServer]:
    handler = type("Own", (Locked,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


def test_a_server_that_wants_a_password_is_not_waited_for(assets: AssetsWorld, locked: HTTPServer) -> None:
    git(assets.repo, "config", "lfs.url", f"http://127.0.0.1:{locked.server_address[1]}/lfs")
    assets.big.write_text("work\n")
    change = finish(planned(assets.adapter(), assets.v1))
    with pytest.raises(AdapterError, match="cannot be had") as failed:
        finish(assets.adapter().apply(change))
    assert "took longer than its limit" not in str(failed.value)
    assert assets.big.read_text() == "work\n"
    asked: list[str] = locked.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert set(asked) == {""}, "no password was made up"


def test_a_snapshot_is_rehearsed_with_its_contents(assets: AssetsWorld) -> None:
    adapter = assets.adapter()
    git(assets.repo, "config", "--file", str(assets.path / "gitconfig"), "filter.lfs.process", "git-lfs filter-process")
    git(assets.repo, "config", "--file", str(assets.path / "gitconfig"), "filter.lfs.required", "true")
    made = finish(adapter.take())
    assert finish(adapter.verify(made.name)) == []
    assert finish(adapter.rehearse(made.name)) == []
    assets.lose()
    shutil.rmtree(assets.repo / ".git" / "lfs" / "objects")
    (problem,) = finish(adapter.rehearse(made.name))
    assert "keeps in Git LFS cannot be had" in problem.text


def test_a_lost_work_tree_is_not_cloned_anew_with_pointers_alone(assets: AssetsWorld) -> None:
    adapter = assets.adapter(restore_from="origin")
    finish(adapter.releases())
    shutil.rmtree(assets.repo / ".git")
    change = finish(planned(adapter, assets.v1))
    with pytest.raises(AdapterError, match="only the pointers are there"):
        finish(adapter.apply(change))
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    git(assets.repo, "lfs", "install", "--local")
    git(assets.repo, "lfs", "pull")
    assert finish(perform(adapter, change)) is Progress.DONE
    assert assets.big.read_text() == "big 1\n"


def test_a_revert_brings_back_what_the_server_still_has(assets: AssetsWorld) -> None:
    adapter = assets.adapter(strategy="revert")
    assert finish(perform(adapter, finish(planned(adapter, assets.v1)))) is Progress.DONE
    assert finish(adapter.current()) == assets.v1
    assert assets.big.read_text() == "big 3\n", "no work tree is touched"
    git(assets.repo, "pull", "--quiet", "--ff-only", "origin", "main")
    assert assets.big.read_text() == "big 1\n"


# -- submodules ---------------------------------------------------------------------------------
class LibraryWorld:
    """`lib` was files in v1, and is a submodule at its own v1 in v2 and at its own v3 in v3, where HEAD is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        module = new_repository(path / "module")
        self.repo = path / "repo"
        self.lib = self.repo / "lib"
        self.lib.mkdir(parents=True)
        git(self.repo, "init", "--quiet", "--initial-branch=main")
        (self.lib / "app").write_text("vendored\n")
        commit(self.repo, "files", 1, app="1\n")
        git(self.repo, "tag", "v1")
        git(self.repo, "rm", "-r", "--quiet", "lib")
        add = ("submodule", "--quiet", "add", str(module), "lib")
        git(self.repo, "-c", "protocol.file.allow=always", *add)
        for number, own in ((2, "v1"), (3, "v3")):
            git(self.lib, "checkout", "--quiet", own)
            commit(self.repo, f"release {number}", number, app=f"{number}\n")
            git(self.repo, "tag", f"v{number}")

    def adapter(self, **settings: Any) -> GitAdapter:
        return layer(self.path, self.repo, **settings)

    def release(self, tag: str) -> Release:
        return Release(tree(self.repo, tag))


@pytest.fixture
def library(tmp_path: Path) -> LibraryWorld:
    return LibraryWorld(tmp_path)


def test_a_submodule_stays_as_it_is_and_the_plan_says_what_then_has_to_do(library: LibraryWorld) -> None:
    adapter = library.adapter()
    change = finish(planned(adapter, library.release("v2")))
    wanted = git(library.repo, "rev-parse", "v2:lib")
    (risk,) = change.risks
    assert risk.startswith(f"lib is a submodule, which git leaves as it is; this release has {wanted[:10]} there: let")
    assert finish(perform(adapter, change)) is Progress.DONE
    assert finish(adapter.current()) == library.release("v2")
    assert (library.lib / "app").read_text() == "version 3\n"
    back = finish(planned(adapter, library.release("v3"), "other-1/0/code"))
    assert finish(perform(adapter, back)) is Progress.DONE
    assert finish(adapter.current()) == library.release("v3")
    assert git(library.repo, "status", "--porcelain") == ""


def test_then_brings_a_submodule_to_where_the_release_has_it(library: LibraryWorld) -> None:
    adapter = library.adapter(then=[["git", "submodule", "update", "--init"]])
    assert finish(perform(adapter, finish(planned(adapter, library.release("v2"))))) is Progress.DONE
    assert (library.lib / "app").read_text() == "version 1\n"
    assert git(library.repo, "status", "--porcelain") == ""
    assert finish(adapter.current()) == library.release("v2")


def test_files_take_the_place_of_a_submodule_that_has_all_of_its_own(library: LibraryWorld) -> None:
    adapter = library.adapter()
    change = finish(planned(adapter, library.release("v1")))
    (library.lib / "app").write_text("work in the library\n")
    with pytest.raises(
        AdapterError, match="repo/lib is a submodule with uncommitted work where this release"
    ) as failed:
        finish(adapter.apply(change))
    assert failed.value.permanent
    assert (library.lib / "app").read_text() == "work in the library\n"
    assert git(library.repo, "rev-parse", "HEAD") == git(library.repo, "rev-parse", "v3")
    git(library.lib, "checkout", "--quiet", "app")
    assert finish(perform(adapter, change)) is Progress.DONE
    assert (library.lib / "app").read_text() == "vendored\n"
    left = git(library.repo, "status", "--porcelain").split("\n")
    assert left == [f"?? lib/file{number}" for number in (1, 2, 3)], "what else the submodule had"


def test_a_revert_takes_a_submodule_s_commit_back(library: LibraryWorld) -> None:
    git(library.path, "clone", "--quiet", "--bare", str(library.repo), "origin.git")
    git(library.repo, "remote", "add", "origin", str(library.path / "origin.git"))
    adapter = library.adapter(strategy="revert")
    assert finish(perform(adapter, finish(planned(adapter, library.release("v2"))))) is Progress.DONE
    assert finish(adapter.current()) == library.release("v2")
    assert git(library.path / "origin.git", "rev-parse", "main:lib") == git(library.repo, "rev-parse", "v2:lib")
    assert (library.lib / "app").read_text() == "version 3\n"


# -- looks --------------------------------------------------------------------------------------
@pytest.mark.parametrize("paths", [(), ("big.bin", "app")], ids=["whole", "paths"])
def test_files_with_other_times_are_read_by_one_look_and_by_none_after_it(
    assets: AssetsWorld, paths: tuple[str, ...]
) -> None:
    log = assets.path / "cleaned"
    clean = script(assets.path / "clean", f'echo "$1" >> {log}', 'exec git-lfs clean -- "$1"')
    git(assets.repo, "config", "--unset", "filter.lfs.process")
    git(assets.repo, "config", "filter.lfs.clean", f"{clean} %f")
    for path in (assets.repo / "big.bin", assets.repo / "app"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    before = photograph(assets.repo)
    for number in range(3):
        adapter = assets.adapter(paths=paths)
        finish(adapter.current())
        change = finish(planned(adapter, finish(adapter.releases())[-1]))
        finish(adapter.plan(change.after))
        assert not [risk for risk in change.risks if "uncommitted" in risk]
        assert differences(before, photograph(assets.repo)) == {}
        read = log.read_text().splitlines().count("big.bin") if log.exists() else 0
        assert read <= number + 1, "each life compares once"
    assert read > 0
