"""What a rollback of a work tree changes is what its plan told, in owners and modes too; and back again it is as before."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress, Release
from rollbackd.testing import finish, perform, planned
from rollbackd_adapters.git import GitAdapter
from tests.contract.test_adapters_git import git_layer
from tests.contract.worlds import commit, git, new_repository, tree
from tests.photograph import assert_as_before, assert_told, differences, photograph

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


# -- owners and modes ---------------------------------------------------------------------------
@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _goes(layer: GitAdapter, to: str, key: str = "shop-1/0/layer") -> Change:
    change = finish(planned(layer, Release(to), key=key))
    assert finish(perform(layer, change)) is Progress.DONE
    return change


@pytest.mark.needs("root")
@pytest.mark.parametrize("paths", [(), ("app", "bin", "views")], ids=["whole", "paths"])
def test_files_keep_their_owners_and_modes_and_the_untouched_their_inodes(
    tmp_path: Path, paths: tuple[str, ...]
) -> None:
    repo = new_repository(tmp_path / "repo")
    for name in ("bin", "views"):
        (repo / name).mkdir()
    (repo / "bin" / "nightly").write_text("#!/bin/sh\n")
    (repo / "bin" / "nightly").chmod(0o755)
    commit(repo, "a program", 10, **{"views/index": "1\n", "app": "4\n"})
    first, named = tree(repo, "HEAD"), git(repo, "rev-parse", "HEAD")
    commit(repo, "another page", 11, **{"views/index": "22\n", "app": "5\n"})
    subprocess.run(["chown", "-R", "nobody:nogroup", repo], check=True)
    os.chown(repo / "bin" / "nightly", 0, 0)
    (repo / "bin" / "nightly").chmod(0o4755)
    shutil.chown(repo / "views", group="www-data")
    (repo / "views").chmod(0o2750)
    shutil.chown(repo / "views" / "index", "games", "www-data")
    (repo / "views" / "index").chmod(0o640)
    os.setxattr(repo / "app", "user.note", b"of this host")
    before = photograph(repo, without=[repo / ".git"])
    layer = git_layer(tmp_path, repo, paths=paths)
    target = next(each.id for each in finish(layer.releases()) if named in each.names)
    with _umask(0o077):
        _goes(layer, target)
    assert paths or target == first
    assert (repo / "views" / "index").read_text() == "1\n"
    found = differences(before, photograph(repo, without=[repo / ".git"]))
    assert {str(Path(path).relative_to(repo)) for path in found} == {"app", "views/index"}
    assert all({*what} <= {"content", "inode"} for what in found.values()), found
    owners = {path.lstat().st_uid for path in (repo / ".git").rglob("*")}
    assert owners == {repo.lstat().st_uid}, "its owner's git must be able to write there"


@pytest.mark.needs("root")
def test_what_is_new_is_as_its_neighbours_are_whatever_the_umask(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    (repo / "web" / "pages").mkdir(parents=True)
    commit(repo, "pages", 10, **{"web/a": "1\n", "web/b": "1\n", "web/pages/c": "1\n", "run": "#!/bin/sh\n"})
    (repo / "run").chmod(0o755)
    commit(repo, "a program", 11)
    wanted = tree(repo, "HEAD")
    git(repo, "rm", "-rq", "web/b", "web/pages", "run")
    commit(repo, "less", 12)
    subprocess.run(["chown", "-R", "nobody:nogroup", repo], check=True)
    shutil.chown(repo / "web", group="www-data")
    (repo / "web").chmod(0o2750)
    os.chown(repo / "web" / "a", repo.stat().st_uid, (repo / "web").stat().st_gid)
    (repo / "web" / "a").chmod(0o640)
    with _umask(0o077):
        _goes(git_layer(tmp_path, repo), wanted)
    seen = photograph(repo, without=[repo / ".git"])
    like, above = seen[f"{repo}/web/a"], seen[f"{repo}/web"]
    for name in ("web/b", "web/pages/c"):
        assert (seen[f"{repo}/{name}"].owner, seen[f"{repo}/{name}"].group) == (like.owner, like.group)
        assert seen[f"{repo}/{name}"].mode == 0o640
    assert (seen[f"{repo}/web/pages"].mode, seen[f"{repo}/web/pages"].group) == (0o2750, above.group)
    assert seen[f"{repo}/run"].mode == 0o755
    assert seen[f"{repo}/run"].owner == repo.stat().st_uid


def test_a_mode_that_would_not_come_back_and_a_further_name_are_told(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    (repo / "file3").chmod(0o600)
    (tmp_path / "elsewhere").hardlink_to(repo / "app")
    change = finish(git_layer(tmp_path, repo).plan(Release(tree(repo, "v2"))))
    assert f"file3 in {repo} would come back with another owner or mode; note what they have" in change.aside
    assert f"app in {repo} would come back without further names; link them anew" in change.aside
    assert any("hard links, which keep what they hold now: app" in risk for risk in change.risks)


@pytest.mark.needs("root")
def test_a_linked_work_tree_has_owners_of_its_own_and_no_branch_of_another(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    git(repo, "branch", "live", "v3")
    git(repo, "worktree", "add", "-q", str(tmp_path / "live"), "live")
    v3, v2 = tree(repo, "v3"), tree(repo, "v2")
    subprocess.run(["chown", "-R", "games:", tmp_path / "live"], check=True)
    subprocess.run(["chown", "-R", "nobody:", repo], check=True)
    layer = git_layer(tmp_path, tmp_path / "live", branch="live")
    _goes(layer, v2)
    assert (tmp_path / "live" / "app").stat().st_uid == (tmp_path / "live").stat().st_uid
    trusted = ("-c", "safe.directory=*")
    git(repo, *trusted, "worktree", "add", "-q", str(tmp_path / "other"), "live")
    _goes(layer, v3, key="shop-2/0/layer")
    assert git(tmp_path / "live", *trusted, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"
    assert git(tmp_path / "other", *trusted, "rev-parse", "--abbrev-ref", "HEAD") == "live"


# -- what git passes over -----------------------------------------------------------------------
SPELLINGS = {
    "line ends": "*.sh text eol=crlf\n",
    "line ends, deeper": None,
    "an encoding": "*.sh text working-tree-encoding=ISO-8859-1\n",
    "an id": "*.sh ident\n",
    "a filter": "*.sh filter=shout\n",
    "a macro": "[attr]windows text eol=crlf\n*.sh windows\n",
}


def _commit_index(repo: Path, **files: str) -> None:
    """A commit of these files on top of HEAD, whatever the attributes make of them on disk."""
    git(repo, "read-tree", "HEAD")
    for name, text in files.items():
        blob = git(repo, "hash-object", "-w", "--stdin", stdin=text)
        git(repo, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    made = git(repo, "commit-tree", "-p", "HEAD", "-m", "x", git(repo, "write-tree"))
    git(repo, "update-ref", "HEAD", made)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("paths", [(), ("lib",)], ids=["whole", "paths"])
def test_another_gitattributes_makes_other_files_there_and_back(
    tmp_path: Path, spelling: str, paths: tuple[str, ...]
) -> None:
    origin = new_repository(tmp_path / "origin")
    _commit_index(origin, **{"lib/run.sh": "#!/bin/sh\n# $Id$\necho \u00e9\n", "lib/other": "1\n", "app": "4\n"})
    text = SPELLINGS[spelling] or "run.sh eol=crlf\n"
    where = (
        "lib/.gitattributes" if SPELLINGS[spelling] is None or (paths and "macro" not in spelling) else ".gitattributes"
    )
    _commit_index(origin, **{where: text, "app": "5\n", "lib/other": "2\n"})
    if paths and where == ".gitattributes":  # only at the top can there be a macro, which no part of a tree brings
        return
    turn = "tr a-zA-Z n-za-mN-ZA-M"
    for name, commit_ in (("plain", "HEAD~1"), ("spelt", "HEAD"), ("repo", "HEAD")):
        settings_ = ("-c", f"filter.shout.smudge={turn}", "-c", f"filter.shout.clean={turn}")
        git(tmp_path, "clone", "-q", "--no-checkout", *settings_, str(origin), str(tmp_path / name))
        git(tmp_path / name, "checkout", "-q", "--detach", commit_)
    repo = tmp_path / "repo"
    layer = git_layer(tmp_path, repo, paths=paths)
    by_name = {name: each.id for each in finish(layer.releases()) for name in each.names}
    new, old = git(repo, "rev-parse", "HEAD"), git(repo, "rev-parse", "HEAD~1")
    before = photograph(repo, without=[repo / ".git"])
    change = _goes(layer, by_name[old])
    assert (repo / "lib" / "run.sh").read_bytes() == (tmp_path / "plain" / "lib" / "run.sh").read_bytes()
    if (repo / "lib" / "run.sh").read_bytes() != (tmp_path / "spelt" / "lib" / "run.sh").read_bytes():
        assert any("by its .gitattributes: lib/run.sh" in risk for risk in change.risks), change.risks
    moved = [repo / name for name in (where, "app", "lib/other", "lib/run.sh")]
    assert_told(before, photograph(repo, without=[repo / ".git"]), change, moved=moved)
    assert paths or git(repo, "status", "--porcelain") == ""
    _goes(layer, by_name[new], key="shop-2/0/layer")
    assert (repo / "lib" / "run.sh").read_bytes() == (tmp_path / "spelt" / "lib" / "run.sh").read_bytes()
    assert_as_before(before, photograph(repo, without=[repo / ".git"]), change, moved=moved)


def test_a_file_that_was_never_as_its_attributes_say_stops_nothing(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    git(repo, "config", "core.autocrlf", "false")
    (repo / "notes").write_bytes(b"from\r\nelsewhere\r\n")
    commit(repo, "as it came", 10)
    wanted = tree(repo, "HEAD")
    commit(repo, "normal from now on", 11, **{".gitattributes": "* text=auto\n", "app": "5\n"})
    _goes(git_layer(tmp_path, repo), wanted)
    _goes(git_layer(tmp_path, repo), tree(repo, "main"), key="shop-2/0/layer")


def test_a_filter_that_never_says_the_same_stops_nothing_and_one_that_harms_does(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    git(repo, "config", "filter.now.smudge", "date +%N; cat")
    git(repo, "config", "filter.now.clean", "sed 1d")
    commit(repo, "dated", 10, **{".gitattributes": "stamp filter=now\n", "stamp": "0\nx\n"})
    dated = tree(repo, "HEAD")
    git(repo, "rm", "-q", ".gitattributes")
    commit(repo, "plain", 11, app="5\n")
    _goes(git_layer(tmp_path, repo), dated)
    git(repo, "config", "filter.now.clean", "cat")
    _goes(git_layer(tmp_path, repo), tree(repo, "main"), key="shop-2/0/layer")
    git(repo, "config", "filter.now.clean", "date +%N; cat")
    layer = git_layer(tmp_path, repo)
    change = finish(planned(layer, Release(dated), key="shop-3/0/layer"))
    with pytest.raises(AdapterError, match=r"stamp differ from what .* has, though written again"):
        finish(layer.apply(change))


@pytest.mark.needs("root", "setpriv")
def test_who_is_not_root_keeps_modes_and_tells_that_owners_become_ours(tmp_path: Path) -> None:
    repo = new_repository(tmp_path / "repo")
    (repo / "app").chmod(0o640)
    subprocess.run(["chown", "-R", "games:games", tmp_path], check=True)
    shutil.chown(repo / "app", "nobody")
    for above in tmp_path.parents:
        if above.stat().st_mode & 0o055 != 0o055:
            above.chmod(above.stat().st_mode | 0o055)
    program = (
        "import sys; from pathlib import Path; from rollbackd.model import Release\n"
        "from rollbackd.testing import finish, perform, place, planned\n"
        "from rollbackd_adapters.git import GitAdapter, GitSettings\n"
        "path, tree = Path(sys.argv[1]), sys.argv[2]\n"
        "layer = GitAdapter(GitSettings(adapter='git', repo=path / 'repo'), place(path))\n"
        "change = finish(planned(layer, Release(tree)))\n"
        "print(change.aside); finish(perform(layer, change))\n"
    )
    v2 = git(repo, "-c", "safe.directory=*", "rev-parse", "v2^{tree}")
    done = subprocess.run(
        ["setpriv", "--reuid=games", "--regid=games", "--clear-groups", sys.executable, "-c", program, tmp_path, v2],
        capture_output=True, text=True, check=False, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"app in {repo} would come back with another owner or mode" in done.stdout
    status = (repo / "app").stat()
    assert (status.st_mode & 0o777, Path(repo / "app").owner()) == (0o640, "games")
