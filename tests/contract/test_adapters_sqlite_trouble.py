"""Copies that are none, databases that are broken, held or of another kind: each is told, and nothing is lost."""

import gzip
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count as count_from
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError, Rehearses
from rollbackd.model import Release
from rollbackd.system import boundary
from rollbackd.system.clock import SystemClock
from rollbackd.testing import finish, perform, planned
from rollbackd_adapters.copies import ORIGIN, UNREADABLE, DataCopy, Lineage, copy_as_of, kept
from rollbackd_adapters.databases import given_to
from rollbackd_adapters.sqlite import worker
from tests.contract.test_adapters_sqlite import count, fill, layer, made


def go(ours: Any, release: Release, key: str = "trouble-1/0/db") -> None:
    finish(perform(ours, finish(planned(ours, release, key))))


def data_of(path: Path, name: str) -> Path:
    return path / "scratch/store" / name / "data.sqlite"


def changed(file: Path, rows: int = 5) -> None:
    with closing(sqlite3.connect(file)) as db:
        fill(db, rows)


# -- copies that are none ---------------------------------------------------------------------------------
def test_an_empty_file_and_one_cut_short_are_no_copies(tmp_path: Path) -> None:
    """An empty file passes `integrity_check`."""
    made(tmp_path)
    ours = layer(tmp_path)
    taken = finish(ours.take("first"))
    assert list(finish(ours.verify("first"))) == []
    for content in (b"", data_of(tmp_path, "first").read_bytes()[:8192]):
        data_of(tmp_path, "first").write_bytes(content)
        assert finish(ours.verify("first"))
        assert not finish(ours.snapshots())[0].restorable
        with pytest.raises(AdapterError):
            go(ours, Release(taken.release))
        assert count(tmp_path / "app.db") == 20


def test_a_copy_whose_bytes_changed_is_not_put_in_place(tmp_path: Path) -> None:
    made(tmp_path)
    ours = layer(tmp_path)
    taken = finish(ours.take("first"))
    changed(tmp_path / "app.db")
    change = finish(planned(ours, Release(taken.release)))
    raw = bytearray(data_of(tmp_path, "first").read_bytes())
    raw[-100] ^= 1
    data_of(tmp_path, "first").write_bytes(raw)
    with pytest.raises(AdapterError, match="not those that were copied") as failed:
        finish(ours.apply(change))
    assert failed.value.permanent
    assert count(tmp_path / "app.db") == 25
    assert finish(ours.current()).id == ORIGIN
    with pytest.raises(AdapterError, match="no copy is as old"):
        finish(ours.as_of(SystemClock().now()))
    raw[-100] ^= 1
    data_of(tmp_path, "first").write_bytes(raw)
    assert list(finish(ours.verify("first"))) == []
    assert finish(ours.as_of(SystemClock().now())).id == taken.release


def test_a_harmed_copy_gives_way_to_the_next_older_one_within_the_same_step(tmp_path: Path) -> None:
    file = made(tmp_path)
    ours = layer(tmp_path, max_loss="1h")
    finish(ours.take("older"))
    changed(file)
    newer = finish(ours.take("newer"))
    changed(file)
    change = finish(planned(ours, Release(newer.release)))
    raw = bytearray(data_of(tmp_path, "newer").read_bytes())
    raw[-100] ^= 1
    data_of(tmp_path, "newer").write_bytes(raw)
    finish(perform(ours, change))
    assert count(file) == 20, "what the older copy has"
    assert finish(ours.current()).id == newer.release, "it is the step's release"
    assert "copy newer could not be restored" in finish(ours.note(change.key))
    assert not next(one for one in finish(ours.snapshots()) if one.name == "newer").restorable


def test_a_harmed_copy_does_not_give_way_to_one_that_loses_more_than_max_loss(tmp_path: Path) -> None:
    file = made(tmp_path)
    ours = layer(tmp_path, max_loss="0s")
    finish(ours.take("older"))
    newer = finish(ours.take("newer"))
    changed(file)
    change = finish(planned(ours, Release(newer.release)))
    raw = bytearray(data_of(tmp_path, "newer").read_bytes())
    raw[-100] ^= 1
    data_of(tmp_path, "newer").write_bytes(raw)
    with pytest.raises(AdapterError, match="not those that were copied"):
        finish(ours.apply(change))
    assert count(file) == 25


def test_a_copy_that_somebody_opened_is_a_leftover(tmp_path: Path) -> None:
    made(tmp_path)
    ours = layer(tmp_path)
    finish(ours.take("first"))
    data_of(tmp_path, "first").with_name("data.sqlite-wal").write_bytes(b"x" * 100)
    assert "lies beside the copy" in finish(ours.verify("first"))[0].text or finish(ours.verify("first"))
    assert not finish(ours.snapshots())[0].restorable
    assert [release.id for release in finish(ours.releases())] == [ORIGIN]


def test_an_integrity_query_is_asked_before_anything_is_touched(tmp_path: Path) -> None:
    made(tmp_path)
    taken = finish(layer(tmp_path).take("first"))
    ours = layer(tmp_path, integrity=[{"sql": "SELECT count(*) FROM notes", "above": 20}])
    changed(tmp_path / "app.db")
    with pytest.raises(AdapterError, match="gives 20, wants more than 20"):
        go(ours, Release(taken.release))
    assert count(tmp_path / "app.db") == 25
    (found,) = finish(ours.rehearse("first"))
    assert "gives 20" in found.text
    assert [release.id for release in finish(ours.releases())] == [ORIGIN], "the next plan goes to an older one"


# -- the live database ------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_who_holds_it_up_is_said(tmp_path: Path, mode: str) -> None:
    file = made(tmp_path, mode=mode)
    ours = layer(tmp_path, lock_within="300ms")
    taken = finish(ours.take("first"))
    changed(file)
    pid = os.fork()
    if pid == 0:
        db = sqlite3.connect(file, isolation_level=None)
        db.execute("BEGIN IMMEDIATE" if mode == "wal" else "BEGIN")
        db.execute("SELECT count(*) FROM notes").fetchone()
        (tmp_path / "held").touch()
        os.read(os.pipe()[0], 1)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            os.sched_yield()
        with pytest.raises(AdapterError, match=rf"pid {pid}") as failed:
            go(ours, Release(taken.release))
        assert not failed.value.permanent
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert count(file) == 25
    go(ours, Release(taken.release))
    assert count(file) == 20


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_connections_mode_owner_and_journal_mode_stay(tmp_path: Path, mode: str) -> None:
    file = made(tmp_path, mode=mode)
    file.chmod(0o640)
    ours = layer(tmp_path)
    taken = finish(ours.take("first"))
    before = file.stat()
    with closing(sqlite3.connect(file, isolation_level=None)) as old:
        fill(old, 5)
        assert old.execute("SELECT count(*) FROM notes").fetchone() == (25,)
        go(ours, Release(taken.release))
        assert old.execute("SELECT count(*) FROM notes").fetchone() == (20,)
        assert old.execute("PRAGMA journal_mode").fetchone() == (mode,)
        fill(old, 1)
    after = file.stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode), after.st_uid) == (before.st_ino, 0o640, before.st_uid)
    assert count(file) == 21


@pytest.mark.parametrize("mode", ["wal", "delete", "broken"])
def test_the_worker_killed_at_each_of_its_boundaries_leaves_the_old_or_the_new(tmp_path: Path, mode: str) -> None:
    reached: list[int] = []
    for number in count_from(1):
        path = tmp_path / str(number)
        path.mkdir()
        file = made(path, rows=400, mode="delete" if mode == "broken" else mode)
        finish(layer(path).take("first"))
        changed(file)
        if mode == "broken":
            file.write_bytes(b"this is no database" * 1000)
        manifest = DataCopy("before", "0" * 12, SystemClock().now(), "before", Lineage()).written
        job = {
            "do": "restore", "file": str(file), "staged": str(data_of(path, "first")), "data": "data.sqlite",
            "store": str(path / "scratch/store"), "keep": "before", "manifest": manifest, "journal": "delete",
            "lock_within": 5, "within": 60,
        }  # fmt: skip
        killed = _killed_at(number, job)
        there = path / "scratch/store/before/data.sqlite"
        if mode == "broken" and file.read_bytes()[:4] == b"this":
            reached.append(0)
        else:
            with closing(sqlite3.connect(file)) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = count(file)
            assert rows in {400, 405}
            reached.append(rows)
            if rows == 400:
                assert there.exists(), "what was there is a copy before anything else is"
        if there.exists() and mode != "broken":
            with closing(sqlite3.connect(f"file:{there}?immutable=1", uri=True)) as db:
                assert db.execute("SELECT count(*) FROM notes").fetchone() == (405,)
        if not killed:
            break
    assert reached[-1] == 400
    assert len(reached) >= 4
    assert reached[0] != 400


def _killed_at(number: int, job: dict[str, Any]) -> bool:
    """Whether a process that does the job is killed at its boundary of that number."""
    child = os.fork()
    if child == 0:
        passed = count_from(1)

        def hook(_name: str) -> None:
            if next(passed) == number:
                os.kill(os.getpid(), 9)

        boundary.hook = hook
        try:
            worker.restore(job)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) in {0, -9}
    return os.WIFSIGNALED(status)


def test_what_was_replaced_is_a_copy_and_can_be_gone_back_to(tmp_path: Path) -> None:
    file = made(tmp_path)
    ours = layer(tmp_path)
    taken = finish(ours.take("first"))
    changed(file)
    go(ours, Release(taken.release))
    (before,) = (one for one in finish(ours.snapshots()) if one.why == "before")
    assert list(finish(ours.verify(before.name))) == []
    go(ours, Release(before.release), "trouble-2/0/db")
    assert count(file) == 25
    assert finish(ours.current()).id == before.release


def test_the_same_copy_twice_is_two_lineages(tmp_path: Path) -> None:
    file = made(tmp_path)
    ours = layer(tmp_path)
    finish(ours.take("first"))
    for number in range(3):
        changed(file)
        release = finish(ours.as_of(SystemClock().now()))
        go(ours, release, f"trouble-{number}/0/db")
        assert count(file) == 20
        assert finish(ours.current()).id == release.id
        assert len({one.id for one in finish(ours.releases())}) == len(finish(ours.releases()))


def test_another_page_size_goes_in_where_nobody_has_it_open(tmp_path: Path) -> None:
    file = made(tmp_path, page=4096)
    ours = layer(tmp_path, lock_within="300ms")
    taken = finish(ours.take("first"))
    for sidecar in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        sidecar.unlink(missing_ok=True)
    made(tmp_path, rows=3, page=8192)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM notes").fetchone() == (3,)
        with pytest.raises(AdapterError, match="page size is another one"):
            go(ours, Release(taken.release))
    assert count(file) == 3
    go(ours, Release(taken.release))
    assert count(file) == 20
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_is_no_database_any_more_is_replaced_and_kept_as_it_is(tmp_path: Path) -> None:
    file = made(tmp_path, mode="delete")
    file.chmod(0o600)
    ours = layer(tmp_path)
    taken = finish(ours.take("first"))
    garbage = b"this is no database" * 1000
    file.write_bytes(garbage)
    assert finish(ours.current()).id == UNREADABLE
    assert finish(ours.as_of(SystemClock().now())).id == taken.release
    with file.open("rb"), pytest.raises(AdapterError, match="open in"):
        in_a_process_of_its_own(file, ours, taken.release)
    go(ours, Release(taken.release))
    assert count(file) == 20
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (before,) = (one for one in finish(ours.snapshots()) if one.why == "before")
    assert data_of(tmp_path, before.name).read_bytes() == garbage


def in_a_process_of_its_own(file: Path, ours: Any, release: str) -> None:
    """Our own having it open is somebody's, too: the worker is another process."""
    assert file.exists()
    go(ours, Release(release))


def test_a_database_that_is_gone_is_said(tmp_path: Path) -> None:
    ours = layer(tmp_path)
    with pytest.raises(AdapterError, match="no such database"):
        finish(ours.current())
    assert "no such database" in finish(ours.ready())[0].text


def of_an_application(file: Path) -> None:
    """A database with a collation and a module that only its application has, and a foreign key that SQLite takes and
    cannot check; its text is in UTF-16.
    """
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.create_collation("german", lambda one, other: (one > other) - (one < other))
        db.executescript(
            """
            PRAGMA encoding = 'UTF-16le';
            CREATE TABLE words (word TEXT COLLATE german PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE names (name TEXT COLLATE "german" UNIQUE REFERENCES words(word));
            CREATE TABLE parents (a, b);
            CREATE TABLE children (parent REFERENCES parents(a));
            CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);
            CREATE VIRTUAL TABLE shapes USING fts5(body);
            INSERT INTO words VALUES ('ä'), ('b');
            INSERT INTO names VALUES ('ä'), ('nobody');
            INSERT INTO children VALUES (1);
            INSERT INTO notes (text) VALUES ('ö');
            PRAGMA writable_schema = ON;
            UPDATE sqlite_schema SET sql = replace(sql, 'fts5', 'spatial') WHERE name = 'shapes';
            """
        )


def test_what_only_the_application_knows_keeps_no_copy_from_being_made_and_verified(tmp_path: Path) -> None:
    """Else no such database could be copied, or its copies would count as damaged."""
    file = tmp_path / "app.db"
    of_an_application(file)
    ours = layer(tmp_path, integrity=[{"sql": "SELECT count(*) FROM notes", "above": 0}])
    taken = finish(ours.take("first"))
    assert list(finish(ours.ready())) == []
    for found in (ours.verify("first"), ours.rehearse("first"), ours.diff("first")):
        assert list(finish(found)) == []
    survey = finish(ours.opened.survey("alembic_version"))
    assert survey.contents.rows == {"words": 2, "names": 2, "parents": 0, "children": 1, "notes": 1} | {
        name: rows for name, rows in survey.contents.rows.items() if name.startswith("shapes")
    }
    assert survey.schema == finish(ours.opened.schema("alembic_version"))
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("DELETE FROM notes")
    go(ours, Release(taken.release))
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT text FROM notes").fetchall() == [("ö",)]
    with sqlite3.connect(data_of(tmp_path, "first")) as copy:
        copy.execute("DELETE FROM children")
    assert ["its bytes" in one.text for one in finish(ours.verify("first"))] == [True], "what is damaged is seen"


def test_an_integrity_query_that_needs_what_only_the_application_has_is_no_fault_of_a_copy(tmp_path: Path) -> None:
    of_an_application(tmp_path / "app.db")
    ours = layer(tmp_path, integrity=[{"sql": "SELECT count(*) FROM shapes", "above": 0}])
    taken = finish(ours.take("first"))
    assert ["no such module: spatial" in one.text for one in finish(ours.ready())] == [True]
    with pytest.raises(AdapterError, match="no such module: spatial; correct `integrity`") as failed:
        go(ours, Release(taken.release))
    assert not failed.value.permanent
    assert finish(ours.snapshots())[0].restorable


def test_a_copy_whose_text_is_encoded_otherwise_is_told_in_the_plan(tmp_path: Path) -> None:
    file = made(tmp_path)
    ours = layer(tmp_path)
    taken = finish(ours.take("first"))
    for sidecar in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        sidecar.unlink(missing_ok=True)
    of_an_application(file)
    change = finish(planned(ours, Release(taken.release)))
    assert any("UTF-8" in risk and "UTF-16le" in risk and "open it again" in risk for risk in change.risks)
    go(ours, Release(taken.release))
    assert count(file) == 20


# -- snapshots --------------------------------------------------------------------------------------------
def test_snapshots_are_compared_rehearsed_and_carried(tmp_path: Path) -> None:
    file = made(tmp_path)
    ours = layer(tmp_path)
    assert isinstance(ours, Rehearses)
    first = finish(ours.take("first"))
    assert finish(ours.take("first")) == first, "the same data under the same name"
    changed(file)
    with pytest.raises(AdapterError, match="holds other data"):
        finish(ours.take("first"))
    second = finish(ours.take())
    assert [one.lines for one in finish(ours.diff("first", second.name))] == [("- rows 20", "+ rows 25")]
    assert [one.lines for one in finish(ours.diff("first"))] == [("- rows 20", "+ rows 25")]
    assert list(finish(ours.rehearse("first"))) == []
    assert list((tmp_path / "scratch/rehearsal").iterdir()) == []
    there = tmp_path / "exported"
    finish(ours.export_to("first", str(there)))
    shutil.rmtree(tmp_path / "scratch/store")
    back = finish(ours.import_from(str(there)))
    assert (back.release, back.created) == (first.release, first.created)
    assert list(finish(ours.verify(back.name))) == []
    go(ours, Release(back.release))
    assert count(file) == 20
    raw = there.read_bytes()
    there.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AdapterError) as refused:
        finish(ours.import_from(str(there)))
    assert refused.value.permanent


def test_wherever_one_bit_of_an_export_is_another_it_is_refused_or_the_same(tmp_path: Path) -> None:
    """Its manifest, too: when it was taken says whose data comes back. The rest are bits that mean nothing."""
    made(tmp_path)
    ours, there = layer(tmp_path), tmp_path / "exported"
    finish(ours.take("first"))
    finish(ours.export_to("first", str(there)))
    whole = there.read_bytes()

    def taken_in(body: bytes) -> object:
        into = tmp_path / "into"
        into.unlink(missing_ok=True)
        there.write_bytes(body)
        try:
            found = worker.unpack({"path": str(there), "into": str(into), "data": "data.sqlite", "largest": 2**20})
        except worker.Failed:
            return None
        return None if found["harms"] else (found["manifest"], into.read_bytes())

    wanted = taken_in(whole)
    assert wanted is not None
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        flipped = bytes([*whole[:place], whole[place] ^ 1 << place % 8, *whole[place + 1 :]])
        assert taken_in(flipped) in (None, wanted), f"byte {place} of {len(whole)}"
    assert taken_in(whole + gzip.compress(b"\0" * 2**25)) is None, "what follows it is not read without end"


# -- trials ---------------------------------------------------------------------------------------------
def test_what_is_copied_for_a_trial_is_no_copy_to_go_back_to(tmp_path: Path) -> None:
    made(tmp_path)
    ours, other = layer(tmp_path), layer(tmp_path, keep=1)

    async def tried() -> None:
        first = await ours.take("first")
        changed(tmp_path / "app.db")
        async with ours.apart_now():
            assert [one.why for one in await ours.snapshots()] == ["manual"], "it is nobody's but its own"
            assert (await other.as_of(SystemClock().now())).id == first.release
            assert [one.id for one in await other.releases()] == [ORIGIN, first.release]
            assert other.has_revision([]).name == "first"
            assert await other.prune() == [], "a trial counts for none that is kept"
        assert [one.name for one in await ours.snapshots()] == ["first"]

    finish(tried())


def test_what_a_kill_left_of_a_trial_is_dropped_after_a_day(tmp_path: Path) -> None:
    made(tmp_path)
    ours = layer(tmp_path, keep=1)
    finish(ours.take("first"))
    left = finish(ours.take(why="trial")).name
    assert finish(ours.prune()) == []
    manifest = tmp_path / "scratch/store" / left / "manifest.json"
    said = json.loads(manifest.read_bytes())
    yesterday = SystemClock().now() - timedelta(hours=25)
    manifest.write_text(json.dumps({**said, "created": yesterday.isoformat()}))
    assert finish(ours.prune({left})) == [], "somebody needs it"
    assert finish(ours.prune()) == [left]


def test_a_trial_that_runs_keeps_nobody_from_pruning(tmp_path: Path) -> None:
    made(tmp_path)
    ours, other = layer(tmp_path), layer(tmp_path, keep=1)

    async def pruned() -> Any:
        await ours.take("first")
        await ours.take("second")
        async with ours.apart("second"):
            return await other.prune(), sorted(path.name for path in tmp_path.glob("app.db.rollbackd-try/*"))

    assert finish(pruned()) == (["first"], ["data.sqlite"])


def test_a_trial_whose_copy_somebody_else_dropped_ends_well(tmp_path: Path) -> None:
    made(tmp_path)
    ours = layer(tmp_path)

    async def tried() -> None:
        async with ours.apart_now():
            (trial,) = ours._store.copies()
            ours._store.drop(trial.name)

    finish(tried())
    assert finish(ours.snapshots()) == []


def test_a_trial_follows_no_link_of_the_application(tmp_path: Path) -> None:
    """The database's directory is the application's, and what is ours may be root's."""
    made(tmp_path)
    ours, apart = layer(tmp_path), tmp_path / "app.db.rollbackd-try"
    finish(ours.take("first"))

    async def tried() -> None:
        async with ours.apart("first") as database:
            assert database.url("") == f"sqlite:///{apart}/data.sqlite"

    (apart / "deeper").mkdir(parents=True)
    finish(tried())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    apart.symlink_to(elsewhere)
    with pytest.raises(AdapterError, match=r"rollbackd-try: file exists"):
        finish(tried())
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


@pytest.mark.needs("root")
def test_what_a_user_gets_is_what_is_named_and_not_where_a_link_leads(tmp_path: Path) -> None:
    ours, link = tmp_path / "ours", tmp_path / "link"
    ours.touch()
    link.symlink_to(ours)
    given_to("nobody", link, tmp_path)
    assert ours.stat().st_uid == 0
    assert link.lstat().st_uid == tmp_path.stat().st_uid != 0
    with pytest.raises(AdapterError, match="no user nobody-knows"):
        given_to("nobody-knows", ours)


def test_an_export_that_breaks_off_leaves_no_part_behind(tmp_path: Path) -> None:
    made(tmp_path)
    finish(layer(tmp_path).take("first"))
    there, copy = tmp_path / "exported", tmp_path / "scratch/store/first"
    worker.export({"path": str(there), "copy": str(copy), "data": "data.sqlite"})
    assert there.stat().st_mode & 0o777 == 0o600
    there.unlink()
    with pytest.raises(FileNotFoundError):
        worker.export({"path": str(there), "copy": str(copy), "data": "gone.sqlite"})
    assert [path.name for path in tmp_path.glob("*exported*")] == []


# -- which copy, and which are kept -----------------------------------------------------------------------
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def copy(name: str, ago: int, lineage: Lineage | None = None, why: str = "schedule") -> DataCopy:
    number = f"{abs(hash(name)) % 16**12:012x}"
    return DataCopy(name, number, NOW - timedelta(minutes=ago), why, lineage or Lineage())


def test_a_time_is_found_in_what_ran_then() -> None:
    early, late, replaced = copy("early", 60), copy("late", 20), copy("replaced", 10, why="before")
    restored = Lineage(early.id, NOW - timedelta(minutes=10), ORIGIN)
    after = copy("after", 5, restored)
    copies = [early, late, replaced, after]

    def found(ago: int, present: Lineage) -> str:
        one = copy_as_of(copies, present, NOW - timedelta(minutes=ago))
        return one.name if one is not None else ""

    assert [found(ago, Lineage()) for ago in (70, 30, 15)] == ["", "early", "late"]
    assert found(1, restored) == "after"
    assert found(8, restored) == "early", "what was replaced is not gone back to by a later time"
    assert found(15, restored) == "late", "the data of that time"
    assert copy_as_of([late], restored, NOW) is None
    earlier = copy("of an earlier life of it", 30, Lineage(early.id))
    assert copy_as_of([early, earlier], restored, NOW) == early
    again = Lineage(f"{early.id}.2", NOW - timedelta(minutes=2), early.id)
    assert found(1, again) == "early"


def test_pruning_never_leaves_less_than_one_that_was_found_whole() -> None:
    copies = [copy(f"c{number}", number * 10) for number in range(6)]
    old = copy("old", 60 * 24 * 10, why="before")
    young = copy("young", 60, why="before")
    week = timedelta(days=7)
    left = kept([*copies, old, young], 2, week, {copies[4].id}, {"c5"}, NOW)
    assert left == {"c0", "c1", "c4", "c5", "young"}
    assert kept(copies, 1, week, {f"{copies[3].id}.2"}, set(), NOW) == {"c0", "c3"}


def test_manifests_that_are_none_are_told(tmp_path: Path) -> None:
    made(tmp_path)
    ours = layer(tmp_path)
    finish(ours.take("first"))
    manifest = tmp_path / "scratch/store/first/manifest.json"
    good = json.loads(manifest.read_bytes())
    for bad in (
        b"",
        b"{}",
        b"[]",
        json.dumps({**good, "id": "../x"}).encode(),
        json.dumps({**good, "created": 5}).encode(),
    ):
        manifest.write_bytes(bad)
        assert [(one.name, one.why, one.restorable) for one in finish(ours.snapshots())] == [
            ("first", "unreadable", False)
        ]
        with pytest.raises(AdapterError, match="manifest is damaged"):
            finish(ours.verify("first"))
