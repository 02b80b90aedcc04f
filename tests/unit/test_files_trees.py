"""Trees as values: what differs, how one becomes the other, whose half-done work it is, and how they are kept."""

import json
from typing import Any

import pytest

from rollbackd_adapters.files.tree import Tree, TreeEntry, foreign, moves, read, written


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
