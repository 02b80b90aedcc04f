"""On any work tree, all that a rollback changed was told by its plan, and comes back or was told not to."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rollbackd.model import Progress, Release
from rollbackd.testing import finish, perform, planned
from tests.contract.test_adapters_git import git_layer
from tests.contract.worlds import commit, git, tree
from tests.photograph import Photograph, assert_as_before, assert_told, differences, photograph

pytestmark = pytest.mark.needs("git")

NAMES = ("alpha", "beta", "dir/gamma", "dir/delta", "dir/deep/eps", "zeta/eta", "zeta")
FILE = st.tuples(st.sampled_from(["file", "program", "link"]), st.sampled_from(["one", "two\n", ""]))
CONTENT = st.dictionaries(st.sampled_from(NAMES[:6]), FILE, max_size=6) | st.dictionaries(
    st.sampled_from((*NAMES[:5], NAMES[6])), FILE, max_size=6
)


@dataclass(frozen=True)
class Host:
    """What is this host's own in a work tree."""

    old: dict[str, tuple[str, str]]
    new: dict[str, tuple[str, str]]
    ignored: dict[str, tuple[str, str]]
    edited: dict[str, str]
    dresses: dict[str, tuple[int, int, int]]


HOSTS = st.builds(
    Host,
    CONTENT,
    CONTENT,
    st.dictionaries(st.sampled_from([*NAMES, "alpha/under", "dir/gamma/under"]), FILE, max_size=3),
    st.dictionaries(st.sampled_from(NAMES[:5]), st.just("edited\n"), max_size=1),
    st.dictionaries(
        st.sampled_from([*NAMES, "dir", "dir/deep"]),
        st.tuples(
            st.sampled_from([0, 65534, 5]),
            st.sampled_from([0, 65534, 33]),
            st.sampled_from([0o755, 0o640, 0o4755, 0o2775]),
        ),
        max_size=5,
    ),
)


def _write(repo: Path, name: str, what: tuple[str, str], *, over: bool = True) -> None:
    path = repo / name
    if any(
        above.is_symlink() or (above.exists() and not above.is_dir()) for above in [*path.parents][: name.count("/")]
    ):
        return
    if os.path.lexists(path) and (not over or (path.is_dir() and not path.is_symlink())):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    kind, text = what
    if kind == "link":
        path.symlink_to(text.strip() or "nowhere")
    else:
        path.write_text(text)
        path.chmod(0o755 if kind == "program" else 0o644)


def _commit_all(repo: Path, content: dict[str, tuple[str, str]], at: int) -> str:
    for name in git(repo, "ls-files").splitlines():
        (repo / name).unlink()
    for directory in ("dir/deep", "dir", "zeta"):
        if (repo / directory).is_dir():
            (repo / directory).rmdir()
    for name, what in content.items():
        _write(repo, name, what)
    commit(repo, f"content {at}", at, always=f"{at}\n")
    return tree(repo, "HEAD")


def _host(repo: Path, host: Host) -> tuple[str, str]:
    repo.mkdir()
    git(repo, "init", "-q", "--initial-branch=main")
    old, new = _commit_all(repo, host.old, 1), _commit_all(repo, host.new, 2)
    with (repo / ".git" / "info" / "exclude").open("a") as exclude:
        exclude.writelines(f"/{name}\n" for name in host.ignored)
    for name, text in host.edited.items():
        if (repo / name).is_file() and not (repo / name).is_symlink():
            (repo / name).write_text(text)
    for name, what in host.ignored.items():
        _write(repo, name, what, over=False)
    if os.geteuid() == 0:
        for name, (uid, gid, mode) in host.dresses.items():
            if os.path.lexists(repo / name):
                os.lchown(repo / name, uid, gid)
                if not (repo / name).is_symlink():
                    executable = (repo / name).is_dir() or (repo / name).stat().st_mode & 0o100
                    (repo / name).chmod(mode if executable else mode & 0o666)
    return old, new


def _seen(repo: Path) -> Photograph:
    return photograph(repo, without=[repo / ".git"])


@given(host=HOSTS)
@settings(
    max_examples=15,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_on_any_work_tree_all_that_changed_was_told_and_comes_back_or_not_as_told(tmp_path: Path, host: Host) -> None:
    root = Path(tmp_path / "root")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    repo = root / "repo"
    old, new = _host(repo, host)
    layer, before = git_layer(root, repo), _seen(repo)
    there = finish(planned(layer, Release(old), key="shop-1/0/layer"))
    assert differences(before, _seen(repo)) == {}
    finish(layer.apply(there))
    moved = [repo / name for name in git(repo, "diff", "--name-only", "--no-renames", old, new).splitlines()]
    assert_told(before, _seen(repo), there, moved=moved, whole=[repo])
    if not there.aside or finish(layer.progress(there)) is Progress.DONE:
        back = finish(planned(layer, Release(new), key="shop-2/0/layer"))
    assert finish(perform(layer, back)) is Progress.DONE
    if there.aside:  # what is uncommitted is only counted there, and named among the risks
        there = replace(there, aside="; ".join((there.aside, *there.risks)))
    assert_as_before(before, _seen(repo), there, moved=moved, whole=[repo])
