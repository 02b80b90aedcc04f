"""Points in time by pgBackRest, on a real server with a real repository, under a writer that keeps what was acknowledged."""

import asyncio
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress
from rollbackd.system.clock import SystemClock
from rollbackd.testing import finish, perform, place, planned
from rollbackd_adapters.copies import COPY_ID
from rollbackd_adapters.postgres import PostgresAdapter, points
from rollbackd_adapters.postgres.backup_repository import Backup, BackupRepository, position
from rollbackd_adapters.postgres.points import Points, time_id
from rollbackd_adapters.postgres.recovery import LogPoint
from rollbackd_adapters.postgres.server import fetch
from rollbackd_adapters.postgres.settings import PostgresSettings
from tests.contract.test_adapters_postgres import layer
from tests.contract.test_adapters_postgres_copies import drop_all
from tests.contract.test_adapters_postgres_ready import small
from tests.contract.test_adapters_postgres_swap import acknowledged, commits, databases, killed_before, meeting, writing
from tests.servers import ArchivedPostgres, Postgres, archived_postgres

pytestmark = [pytest.mark.needs("pgbackrest"), pytest.mark.timeout(300)]
EXAMPLE = Path(__file__).parents[2] / "examples/layered-recovery"
GRANTS = ("pg_create_restore_point(text)", "pg_switch_wal()")


@pytest.fixture(scope="module")
def archived() -> Iterator[ArchivedPostgres]:
    with archived_postgres("shared_preload_libraries=auto_explain") as running:
        yield running


@pytest.fixture
def shop(archived: ArchivedPostgres, tmp_path: Path) -> Iterator[Postgres]:
    """A database `shop` of the application's role, and a role of ours with the least rights."""
    server = archived.server
    server.sql("CREATE ROLE app LOGIN", "CREATE ROLE keeper LOGIN CREATEDB", "GRANT app, pg_signal_backend TO keeper")
    server.sql(*(f"GRANT EXECUTE ON FUNCTION {name} TO keeper" for name in GRANTS))
    server.sql("CREATE DATABASE shop OWNER app")
    server.sql("CREATE TABLE commits (n bigint PRIMARY KEY)", database="shop", user="app")
    yield server
    drop_all(server, "shop")
    server.sql(*(f"REVOKE EXECUTE ON FUNCTION {name} FROM keeper" for name in GRANTS))
    server.sql("DROP ROLE keeper", "DROP ROLE app")
    assert not list(archived.scratch.iterdir()), "a scratch cluster is left"


def keeper(archived: ArchivedPostgres, path: Path, **settings: Any) -> Any:
    return layer(archived.server, path, "shop", "keeper", **({"pgbackrest": archived.settings} | settings))


def now() -> datetime:
    return SystemClock().now()


def change_to(adapter: Any, when: datetime, key: str = "points-1/0/layer") -> Change:
    """The step to the data of a time."""
    return finish(planned(adapter, finish(adapter.as_of(when)), key))


def test_no_commit_before_a_marked_change_is_lost_and_none_after_it_comes_back(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path)
    assert list(finish(adapter.ready())) == []
    shop.sql("CREATE UNLOGGED TABLE visits AS SELECT 1 AS n", database="shop", user="app")
    with writing(shop, tmp_path / "acknowledged", 10) as path:
        time.sleep(0.3)
        at = now()
        finish(adapter.mark(at, "change"))
        done = now()
        time.sleep(0.3)
    change = change_to(adapter, at)
    assert change.after.created == at
    assert any("unlogged tables come back empty: public.visits" in risk for risk in change.risks)
    assert finish(perform(adapter, change)) is Progress.DONE
    told, new = acknowledged(path), commits(shop, "shop")
    before = {n for n, when in told.items() if when < at.timestamp()}
    after = {n for n, when in told.items() if when > done.timestamp()}
    assert before, "nothing was written before the change"
    assert before <= new, "commits before the marked change are lost"
    assert len(after - new) > len(after) - 11, "more than a commit of each client in flight came back from after it"
    assert told.keys() <= commits(shop, "shop_rollbackd_old_original")
    assert shop.sql("SELECT count(*) FROM visits", database="shop") == [(0,)]
    assert databases(shop) == ["shop", "shop_rollbackd_old_original"]


def test_a_time_that_nobody_marked_is_reached_also_on_an_idle_server(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly it says what time it has."""
    adapter = keeper(archived, tmp_path)

    async def slowly(*asked: Any) -> Any:
        await asyncio.sleep(0.5)
        return await fetch(*asked)

    monkeypatch.setattr(points, "fetch", slowly)
    shop.sql("INSERT INTO commits VALUES (1)", database="shop")
    when = now()
    shop.sql("INSERT INTO commits VALUES (2)", database="shop")
    change = change_to(adapter, when)
    assert change.after.id == time_id(when)
    assert change.after.created == when
    assert finish(perform(adapter, change)) is Progress.DONE
    assert commits(shop, "shop") == {1}
    later = change_to(adapter, now(), "points-2/0/layer")  # nothing is written after it by anybody else
    assert finish(perform(adapter, later)) is Progress.DONE
    assert commits(shop, "shop") == {1}


def test_the_example_goes_back_to_a_time_between_two_incremental_backups(
    archived: ArchivedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README of `layered-recovery` says it, with the layer's own settings."""
    server, said = archived.server, (EXAMPLE / "README.md").read_text()
    (backup,), (source,), (rights,) = (
        re.findall(pattern, said)
        for pattern in (
            r"pgbackrest --stanza=platform (\S+) backup`",
            r"`pgbackrest: (\{.*?\})`",
            r"`(GRANT EXECUTE .*?)`",
        )
    )
    server.run(EXAMPLE / "database.sql")
    server.sql(rights)
    orders = partial(server.sql, database="platform", user="platform")
    orders("CREATE TABLE orders (id serial PRIMARY KEY, net int, placed timestamptz DEFAULT clock_timestamp())")
    (service,) = yaml.safe_load((EXAMPLE / "config.yaml").read_text())["services"]
    here = {"dsn": server.dsn("platform", "rollbackd"), "store": str(tmp_path / "copies"), "floor": 0}
    repository = {"pgbackrest": {**yaml.safe_load(source), **archived.settings}}
    settings = PostgresSettings.model_validate(service["layers"]["db"] | here | repository)
    adapter: Any = PostgresAdapter(settings, place(tmp_path))
    orders("INSERT INTO orders (net) VALUES (1)")
    archived.pgbackrest("backup", backup)
    orders("INSERT INTO orders (net) VALUES (2)")
    when = now()
    orders("UPDATE orders SET net = -1")
    archived.pgbackrest("backup", backup)
    assert list(finish(adapter.ready())) == []
    restore, used = BackupRepository.restore, []

    async def noted(self: BackupRepository, backup: Backup, *rest: Any) -> None:
        used.append(backup.label)
        await restore(self, backup, *rest)

    monkeypatch.setattr(BackupRepository, "restore", noted)
    try:
        assert finish(perform(adapter, change_to(adapter, when)), timedelta(minutes=4)) is Progress.DONE
        assert orders("SELECT net FROM orders ORDER BY id") == [(1,), (2,)]
        assert [label[-1] for label in used] == ["I"], "the one before the change, which is incremental"
    finally:
        drop_all(server, "platform")
        server.sql(rights.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
        server.sql("REVOKE CONNECT ON DATABASE postgres FROM rollbackd", "DROP ROLE rollbackd", "DROP ROLE platform")


def test_the_repository_is_asked_once_for_each_answer(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a program that may talk to another continent."""
    adapter = keeper(archived, tmp_path)
    finish(adapter.mark(now(), "change"))
    ask, asked = BackupRepository.backups, []

    async def backups(self: BackupRepository, system: int, version: int) -> Any:
        asked.append(system)
        return await ask(self, system, version)

    monkeypatch.setattr(BackupRepository, "backups", backups)
    for question in (adapter.as_of(now()), adapter.ready(), adapter.prune()):
        asked.clear()
        finish(question)
        assert len(asked) == 1


def test_the_nearest_mark_before_is_taken_and_where_it_is_too_old_the_time_itself(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path)
    marked = now()
    finish(adapter.mark(marked, "good"))
    assert finish(adapter.as_of(marked)).created == marked
    for_a_while = timedelta(seconds=1)
    strict = keeper(archived, tmp_path, max_loss="0s")
    assert finish(adapter.as_of(now())).created == marked, "the mark is less than max_loss old"
    wanted = now()
    assert finish(strict.as_of(wanted)).created == wanted
    assert finish(adapter.as_of(wanted + for_a_while * 3600)).created == marked, "what is to come is no time"
    with pytest.raises(AdapterError, match="no copy is as old"):
        finish(adapter.as_of(datetime(2020, 1, 1, tzinfo=UTC)))


def test_the_scratch_cluster_is_private_and_runs_nothing_of_the_server(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    shop.sql("ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'", "ALTER SYSTEM SET ssl = 'on'")
    adapter = keeper(archived, tmp_path)
    seen: dict[str, str] = {}
    was = len(archived.segments())

    def look() -> None:
        (socket,) = archived.scratch.glob("*/socket")
        assert socket.stat().st_mode & 0o777 == 0o700
        with psycopg.connect(f"host={socket} port=5432 dbname=shop user=postgres", autocommit=True) as apart:
            rows = apart.execute("SELECT name, setting FROM pg_settings").fetchall()
            seen.update(rows)
            apart.execute("SELECT pg_switch_wal()")
            assert apart.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)

    try:
        finish(meeting("postgres.recovered", perform(adapter, change_to(adapter, now())), look))
    finally:
        shop.sql("ALTER SYSTEM RESET shared_preload_libraries", "ALTER SYSTEM RESET ssl")
    assert (seen["listen_addresses"], seen["archive_mode"], seen["shared_preload_libraries"]) == ("", "off", "")
    assert (seen["hot_standby"], seen["max_logical_replication_workers"], seen["max_wal_senders"]) == ("off", "0", "0")
    assert seen["data_directory"].startswith(str(archived.scratch))
    assert {segment.name[:8] for segment in archived.segments()} == {"00000001"}, "the scratch cluster archived"
    assert len(archived.segments()) > was


@pytest.mark.parametrize("name", ["postgres.recovered", "postgres.dumped apart"])  # the others need less to be ended
def test_killed_while_it_recovers_the_next_life_ends_what_is_left_and_finishes(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path, name: str
) -> None:
    shop.sql("INSERT INTO commits VALUES (1)", database="shop")
    change = change_to(keeper(archived, tmp_path), now())
    shop.sql("INSERT INTO commits VALUES (2)", database="shop")
    assert killed_before(name, partial(perform, keeper(archived, tmp_path), change)), f"it never came to {name}"
    assert bool(list(archived.scratch.iterdir())) == (name != "postgres.dumped apart"), "there was nothing to end"
    assert finish(perform(keeper(archived, tmp_path), change, retries=3)) is Progress.DONE
    assert commits(shop, "shop") == {1}
    assert not list(archived.scratch.iterdir())
    assert not [one for one in map(_command, Path("/proc").glob("[0-9]*")) if str(archived.scratch) in one]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_a_segment_that_is_gone_is_named_by_all_that_rest_on_it(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path, max_loss="1h")
    finish(adapter.take("dumped"))
    shop.sql("SELECT pg_switch_wal()", "CREATE TABLE t ()", "SELECT pg_switch_wal()", "DROP TABLE t")
    at = now()
    finish(adapter.mark(at, "change"))
    change = change_to(adapter, at)
    until = time.monotonic() + 30
    while finish(adapter.ready()):
        assert time.monotonic() < until
    lost = archived.segments()[-2]
    kept = lost.rename(lost.with_name("kept"))
    try:
        wanted = f"1 segments of WAL .* not in the repository .*{lost.name[8:24]}"
        found = finish(adapter.ready())
        assert any("1 segments of WAL" in one.text and lost.name[8:24] in one.text for one in found)
        with pytest.raises(AdapterError, match=wanted):
            finish(adapter.plan(change.after))
        (said,) = finish(adapter.verify(change.after.label))
        assert lost.name[8:24] in said.text
        assert finish(perform(adapter, change)) is Progress.DONE, "the next older copy is taken"
        assert "so the next older one was taken" in finish(adapter.note(change.key))
        assert finish(adapter.lost()) == [], "what was dumped is what there was"
    finally:
        kept.rename(lost)


def test_a_point_that_the_log_does_not_have_is_not_taken_for_reached(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path)
    at = now()
    finish(adapter.mark(at, "change"))
    (mark,) = finish(adapter.snapshots())
    manifest = tmp_path / "scratch/store" / mark.name / "manifest.json"
    said = json.loads(manifest.read_text())
    said["facts"]["point"]["name"] = "rollbackd_none"
    manifest.write_text(json.dumps(said))
    change = change_to(adapter, at)
    with pytest.raises(AdapterError, match="the log does not lead to restore point rollbackd_none") as failed:
        finish(adapter.apply(change))
    assert failed.value.permanent
    assert databases(shop) == ["shop"]
    assert not next(iter(finish(adapter.snapshots()))).restorable


def test_a_mark_is_rehearsed_by_a_recovery_and_leaves_nothing(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path)
    finish(adapter.mark(now(), "good"))
    (mark,) = finish(adapter.snapshots())
    assert list(finish(adapter.verify(mark.name))) == []
    assert list(finish(adapter.rehearse(mark.name))) == []
    assert databases(shop) == ["shop"]
    assert [one.size for one in finish(adapter.snapshots())] == [0], "a rehearsal keeps no dump"
    with pytest.raises(AdapterError, match="is a point of the log"):
        finish(adapter.diff(mark.name))


def test_marks_that_no_backup_leads_to_are_dropped_and_what_a_kill_left(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path)
    finish(adapter.mark(now(), "good"))
    finish(adapter.mark(now(), "good"))
    newest, oldest = finish(adapter.snapshots())
    manifest = tmp_path / "scratch/store" / oldest.name / "manifest.json"
    said = json.loads(manifest.read_text())
    said["facts"]["point"]["lsn"] = "0/10"
    manifest.write_text(json.dumps(said))
    assert finish(adapter.as_of(oldest.created)).id == time_id(oldest.created), "no backup leads to that mark"
    left = archived.scratch / adapter._server.named("restore")
    left.mkdir()
    assert list(finish(adapter.prune())) == [oldest.name]
    assert [one.name for one in finish(adapter.snapshots())] == [newest.name]
    assert not left.exists()


def test_without_the_repository_databases_that_were_replaced_are_dropped_all_the_same(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    other = archived.settings | {"stanza": "other"}
    lost = keeper(archived, tmp_path, pgbackrest=other, keep_old="1ms")
    for number in range(2):
        finish(lost.take(f"copy-{number}"))
        finish(lost.restore(f"copy-{number}", f"by hand {number}"))
        assert len(databases(shop)) == 2
        if number == 0:
            gone = finish(lost.prune())
            assert [one for one in gone if one.startswith("shop")] == ["shop_rollbackd_old_original"]
        else:
            finish(lost.mark(now(), "good"))
            with pytest.raises(AdapterError, match="no such stanza"):
                finish(lost.prune())
        assert databases(shop) == ["shop"]


def test_a_volume_that_is_full_fails_the_recovery_and_leaves_nothing(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    """The server's files fit, and the log that is read to recover them does not."""
    own = keeper(archived, tmp_path)
    size = finish(own._points.look()).backups.all[0].size
    with small(archived.scratch / "volume", str(size + 6 * 2**20)) as volume:
        if os.geteuid() == 0:
            shutil.chown(volume, "postgres", "postgres")
        adapter = keeper(archived, tmp_path, pgbackrest=archived.settings | {"scratch": str(volume)})
        change = change_to(adapter, now())
        with pytest.raises(AdapterError) as failed:
            finish(adapter.apply(change))
        assert not list(volume.iterdir())
    (archived.scratch / "volume").rmdir()
    assert not failed.value.permanent, "an older point would fare no better"
    assert "MiB are free; make room there" in str(failed.value)
    assert databases(shop) == ["shop"]


def test_a_mark_waits_for_no_copy_and_without_the_repository_there_still_are_the_dumps(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    adapter = keeper(archived, tmp_path)
    dumped = finish(adapter.take("dumped"))

    async def while_a_copy_is_made() -> None:
        async with adapter._storing():
            await adapter.mark(now(), "change")

    finish(while_a_copy_is_made())
    assert finish(adapter.snapshots())[0].why == "change"
    lost = keeper(archived, tmp_path, pgbackrest=archived.settings | {"stanza": "other"})
    assert finish(lost.as_of(now())).id == dumped.release
    with pytest.raises(AdapterError, match="no such stanza"):
        finish(lost.as_of(dumped.created - timedelta(seconds=1)))


@pytest.mark.needs("root")
def test_who_may_not_read_the_repository_is_told_so_and_not_that_there_is_no_backup(
    archived: ArchivedPostgres, shop: Postgres, tmp_path: Path
) -> None:
    archived.repository.chmod(0o750)
    adapter = keeper(archived, tmp_path, pgbackrest=archived.settings | {"run_as": "nobody"})
    texts = [one.text for one in finish(adapter.ready())]
    assert any("nobody may not read it: add them to the group of the repository" in text for text in texts), texts


def test_ready_says_what_a_recovery_lacks(archived: ArchivedPostgres, shop: Postgres, tmp_path: Path) -> None:
    cases = [
        ({"stanza": "other"}, "no such stanza"),
        ({"scratch": f"/tmp/{'x' * 80}"}, "the path of a socket has"),
        ({"run_as": "root"}, "root"),
    ]
    for given_, text in cases:
        adapter = keeper(archived, tmp_path, pgbackrest=archived.settings | given_)
        assert any(text in one.text for one in finish(adapter.ready())), text
    shop.sql("REVOKE EXECUTE ON FUNCTION pg_switch_wal() FROM keeper")
    (said,) = finish(keeper(archived, tmp_path).ready())
    assert "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO keeper" in said.text


@given(st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_id_of_a_time_says_which_to_the_microsecond(when: datetime) -> None:
    assert COPY_ID.fullmatch(time_id(when))
    assert Points.copy_of(time_id(when)).created == when
    point = LogPoint(timeline=3, time=when)
    assert LogPoint.read(json.loads(json.dumps(point.written))) == point


@given(st.integers(0, 2**64 - 1))
def test_a_place_in_the_log_is_read_as_the_server_writes_it(lsn: int) -> None:
    assert position(f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}") == lsn
