"""`paths` of adapter `git`: only these go back. The rest of the work tree, HEAD and the index stay as they are."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.testing import KEY, AdapterContract, World, finish, perform, place, planned
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import cut_off_before_the_checkout, git, script, tree
from tests.endings import at_the_end

pytestmark = pytest.mark.needs("git")

SAVED = f"refs/rollbackd/{safe_name(KEY)}/saved"


@cache
def _ids() -> dict[str, str]:
    """Release ids by tag."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = GitSettings.model_validate({"adapter": "git", "repo": _template(), "paths": ["config", "limits"]})
        return {release.label: release.id for release in finish(GitAdapter(settings, place(Path(scratch))).releases())}


@cache
def _template() -> Path:
    """A repository that is copied for each world."""
    repo = Path(tempfile.mkdtemp(prefix="rollbackd-paths-")) / "repo"
    at_the_end(lambda: shutil.rmtree(repo.parent))
    (repo / "config" / "sub").mkdir(parents=True)
    git(repo, "init", "--quiet", "--initial-branch=main")
    (repo / ".gitignore").write_text("*.local\n")
    for number in (1, 2, 3):
        (repo / "config" / "app.yml").write_text(f"limit: {number}\n")
        (repo / "config" / "sub" / f"only{number}").write_text(f"{number}\n")
        (repo / "limits").write_text(f"{number}\n")
        (repo / "app").write_text(f"code {number}\n")
        git(repo, "add", "--all")
        git(repo, "commit", "--quiet", "--message", f"release {number}")
        git(repo, "tag", f"v{number}")
        (repo / "config" / "sub" / f"only{number}").unlink()
    git(repo, "reset", "--quiet", "--hard")
    (repo / "app").write_text("code that is edited just now\n")
    return repo


class PathsWorld(World):
    """Three releases of a configuration beside an application."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repo = path / "repo"
        path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(_template(), self.repo, symlinks=True)
        self.built = path / "built"
        self.build = script(path / "build", "sleep 0.2", f"echo built >> {self.built}")
        self._timeout = "20s"
        self.ids = _ids()

    def adapter(self, **settings: Any) -> GitAdapter:
        known = {"adapter": "git", "repo": self.repo, "paths": ["config/", "limits"], "then": [[self.build]]}
        return GitAdapter(GitSettings.model_validate({**known, "timeout": self._timeout, **settings}), place(self.path))

    def files(self) -> dict[str, str]:
        config = self.repo / "config"
        found = {str(path.relative_to(self.repo)): path.read_text() for path in config.rglob("*") if path.is_file()}
        return found | {"limits": (self.repo / "limits").read_text()}

    def present(self) -> str:
        """By what the files say, without the adapter."""
        by_content = {f"limit: {number}\n": f"v{number}" for number in (1, 2, 3)}
        return self.ids.get(by_content.get((self.repo / "config" / "app.yml").read_text(), ""), "none of them")

    def target(self) -> Release:
        return Release(self.ids["v2"])

    def moved_by_somebody(self) -> None:
        git(self.repo, "checkout", "--quiet", "v1", "--", "config", "limits")
        for name in ("only2", "only3"):
            (self.repo / "config" / "sub" / name).unlink(missing_ok=True)

    def finished(self) -> int:
        return len(self.built.read_text().splitlines()) if self.built.exists() else 0

    def everything(self) -> object:
        objects = sorted(str(path) for path in (self.repo / ".git" / "objects").rglob("*"))
        return objects, git(self.repo, "for-each-ref"), git(self.repo, "status", "--porcelain"), self.finished()

    def break_it(self) -> None:
        (self.repo / ".git" / "MERGE_HEAD").write_text(git(self.repo, "rev-parse", "v1"))

    def hang(self) -> None:
        script(Path(self.build), "sleep 1000")
        self._timeout = "500ms"


class TestGitPaths(AdapterContract):
    def make_world(self, path: Path) -> World:
        return PathsWorld(path)

    @pytest.mark.parametrize("descending", [True], ids=["with all it started"])
    def test_killed_at_each_boundary_it_ends_right_in_the_next_life(self, tmp_path: Path, descending: bool) -> None:
        super().test_killed_at_each_boundary_it_ends_right_in_the_next_life(tmp_path, descending)


@pytest.fixture
def world(tmp_path: Path) -> PathsWorld:
    return PathsWorld(tmp_path)


def roll_back(world: PathsWorld, name: str = "v2", key: str = KEY) -> None:
    change = finish(planned(world.adapter(), Release(world.ids[name]), key))
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_only_the_paths_go_back_and_head_index_and_the_rest_stay(world: PathsWorld) -> None:
    (world.repo / "limits").write_text("9\n")
    git(world.repo, "add", "limits")
    before = git(world.repo, "rev-parse", "HEAD"), git(world.repo, "ls-files", "--stage")
    roll_back(world)
    assert world.files() == {"config/app.yml": "limit: 2\n", "config/sub/only2": "2\n", "limits": "2\n"}
    assert (world.repo / "app").read_text() == "code that is edited just now\n"
    assert (git(world.repo, "rev-parse", "HEAD"), git(world.repo, "ls-files", "--stage")) == before
    assert git(world.repo, "show", f"{SAVED}:limits") == "9"
    assert git(world.repo, "symbolic-ref", "HEAD") == "refs/heads/main"


def test_what_is_there_counts_committed_or_not(world: PathsWorld) -> None:
    assert finish(world.adapter().current()).label == "v3"
    (world.repo / "config" / "new.yml").write_text("untracked\n")
    edited = finish(world.adapter().current())
    assert edited.label == "uncommitted"
    (world.repo / "config" / "new.yml").unlink()
    assert finish(world.adapter().current()).id == world.ids["v3"]
    (world.repo / "config" / "mine.local").write_text("ignored\n")
    (world.repo / "app").write_text("something else\n")
    assert finish(world.adapter().current()).id == world.ids["v3"], "neither what is ignored nor the rest counts"
    assert edited.id not in world.ids.values()


def test_files_that_the_target_has_not_are_removed_and_those_that_git_ignores_are_not(world: PathsWorld) -> None:
    (world.repo / "config" / "sub" / "untracked").write_text("nobody has added this\n")
    (world.repo / "config" / "mine.local").write_text("ignored\n")
    change = finish(planned(world.adapter(), world.target()))
    assert "2 uncommitted" not in str(change.risks)
    assert "1 uncommitted change(s)" in str(change.risks), "only those at the paths count"
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.files() == {
        "config/app.yml": "limit: 2\n",
        "config/sub/only2": "2\n",
        "config/mine.local": "ignored\n",
        "limits": "2\n",
    }
    assert git(world.repo, "show", f"{SAVED}:config/sub/untracked") == "nobody has added this"


def test_a_release_is_what_the_paths_have_so_commits_that_leave_them_alone_are_one(world: PathsWorld) -> None:
    git(world.repo, "commit", "--quiet", "--all", "--message", "only code")
    git(world.repo, "tag", "code-only")
    git(world.repo, "rm", "-r", "--quiet", "config", "limits")
    git(world.repo, "commit", "--quiet", "--message", "no configuration at all")
    releases = finish(world.adapter().releases())
    assert [release.id for release in releases] == [world.ids[name] for name in ("v3", "v2", "v1")]
    assert {"code-only", "v3", git(world.repo, "rev-parse", "v3")} <= set(releases[0].names)
    gone = finish(world.adapter().current())
    assert gone.label == "uncommitted"
    roll_back(world, "v3")
    assert world.files()["config/app.yml"] == "limit: 3\n"


def test_a_directory_where_the_target_has_a_file_gives_way(world: PathsWorld) -> None:
    (world.repo / "limits").unlink()
    (world.repo / "limits").mkdir()
    (world.repo / "limits" / "inner").write_text("somebody's\n")
    roll_back(world)
    assert (world.repo / "limits").read_text() == "2\n"
    assert git(world.repo, "show", f"{SAVED}:limits/inner") == "somebody's"


def test_a_mixture_that_a_kill_left_is_finished_and_the_first_work_is_kept(world: PathsWorld) -> None:
    (world.repo / "limits").write_text("the original work\n")
    change = finish(planned(world.adapter(), world.target()))
    cut_off_before_the_checkout(world.adapter().apply(change), world.path)
    (world.repo / "config" / "sub" / "only3").write_text("half of it\n")
    (world.repo / "config" / "app.yml").unlink()
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.files() == {"config/app.yml": "limit: 2\n", "config/sub/only2": "2\n", "limits": "2\n"}
    assert git(world.repo, "show", f"{SAVED}:limits") == "the original work"
    assert git(world.repo, "show", f"{SAVED}-2:config/sub/only3") == "half of it"


def test_then_that_writes_into_the_paths_is_told(world: PathsWorld) -> None:
    script(Path(world.build), "echo generated > config/generated")
    change = finish(planned(world.adapter(), world.target()))
    with pytest.raises(AdapterError, match=r"`then` changed what lies at `paths`.*files that git ignores") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent


def test_code_and_configuration_of_one_repository_can_be_two_layers(world: PathsWorld) -> None:
    code = GitAdapter(
        GitSettings.model_validate({"adapter": "git", "repo": world.repo}), place(world.path, layer="code")
    )
    assert code.resource != world.adapter().resource
    roll_back(world, "v2")  # this alone did not help
    roll_back(world, "v1", "contract-1/1/config")
    change = finish(planned(code, Release(tree(world.repo, "v1")), "contract-1/1/code"))
    assert "uncommitted change(s)" in str(change.risks)
    assert finish(perform(code, change)) is Progress.DONE
    assert finish(world.adapter().current()).id == world.ids["v1"]
    assert git(world.repo, "status", "--porcelain") == ""


def test_a_submodule_in_the_paths_is_a_problem_that_is_named(world: PathsWorld) -> None:
    head = git(world.repo, "rev-parse", "HEAD")
    git(world.repo, "update-index", "--add", "--cacheinfo", f"160000,{head},config/module")
    (problem,) = finish(world.adapter().ready())
    assert "config/module is a submodule, which git leaves alone" in problem.text


def test_a_path_that_git_ignores_is_a_problem_that_is_named(world: PathsWorld) -> None:
    (problem,) = finish(world.adapter(paths=["config", "mine.local"]).ready())
    assert "mine.local is ignored by git, so it has no releases" in problem.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": ["/etc"]}, '"/etc" is not a path inside the repository'),
        ({"paths": ["config/../.."]}, "is not a path inside"),
        ({"paths": [".git/config"]}, "is not a path inside"),
        ({"paths": ["."]}, "is not a path inside"),
        ({"paths": ["config", "config/app.yml"]}, '"config/app.yml" is named twice'),
        ({"paths": ["config/", "config"]}, '"config" is named twice'),
        ({"paths": ["config"], "strategy": "revert"}, "`paths` is for a work tree"),
        ({"paths": ["config"], "on_branch": True}, "`on_branch` moves HEAD"),
    ],
)
def test_paths_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        GitSettings.model_validate({"adapter": "git", "repo": "/srv/checkout", **settings})
    assert message in str(failed.value)
