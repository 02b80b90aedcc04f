"""What a restore of files changes is what its plan told; what is mounted below a watched path stays as it is."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.testing import finish, perform, planned, problems
from rollbackd_adapters.files import FilesAdapter
from tests.contract.files_worlds import layer
from tests.photograph import assert_as_before, assert_told, differences, photograph

pytestmark = pytest.mark.needs("root")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """That of a careful person's login, which is what a daemon started by hand has."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[Path]:
    conf = tmp_path / "conf"
    (conf / "there").mkdir(parents=True)
    (conf / "app.yml").write_text("good\n")
    (conf / "app.env").write_text("MODE=fast\n")
    (conf / "plain").write_text("1\n")
    yield conf
    for point in sorted(conf.rglob("*"), reverse=True):
        if subprocess.run(["mountpoint", "-q", point], check=False).returncode == 0:
            subprocess.run(["umount", point], check=True)


def _mounted(place: Path) -> None:
    """A directory with files of its own, or a single file."""
    if place.suffix or place.name == "plain":
        other = place.parent.parent / "other"
        other.write_text("of another file system\n")
        subprocess.run(["mount", "--bind", other, place], check=True)
        return
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    for number in range(20):
        (place / f"f{number}").write_bytes(b"data" * number)


@pytest.mark.parametrize("where", ["new", "there", "plain", "app.env"])
def test_what_is_mounted_below_is_known_before_and_nothing_is_touched(tmp_path: Path, conf: Path, where: str) -> None:
    variables = [{"file": str(conf / "app.env"), "names": ["MODE"]}] if where == "app.env" else []
    paths = [] if variables else [str(conf)]

    def made() -> FilesAdapter:
        return layer(tmp_path, paths=paths, variables=variables, auto=False)

    good = finish(made().take("good")).release
    (conf / "app.yml").write_text("bad\n")
    _mounted(conf / where)
    before = photograph(conf)
    with pytest.raises(AdapterError, match=f"conf/{where} is mounted there, and would be replaced or emptied") as no:
        finish(made().plan(Release(good)))
    assert no.value.permanent
    with pytest.raises(AdapterError, match="is mounted there"):
        finish(made().restore("good", "shop"))
    assert differences(before, photograph(conf)) == {}
    assert any("is mounted there" in problem.text for problem in finish(problems(made())))


@pytest.mark.needs("chattr")
@pytest.mark.parametrize(
    ("flag", "where", "named"),
    [
        ("+i", "app.yml", "app.yml"),
        ("+i", "extra", "extra"),
        ("+i", ".", "conf"),
        ("+a", ".", "conf"),
        ("+i", "there", "there"),
        ("+i", "app.env", "app.env"),
    ],
)
def test_what_may_not_change_is_known_before_and_nothing_is_touched(
    tmp_path: Path, conf: Path, flag: str, where: str, named: str
) -> None:
    variables = [{"file": str(conf / "app.env"), "names": ["MODE"]}] if where == "app.env" else []

    def made() -> FilesAdapter:
        return layer(tmp_path, paths=[] if variables else [str(conf)], variables=variables, auto=False)

    (conf / "there/new").write_text("1\n")
    good = finish(made().take("good")).release
    (conf / "app.yml").write_text("bad\n")
    (conf / "app.env").write_text("MODE=slow\n")
    (conf / "extra").write_text("1\n")
    (conf / "there/new").unlink()
    if subprocess.run(["chattr", flag, conf / where], check=False).returncode:
        pytest.skip("this file system has no immutable files")
    before = photograph(conf)
    try:
        with pytest.raises(AdapterError, match=rf"/{named} is immutable or append-only .*; `chattr -i -a` it") as no:
            finish(made().plan(Release(good)))
        assert no.value.permanent
        with pytest.raises(AdapterError, match="is immutable or append-only"):
            finish(made().restore("good", "shop"))
        assert differences(before, photograph(conf)) == {}
        assert any("is immutable or append-only" in problem.text for problem in finish(problems(made())))
    finally:
        subprocess.run(["chattr", "-i", "-a", conf / where], check=True)
    finish(made().restore("good", "shop"))
    assert (conf / ("app.env" if variables else "app.yml")).read_text() in {"good\n", "MODE=fast\n"}


def test_files_within_what_is_mounted_go_back(tmp_path: Path, conf: Path) -> None:
    _mounted(conf / "there")
    ours = layer(tmp_path, auto=False)
    good = finish(ours.take("good")).release
    (conf / "there" / "f3").write_text("bad\n")
    (conf / "there" / "more").write_text("bad\n")
    before = photograph(conf)
    change = finish(ours.plan(Release(good)))
    assert "1 file(s) changed, 0 added, 1 removed" in change.risks[0]
    finish(ours.restore("good", "shop"))
    found = differences(before, photograph(conf))
    assert {*found} == {str(conf / "there" / "f3"), str(conf / "there" / "more")}


NAMES = ("alpha", "beta", "dir/gamma", "dir/deep/delta", "dir/deep")
ENTRY = st.tuples(
    st.sampled_from(["file", "link", "directory"]),
    st.sampled_from(["one", "two"]),
    st.sampled_from([0, 65534]),
    st.sampled_from([0o644, 0o4755, 0o600]),
    st.booleans(),
)
CONTENT = st.dictionaries(st.sampled_from(NAMES), ENTRY, max_size=5)


def _fill(conf: Path, content: dict[str, tuple[str, str, int, int, bool]], more: Path) -> None:
    for old in list(conf.iterdir()) if conf.exists() else []:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    conf.mkdir(exist_ok=True)
    (conf / "always").write_text("here\n")
    for name, (kind, text, owner, mode, special) in content.items():
        path = conf / name
        ways = [*path.parents][: name.count("/")]
        if os.path.lexists(path) or any(above.is_symlink() or above.is_file() for above in ways):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(text)
        elif kind == "directory":
            path.mkdir()
        else:
            path.write_text(text)
        os.lchown(path, owner, owner)
        if kind != "link":
            path.chmod(mode | (0o100 if kind == "directory" else 0))
        if special and kind == "file":
            os.setxattr(path, "user.note", text.encode())
            os.link(path, more / f"{len(list(more.iterdir()))}")


@given(old=CONTENT, new=CONTENT)
@settings(
    max_examples=20,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_on_any_watch_list_all_that_changed_was_told_and_comes_back_or_not_as_told(
    tmp_path: Path, old: dict[str, tuple[str, str, int, int, bool]], new: dict[str, tuple[str, str, int, int, bool]]
) -> None:
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    (root / "more").mkdir(parents=True)
    conf = root / "conf"
    ours = layer(root, auto=False)
    _fill(conf, old, root / "more")
    good, was = finish(ours.take("good")).release, photograph(conf)
    _fill(conf, new, root / "more")
    before = photograph(conf)
    there = finish(planned(ours, Release(good), key="shop-1/0/layer"))
    if there.before.id == good:
        return
    assert differences(before, photograph(conf)) == {}
    assert finish(perform(ours, there)) is Progress.DONE
    kinds = {"new", "gone", "kind", "content", "mode"}
    moved = [Path(path) for path, what in differences(was, before).items() if kinds & {*what}]
    assert_told(before, photograph(conf), there, moved=moved)
    back = finish(planned(ours, there.before, key="shop-2/0/layer"))
    assert finish(perform(ours, back)) is Progress.DONE
    assert_as_before(before, photograph(conf), there, moved=moved)


def test_a_further_name_and_an_access_list_that_would_be_lost_are_told(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, auto=False)
    good = finish(ours.take("good")).release
    (tmp_path / "linked").hardlink_to(conf / "app.yml")
    (conf / "app.yml").write_text("bad\n")
    (conf / "more").write_text("1\n")
    os.setxattr(conf / "more", "user.note", b"1")
    change = finish(ours.plan(Release(good)))
    assert change.aside == (
        f"further names or access lists of {conf}/app.yml, {conf}/more would not come back; note what they have"
    )
    assert change.aside in change.risks
