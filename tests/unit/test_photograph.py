"""What the photographs of the contract's tests see, and what they do not pass over."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rollbackd.model import NO_RELEASE, Change
from tests.photograph import assert_as_before, assert_told, differences, photograph

QUIET = Change("layer", NO_RELEASE, NO_RELEASE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("1\n")
    (tmp_path / "link").symlink_to("a")
    return tmp_path


def _exchanged(path: Path) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(path.read_bytes())
    beside.chmod(path.stat().st_mode)
    beside.rename(path)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("content", lambda path: path.write_text("2\n")),
        ("mode", lambda path: path.chmod(0o600)),
        ("mode", lambda path: path.chmod(0o4644)),
        ("gone", lambda path: path.unlink()),
        ("inode", _exchanged),
        ("names", lambda path: path.with_name("b").joinpath("second").hardlink_to(path)),
    ],
    ids=["content", "mode", "setuid", "gone", "another file", "one more name"],
)
def test_a_change_of_each_kind_is_seen(root: Path, what: str, change: Callable[[Path], None]) -> None:
    path = root / "a" / "file"
    path.chmod(0o644)
    before = photograph(root)
    change(path)
    assert what in differences(before, photograph(root))[str(path)]


@pytest.mark.needs("root")
def test_owners_attributes_and_mounts_are_seen(root: Path) -> None:
    before = photograph(root)
    os.chown(root / "a" / "file", 1, 2)
    os.setxattr(root / "a", "trusted.name", b"value")
    subprocess.run(["mount", "-t", "tmpfs", "none", root / "a" / "b"], check=True)
    try:
        found = differences(before, photograph(root))
    finally:
        subprocess.run(["umount", root / "a" / "b"], check=True)
    assert found[str(root / "a" / "file")] == ("owner", "group")
    assert found[str(root / "a")] == ("attributes",)
    assert "inode" in found[str(root / "a" / "b")]
    assert found[f"mount:{root / 'a' / 'b'}"] == ("new",)


def test_what_changed_has_to_be_told_or_moved_or_the_layers_own(root: Path) -> None:
    file = root / "a" / "file"
    before = photograph(root)
    file.write_text("2\n")
    after = photograph(root)
    with pytest.raises(AssertionError, match="did not tell"):
        assert_told(before, after, QUIET)
    with pytest.raises(AssertionError, match="did not tell"):
        assert_told(before, after, Change("layer", NO_RELEASE, NO_RELEASE, risks=("a/filename and a/fil go",)))
    assert_told(before, after, Change("layer", NO_RELEASE, NO_RELEASE, risks=("1 file, such as a/file, goes",)))
    whole = Change("layer", NO_RELEASE, NO_RELEASE, risks=(f"something in {root / 'a'} goes",))
    assert_told(before, after, whole)
    with pytest.raises(AssertionError, match="did not tell"):
        assert_told(before, after, whole, whole=[root / "a"])
    assert_told(before, after, QUIET, moved=[file])
    assert_told(before, after, QUIET, own=[root / "a"])


def test_there_and_back_only_the_inode_of_what_moved_may_differ(root: Path) -> None:
    file = root / "a" / "file"
    before = photograph(root)
    _exchanged(file)
    assert_as_before(before, photograph(root), QUIET, moved=[file])
    with pytest.raises(AssertionError, match="not as it was"):
        assert_as_before(before, photograph(root), QUIET)
    file.chmod(0o600)
    with pytest.raises(AssertionError, match="not as it was"):
        assert_as_before(before, photograph(root), QUIET, moved=[file])
    said = Change("layer", NO_RELEASE, NO_RELEASE, aside="the mode of a/file would not come back")
    assert_as_before(before, photograph(root), said, moved=[file])
