"""Archives of files that somebody else wrote on: whatever he says, no owner and no setuid comes that was not here."""

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd.adapter import AdapterError
from rollbackd.testing import finish, place
from rollbackd_adapters.files import FilesAdapter, FilesSettings
from rollbackd_adapters.files.tree import TreeEntry

pytestmark = pytest.mark.needs("root")

APP, EVIL = 3001, 3002
_SET = stat.S_ISUID | stat.S_ISGID
Manifest = dict[str, Any]


def layer(path: Path) -> FilesAdapter:
    given = {"adapter": "files", "paths": [str(path / "conf")], "volatile": ["*.log", "cache"], "room": 0}
    return FilesAdapter(FilesSettings.model_validate(given), place(path))


def made(path: Path) -> Path:
    """What is watched: the application's, with one setuid program of root's, and a log and a cache that are volatile."""
    conf = path / "conf"
    (conf / "cache").mkdir(parents=True)
    for name, mode, owner in (
        ("a.conf", 0o640, APP),
        ("tool", 0o4755, 0),
        ("x.log", 0o600, APP),
        ("cache/1", 0o600, APP),
    ):
        (conf / name).write_text(name)
        os.chown(conf / name, owner, APP)
        (conf / name).chmod(mode)
    for directory in (conf, conf / "cache"):
        os.chown(directory, APP, APP)
    return conf


def photograph(conf: Path) -> dict[str, tuple[int, int, int]]:
    """Owners and modes of all that is there."""
    found = {}
    for path in (conf, *conf.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(conf))] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return found


def forged(archive: Path, changes: list[Callable[[Manifest], None]]) -> None:
    """The same archive with another list of files, its hashes right and all new contents in it."""
    contents = {b"evil": hashlib.sha256(b"evil").hexdigest()}
    raw, out = io.BytesIO(gzip.decompress(archive.read_bytes())), io.BytesIO()
    with tarfile.open(fileobj=raw) as source, tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        (manifest, *blobs) = [(member, source.extractfile(member).read()) for member in source]  # type: ignore[union-attr]
        head, body = (json.loads(part) for part in manifest[1].split(b"\n", 1))
        for change in changes:
            change(body["entries"])
        packed = json.dumps(body).encode() + b"\n"
        head["digest"] = hashlib.sha256(packed).hexdigest()
        wanted = {entry[6] for entry in body["entries"].values() if entry[0] == "file"}
        named = {member.name.rpartition("/")[2]: data for member, data in blobs} | {v: k for k, v in contents.items()}
        for name, data in (
            (manifest[0].name, json.dumps(head).encode() + b"\n" + packed),
            *((f"rollbackd/blobs/{content}", named[content]) for content in sorted(wanted)),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    archive.write_bytes(gzip.compress(out.getvalue()))


def _owned(path: Path, name: str, owner: int) -> Callable[[Manifest], None]:
    def change(entries: Manifest) -> None:
        if (entry := entries.get(str(path / name))) is not None:
            entry[2] = entry[3] = owner

    return change


def _mode(path: Path, name: str, mode: int) -> Callable[[Manifest], None]:
    def change(entries: Manifest) -> None:
        if (entry := entries.get(str(path / name))) is not None:
            entry[1] = mode

    return change


def _fleeting(path: Path, name: str, volatile: bool) -> Callable[[Manifest], None]:
    def change(entries: Manifest) -> None:
        if (entry := entries.get(str(path / name))) is not None:
            entry[7] = volatile

    return change


def _added(path: Path, name: str, kind: str, mode: int, owner: int, volatile: bool) -> Callable[[Manifest], None]:
    content = hashlib.sha256(b"evil").hexdigest() if kind == "file" else "/etc/shadow" if kind == "link" else ""

    def change(entries: Manifest) -> None:
        size = 4 if kind == "file" else 0
        entries[str(path / name)] = [kind, mode, owner, owner, 0, size, content, volatile, None]

    return change


NAMES = st.sampled_from(["a.conf", "tool", "x.log", "cache", "cache/1", "."])
NEW = st.sampled_from(["evil", "evil.log", "cache/evil", "cache/sub", "../outside", "../../etc", "evil.d"])
MODES = st.sampled_from([0o644, 0o4755, 0o6755, 0o2755, 0o777])
OWNERS = st.sampled_from([0, APP, EVIL])


def changes(conf: Path) -> st.SearchStrategy[list[Callable[[Manifest], None]]]:
    kinds = st.sampled_from(["file", "link", "dir", "way"])
    return st.lists(
        st.one_of(
            st.builds(_owned, st.just(conf), NAMES, OWNERS),
            st.builds(_mode, st.just(conf), NAMES, MODES),
            st.builds(_fleeting, st.just(conf), NAMES, st.booleans()),
            st.builds(_added, st.just(conf), NEW, kinds, MODES, OWNERS, st.booleans()),
        ),
        min_size=1,
        max_size=4,
    )


LOST = ["contents", "store", "world", "store and world"]


@pytest.mark.parametrize("lost", LOST)
@given(data=st.data())
@settings(max_examples=60)
def test_no_owner_and_no_setuid_comes_with_an_archive_that_was_not_here(lost: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        conf = made(path)
        before = photograph(conf)
        ours = layer(path)
        taken = finish(ours.take("v1"))
        archive = path / "v1.snapshot"
        finish(ours.export_to("v1", str(archive)))
        forged(archive, data.draw(changes(conf)))
        (conf / "a.conf").write_text("bad")
        if "store" in lost:
            shutil.rmtree(path / "scratch")
        elif lost == "contents":
            shutil.rmtree(path / "scratch" / "store" / "blobs")
        if "world" in lost:
            shutil.rmtree(conf)
        outside = {each.name for each in path.iterdir()} | {"scratch", "locks", "conf"}
        failed: AdapterError | None = None
        try:
            one = finish(layer(path).import_from(str(archive)))
        except AdapterError as error:
            failed = error
        if failed is not None:
            assert failed.permanent
            assert "not a snapshot that can be taken in: " in str(failed)
            return
        assert one.release == taken.release, "a list of another release has another id"
        entries: Mapping[str, TreeEntry] = layer(path)._present.store.load("v1")[1].entries
        for entry_path, entry in entries.items():
            short = str(Path(entry_path).relative_to(conf))
            assert entry.kind == "way" or entry.volatile == (short.endswith(".log") or short.startswith("cache"))
        finish(layer(path).restore("v1", "by a person"))
        now = photograph(conf)
        for short, (uid, gid, mode) in now.items():
            known = before.get(short)
            assert not stat.S_ISREG((conf / short).lstat().st_mode) or mode & _SET <= (known[2] & _SET if known else 0)
            assert EVIL not in {uid, gid}
            if known is not None and "world" not in lost:
                assert (uid, gid) == known[:2]
        assert {each.name for each in path.iterdir()} <= outside


@pytest.mark.parametrize("lost", LOST)
def test_what_nobody_wrote_on_comes_back_as_it_was(tmp_path: Path, lost: str) -> None:
    conf = made(tmp_path)
    if "world" in lost:
        (conf / "tool").chmod(0o755)
    before = photograph(conf)
    finish(layer(tmp_path).take("v1"))
    archive = tmp_path / "v1.snapshot"
    finish(layer(tmp_path).export_to("v1", str(archive)))
    (conf / "a.conf").write_text("bad")
    if "store" in lost:
        shutil.rmtree(tmp_path / "scratch")
    elif lost == "contents":
        shutil.rmtree(tmp_path / "scratch" / "store" / "blobs")
    if "world" in lost:
        shutil.rmtree(conf)
    finish(layer(tmp_path).import_from(str(archive)))
    finish(layer(tmp_path).restore("v1", "by a person"))
    assert (conf / "a.conf").read_text() == "a.conf"
    if "world" not in lost:
        assert photograph(conf) == before


def test_a_program_that_was_setuid_and_is_gone_here_needs_a_person(tmp_path: Path) -> None:
    conf = made(tmp_path)
    finish(layer(tmp_path).take("v1"))
    archive = tmp_path / "v1.snapshot"
    finish(layer(tmp_path).export_to("v1", str(archive)))
    shutil.rmtree(tmp_path / "scratch")
    (conf / "tool").unlink()
    with pytest.raises(AdapterError, match=r"tool' is setuid or setgid in it, and was not so here; give that file"):
        finish(layer(tmp_path).import_from(str(archive)))
    (conf / "tool").touch()
    (conf / "tool").chmod(0o4755)
    finish(layer(tmp_path).import_from(str(archive)))
    finish(layer(tmp_path).restore("v1", "by a person"))
    assert (conf / "tool").read_text() == "tool"
    assert stat.S_IMODE((conf / "tool").stat().st_mode) == 0o4755
