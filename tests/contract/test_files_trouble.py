"""The adapter `files` where things are as nobody wants them: names, disks, people and archives that are in the way."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Release
from rollbackd.system import boundary
from rollbackd.testing import finish, place, planned
from rollbackd_adapters.files import FilesAdapter, FilesSettings, tree

Entries = dict[str, Any]


def layer(path: Path, **settings: Any) -> FilesAdapter:
    """A layer on `path/conf`, unless the settings say otherwise."""
    given = {"adapter": "files", "paths": [str(path / "conf")], "room": 0, **settings}
    return FilesAdapter(FilesSettings.model_validate(given), place(path))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    made = tmp_path / "conf"
    made.mkdir()
    for name in ("a", "b", "c"):
        (made / name).write_text("1")
    return made


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    boundary.hook = lambda _name: None


def refused(work: Any) -> str:
    with pytest.raises(AdapterError) as failed:
        finish(work)
    return str(failed.value)


def write(conf: Path, text: str) -> None:
    for path in conf.iterdir():
        path.write_text(text)


class Killed(BaseException):
    """The daemon's end."""


def cut_off(work: Any, name: str = "files.put") -> None:
    """End it at a boundary as a kill would: nothing is put back."""

    def hook(reached: str) -> None:
        if reached == name:
            raise Killed

    boundary.hook = hook
    with pytest.raises(Killed):
        finish(work)
    boundary.hook = lambda _name: None


# -- names --------------------------------------------------------------------------------------
def test_a_name_that_is_no_utf8_keeps_no_rollback_from_being_written_down(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    strange = os.fsencode(conf) + b"/caf\xe9\xff"
    Path(os.fsdecode(strange)).write_text("new")
    change: Change = finish(planned(ours, Release(target.release)))
    assert "caf\\xe9\\xff" in change.risks[0]
    facts.encode(facts.Announced("x", {}, "restore", text=change.risks[0]))
    (found,) = finish(ours.diff("v1"))
    assert found.path == f"{conf}/caf\\xe9\\xff"
    finish(ours.apply(change))
    assert not os.path.exists(strange)


def test_a_failure_at_such_a_name_can_be_told(tmp_path: Path, conf: Path) -> None:
    os.mkfifo(os.fsencode(conf) + b"/a\xff")
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    shutil.rmtree(conf)
    conf.mkdir()
    (conf / "new").mkdir()
    os.mkfifo(os.fsencode(conf) + b"/new/\xff")
    assert "conf/new/\\xff: a socket, pipe or device is in the way" in refused(ours.restore("v1", "by a person"))


# -- what somebody does meanwhile ---------------------------------------------------------------
def test_a_restore_that_was_cut_off_leaves_what_somebody_did_since_then(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    write(conf, "2")
    cut_off(ours.restore("v1", "by a person"))
    (conf / "b").write_text("mended by hand")
    said = refused(layer(tmp_path).restore("v1", "by a person"))
    assert f"{conf}/b was changed by somebody else since it was cut off, so it is left as it is" in said
    assert [path.read_text() for path in sorted(conf.iterdir())] == ["1", "mended by hand", "2"]


def test_what_somebody_added_since_then_is_not_removed(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    write(conf, "2")
    cut_off(ours.restore("v1", "by a person"))
    (conf / "new").write_text("by hand")
    assert "somebody else" in refused(layer(tmp_path).restore("v1", "by a person"))
    assert (conf / "new").read_text() == "by hand"


def test_what_is_not_restored_may_change_while_a_restore_is_cut_off(tmp_path: Path, conf: Path) -> None:
    env = tmp_path / "env"
    env.write_text("A=1\n")
    settings = {"variables": [{"file": str(env), "names": "A"}]}
    finish(layer(tmp_path, **settings).take("v1"))
    write(conf, "2")
    cut_off(layer(tmp_path, **settings).restore("v1", "by a person", ["files"]))
    env.write_text("A=3\n")
    finish(layer(tmp_path, **settings).restore("v1", "by a person", ["files"]))
    assert {path.read_text() for path in conf.iterdir()} == {"1"}
    assert env.read_text() == "A=3\n"


def test_a_variable_that_somebody_sets_meanwhile_is_not_put_back(tmp_path: Path, conf: Path) -> None:
    env = tmp_path / "env"
    env.write_text("A=1\n")
    ours = layer(tmp_path, variables=[{"file": str(env), "names": "A"}])
    finish(ours.take("v1"))
    env.write_text("A=2\n")
    write(conf, "2")

    def hook(reached: str) -> None:
        if reached == "files.put" and env.read_text() == "A=2\n":
            env.write_text("A=by somebody\n")
            raise OSError(28, "No space left on device")

    boundary.hook = hook
    assert f"put back but for {env} A, which somebody else changed" in refused(ours.restore("v1", "by a person"))
    assert {path.read_text() for path in conf.iterdir()} == {"2"}
    assert env.read_text() == "A=by somebody\n"


# -- modes --------------------------------------------------------------------------------------
def test_a_mode_that_the_configuration_gives_is_put_right_where_the_content_is_the_same(
    tmp_path: Path, conf: Path
) -> None:
    ours = layer(tmp_path, modes={"a": "600"})
    target = finish(ours.take("v1"))
    (conf / "b").write_text("2")
    (conf / "a").chmod(0o644)
    change = finish(planned(ours, Release(target.release)))
    assert "2 file(s) changed" in change.risks[0]
    finish(ours.apply(change))
    assert (conf / "a").stat().st_mode & 0o777 == 0o600


# -- nothing is there ---------------------------------------------------------------------------
def test_a_snapshot_of_nothing_is_none(tmp_path: Path) -> None:
    ours = layer(tmp_path, paths=[str(tmp_path / "cnof"), str(tmp_path / "typo" / "x")])
    assert f"{tmp_path}/cnof: nothing of what is watched is there" in refused(ours.take("v1"))
    for _ in range(3):
        finish(ours.current())
    assert finish(ours.snapshots()) == []


def test_a_file_of_a_terabyte_is_told_and_not_read(tmp_path: Path, conf: Path) -> None:
    with (conf / "dump").open("wb") as dump:
        dump.truncate(2**40)
    files = layer(tmp_path)
    (problem,) = finish(files.ready())
    assert refused(files.current()) == problem.text
    assert problem.text == f"{conf}/dump has 1048576 MiB; take it off `paths`, or make `largest` larger"


def test_all_of_it_gone_is_gone_back_from_and_never_to(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path)
    target = finish(ours.take("v1"))
    shutil.rmtree(conf)
    for _ in range(3):
        gone = finish(ours.current())
    change = finish(planned(ours, Release(target.release)))
    assert change.before.id == gone.id
    finish(ours.apply(change))
    assert len(list(conf.iterdir())) == 3
    assert [one.why for one in finish(ours.snapshots())] == ["before", "manual"]
    assert [release.id for release in finish(ours.releases())] == [target.release]


def test_a_missing_directory_above_is_told_before_anything_is_touched(tmp_path: Path, conf: Path) -> None:
    ours = layer(tmp_path, paths=[str(conf / "*"), str(tmp_path / "other")])
    finish(ours.take("v1"))
    shutil.rmtree(conf)
    assert f"{conf}: no such directory; make it" in refused(ours.restore("v1", "by a person"))


# -- room ---------------------------------------------------------------------------------------
@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    made = tmp_path / "small"
    made.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(made)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield made
    subprocess.run(["umount", str(made)], check=True)


def test_keeping_leaves_the_room_that_it_is_told_to_leave(tmp_path: Path, conf: Path, small: Path) -> None:
    ours = layer(tmp_path, store=str(small), room="2MiB")
    for number in range(4):
        (conf / "large").write_bytes(os.urandom(900_000))
        if number < 2:
            finish(ours.take(f"v{number}"))
    assert "no room for another snapshot: wants 3 MiB free" in refused(ours.take("v4"))
    for _ in range(3):
        finish(ours.current())
    assert shutil.disk_usage(small).free >= 2 * 2**20
    assert finish(ours.restore("v1", "by a person")).why == "before", "what is replaced is kept all the same"


def test_a_disk_that_fills_up_is_not_left_full(tmp_path: Path, conf: Path, small: Path) -> None:
    ours = layer(tmp_path, store=str(small))
    finish(ours.take("v1"))
    free = shutil.disk_usage(small).free
    (conf / "large").write_bytes(os.urandom(5 * 2**20))
    assert "No space left on device; make room" in refused(ours.take("v2"))
    assert shutil.disk_usage(small).free == free


def test_what_could_not_be_kept_is_forgotten_once_that_is_over(tmp_path: Path, conf: Path, small: Path) -> None:
    ours = layer(tmp_path, store=str(small), room="1MiB")
    finish(ours.take("v1"))
    (conf / "large").write_bytes(os.urandom(4 * 2**20))
    for _ in range(2):
        finish(ours.current())
    assert "could not be kept" in finish(ours.ready())[0].text
    (conf / "large").unlink()
    finish(ours.current())
    assert finish(ours.ready()) == []


# -- archives from elsewhere --------------------------------------------------------------------
def forged(path: Path, change: Callable[[Entries, Entries], None]) -> str:
    """An archive whose every hash agrees, with another head and another list of files than it was written with."""
    raw, made = io.BytesIO(gzip.decompress((path / "x").read_bytes())), io.BytesIO()
    with tarfile.open(fileobj=raw) as source, tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as out:
        for member in source:
            file = source.extractfile(member)
            assert file is not None
            data = file.read()
            if member.name.endswith("manifest.json"):
                head, body = (json.loads(part) for part in data.split(b"\n", 1))
                change(head, body)
                packed = json.dumps(body).encode() + b"\n"
                data = json.dumps(head | {"digest": hashlib.sha256(packed).hexdigest()}).encode() + b"\n" + packed
                member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    (path / "y").write_bytes(gzip.compress(made.getvalue()))
    return str(path / "y")


def _owner(_head: Entries, body: Entries) -> None:
    for entry in body["entries"].values():
        entry[2] = 2**32


def _time(_head: Entries, body: Entries) -> None:
    for entry in body["entries"].values():
        entry[4] = 2**80


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda head, _: head.update(created="2024-01-01T00:00:00"), "its time has no zone"),
        (lambda head, _: head.update(created="0001-01-01T00:00:00+14:00"), "not a snapshot's head"),
        (lambda head, _: head.update(why=["x"]), "not a snapshot's head"),
        (_owner, "not an entry"),
        (_time, "not an entry"),
    ],
)
def test_what_no_store_can_hold_is_not_taken_in(
    tmp_path: Path, conf: Path, change: Callable[[Entries, Entries], None], said: str
) -> None:
    ours = layer(tmp_path)
    finish(ours.take("v1"))
    finish(ours.export_to("v1", str(tmp_path / "x")))
    assert said in refused(ours.import_from(forged(tmp_path, change)))
    assert [one.name for one in finish(ours.snapshots())] == ["v1"]
    write(conf, "2")
    finish(ours.restore("v1", "by a person"))


@pytest.mark.parametrize(
    ("file", "name", "value", "said"),
    [
        ("other", "A", "1", "is not on the watch list now, so it is not written"),
        ("env", "A\nEVIL", "1", "is not on the watch list now, so it is not written"),
        ("env", "A", "1\nEVIL=1", "what the snapshot has is no value"),
    ],
)
def test_no_snapshot_writes_a_variable_that_is_not_watched(
    tmp_path: Path, conf: Path, file: str, name: str, value: str, said: str
) -> None:
    (tmp_path / "env").write_text("A=1\n")
    (tmp_path / "other").write_text("A=2\n")
    ours = layer(tmp_path, variables=[{"file": str(tmp_path / "env"), "names": "A"}])
    taken = finish(ours.take("v1"))
    finish(ours.export_to("v1", str(tmp_path / "x")))

    def change(head: Entries, body: Entries) -> None:
        body["variables"] = {str(tmp_path / file): {name: value}}
        head.update(name="evil", release=tree.read(body).release)

    evil = finish(ours.import_from(forged(tmp_path, change)))
    assert evil.release != taken.release
    write(conf, "2")
    assert said in refused(ours.restore("evil", "by a person"))
    assert (tmp_path / "env").read_text() + (tmp_path / "other").read_text() == "A=1\nA=2\n"
    assert {path.read_text() for path in conf.iterdir()} == {"2"}


@pytest.mark.parametrize("size", [10, 3 * 2**20], ids=["small", "large"])
def test_a_file_that_grows_as_fast_as_it_is_read_is_not_waited_for(
    tmp_path: Path, conf: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = conf / "a"
    log.write_bytes(b"x" * size)
    read = os.read

    def grown(fd: int, count: int) -> bytes:
        data = read(fd, count)
        if os.path.sameopenfile(fd, file.fileno()):
            os.write(file.fileno(), b"y")
        return data

    with log.open("ab") as file, monkeypatch.context() as patch:
        patch.setattr(os, "read", grown)
        assert "conf/a is written to all the time; name it under `volatile`" in refused(layer(tmp_path).take("v1"))
        taken = finish(layer(tmp_path, volatile=[str(log)]).take("v1"))
    assert size < taken.size - 2 < log.stat().st_size
