"""A snapshot brings back what was there, bit for bit, whatever is there now; on real directories, in memory where it can."""

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollbackd.testing import place
from rollbackd_adapters.files import FilesAdapter, FilesSettings
from rollbackd_adapters.files.jobs import Jobs, Stop
from rollbackd_adapters.files.tree import Tree, TreeEntry, foreign, moves, read, written

NAMES = st.sampled_from(["a", "b", "c", ".hidden", "d e\n", os.fsdecode(b"\xff\xc3")])
IDS = [0, 65534] if os.geteuid() == 0 else [os.geteuid()]
FILE = st.tuples(
    st.just("file"),
    st.binary(max_size=40),
    st.sampled_from([0o600, 0o644, 0o400, 0o4755]),
    st.sampled_from(IDS),
    st.integers(0, 2**31),
)
LINK = st.tuples(st.just("link"), st.sampled_from(["a", "../b", "/etc/passwd", "nowhere", "."]), st.sampled_from(IDS))
TREE = st.recursive(
    st.dictionaries(NAMES, st.one_of(FILE, LINK), max_size=4),
    lambda below: st.dictionaries(
        NAMES,
        st.one_of(
            FILE, LINK, st.tuples(st.just("dir"), below, st.sampled_from([0o700, 0o755, 0o2750]), st.sampled_from(IDS))
        ),
        max_size=4,
    ),
    max_leaves=8,
)
numbers = count()


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: thousands of files are put on disk here, and no disk is being tried."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="rollbackd-test-", dir=shared if os.access(shared, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


def make(directory: Path, tree: dict[str, Any]) -> None:
    for name, (kind, *what) in tree.items():
        path = directory / name
        match kind, *what:
            case "file", data, mode, owner, seconds:
                path.write_bytes(data)
                os.chown(path, owner, owner)
                path.chmod(mode)
                os.utime(path, ns=(1, seconds * 10**9 + 7))
            case "link", target, owner:
                path.symlink_to(target)
                os.lchown(path, owner, owner)
            case "dir", below, mode, owner:
                path.mkdir()
                make(path, below)
                os.chown(path, owner, owner)
                path.chmod(mode)


def seen(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that there is to see of it, but for the times of directories."""
    found: dict[str, tuple[object, ...]] = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        what: tuple[object, ...] = (
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
        )
        if path.is_symlink():
            what += (str(path.readlink()), status.st_mtime_ns)
        elif path.is_file():
            what += (path.read_bytes(), status.st_mtime_ns)
        found[str(path.relative_to(directory))] = what
    return found


def layer(path: Path, **given_settings: Any) -> FilesAdapter:
    values = {"adapter": "files", "paths": [str(path / "conf")], "room": 0, **given_settings}
    return FilesAdapter(FilesSettings.model_validate(values), place(path))


class AtOnce(Jobs):
    """Does the work where it is asked for: a thousand examples need no thread each."""

    async def run(self, work: Callable[[Stop], Any]) -> Any:
        return work(lambda: None)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@given(before=TREE, damage=TREE, partly=st.booleans())
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_tree_survives_snapshot_damage_and_restore_bit_for_bit(
    memory: Path, loop: asyncio.Runner, before: dict[str, Any], damage: dict[str, Any], partly: bool
) -> None:
    path = memory / str(next(numbers))
    conf = path / "conf"
    conf.mkdir(parents=True)
    make(conf, before)
    ours = layer(path)
    ours._jobs = ours._mover._jobs = AtOnce("layer")
    taken = loop.run(ours.take("good"))
    good = seen(conf)
    kept = [name for name in before if partly and name not in damage]
    for name in before:
        if name not in kept:
            victim = conf / name
            shutil.rmtree(victim) if victim.is_dir() and not victim.is_symlink() else victim.unlink()
    make(conf, damage)
    bad = seen(conf)
    saved = loop.run(ours.restore("good", "first"))
    assert seen(conf) == good
    assert loop.run(ours.current()).id == taken.release
    loop.run(ours.restore(saved.name, "and back"))
    assert seen(conf) == bad
    shutil.rmtree(path)


# -- as values ----------------------------------------------------------------------------------
def entry(content: str = "x", kind: Any = "file", **changes: Any) -> TreeEntry:
    return TreeEntry(kind, 0o644, 0, 0, 1, len(content), content if kind != "dir" else "")._replace(**changes)


def tree(**entries: TreeEntry) -> Tree:
    return Tree({"/c/" + name.replace("__", "/"): value for name, value in entries.items()})


def test_times_owners_and_volatile_things_are_no_change_and_all_else_is() -> None:
    base = tree(a=entry(), log=entry(volatile=True))
    assert tree(a=entry(uid=7, gid=7, mtime_ns=9)).release == base.release
    assert tree(a=entry(), log=entry("y", volatile=True), way=entry(kind="way")).release == base.release
    others = [
        tree(a=entry("y")),
        tree(b=entry()),
        tree(a=entry(mode=0o600)),
        tree(a=entry(kind="link")),
        tree(a=entry(), d=entry(kind="dir")),
        Tree(base.entries, {"/e": {"A": ""}}),
        Tree(base.entries, {"/e": {"A": None}}),
    ]
    assert len({base.release, *(other.release for other in others)}) == len(others) + 1


def test_what_stands_in_the_way_goes_first_and_what_is_extra_goes_last() -> None:
    present = tree(d=entry(kind="dir"), d__f=entry(), d__log=entry(volatile=True), extra=entry(), same=entry())
    target = tree(d=entry("now a file"), new=entry(kind="dir"), new__f=entry(), same=entry(mode=0o600))
    way = moves(present, target, owners=False)
    assert way.clear == ("/c/d/log", "/c/d/f", "/c/d")
    assert (way.make, way.put, way.drop, way.touch) == (("/c/new",), ("/c/d", "/c/new/f"), ("/c/extra",), ("/c/same",))
    assert not moves(target, target, owners=True)


def test_volatile_things_come_back_only_where_they_are_missing_and_are_never_removed() -> None:
    target = tree(log=entry("old", volatile=True), gone=entry("old", volatile=True))
    present = tree(log=entry("new", volatile=True), other=entry(volatile=True))
    way = moves(present, target, owners=True)
    assert way.put == ("/c/gone",)
    assert (way.clear, way.drop, way.touch) == ((), (), ())


@pytest.mark.parametrize(
    ("present", "whose"),
    [
        (tree(a=entry("old"), b=entry("new")), ""),
        (tree(a=entry("old")), "/c/b"),
        (tree(a=entry("mended"), b=entry("new")), "/c/a"),
        (tree(a=entry("new"), b=entry("new"), mine=entry()), "/c/mine"),
        (tree(a=entry("new"), b=entry("new"), log=entry("?", volatile=True), k=entry(kind="dir")), ""),
        (tree(a=entry("new"), b=entry("new"), k=entry("file")), ""),
        (tree(a=entry("old"), b=entry("old"), way=entry(kind="way")), ""),
    ],
)
def test_half_done_work_is_told_from_somebody_elses(present: Tree, whose: str) -> None:
    before = tree(a=entry("old"), b=entry("old"), k=entry("file"))
    after = tree(a=entry("new"), b=entry("new"), k=entry(kind="dir"))
    assert foreign(present, before, after) == whose


def test_a_variable_that_is_neither_old_nor_new_is_somebody_elses() -> None:
    def of(value: str | None) -> Tree:
        return Tree({}, {"/e": {"A": value}})

    assert foreign(of("1"), of("1"), of("2")) == foreign(of("2"), of("1"), of("2")) == ""
    assert foreign(of("3"), of("1"), of("2")) == foreign(of(None), of("1"), of("2")) == "/e A"


def _data(path: str = "/c/a", **changes: Any) -> Any:
    values = dict(zip(TreeEntry._fields, entry("a" * 64), strict=True)) | changes
    return {"entries": {path: list(values.values())}, "variables": {}}


def test_a_tree_survives_json() -> None:
    made = Tree({"/c/\udcff": entry("a" * 64, seen=(1, 2, 3))}, {"/e": {"A": "x", "B": None}})
    assert read(json.loads(json.dumps(written(made)))) == made


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"entries": {}},
        _data("c/a"),
        _data("/c/../a"),
        _data("/c//a"),
        _data("/c/a\0"),
        _data(kind="device"),
        _data(mode=0o10000),
        _data(mode="600"),
        _data(mode=True),
        _data(uid=-1),
        _data(content="../../etc/passwd"),
        _data(content="A" * 64),
        _data(kind="link", content=""),
        _data(seen=[1, 2]),
        {"entries": {"/c/a": [1, 2]}, "variables": {}},
        {"entries": {**_data(kind="link", content="/etc")["entries"], **_data("/c/a/b")["entries"]}, "variables": {}},
        {"entries": {}, "variables": {"e": {}}},
    ],
)
def test_what_no_disk_can_have_is_not_read(data: Any) -> None:
    with pytest.raises(ValueError):
        read(data)
