"""Emptying a Redis: the contract on a real server, and what must never be removed twice or too early."""

import itertools
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import NO_RELEASE, Change, Progress, Release
from rollbackd.syntax.units import Secret
from rollbackd.system import boundary
from rollbackd.testing import StepContract, World, finish, killed_at, perform, place, planned
from rollbackd_adapters.redis import RedisAdapter, RedisSettings
from tests.authority import NEW_KEY
from tests.servers import free_port, redis_server

pytestmark = pytest.mark.needs("redis-server")

PASSWORD = "s3cret-of-redis"


class Server:
    """A real one, asked in its own protocol and by nothing of ours."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.databases = itertools.count(1)

    def ask(self, *command: str, db: int = 0) -> Any:
        done = subprocess.run(
            ["redis-cli", "-p", str(self.port), "-n", str(db), *command], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def fill(self, db: int, **counts: int) -> None:
        """So many keys `NAME:0`, `NAME:1`, …."""
        lines = [f"SET {name}:{n} x\r\n" for name, count in counts.items() for n in range(count)]
        subprocess.run(
            ["redis-cli", "-p", str(self.port), "-n", str(db), "--pipe"],
            input="".join(lines), capture_output=True, text=True, check=True,
        )  # fmt: skip

    def keys(self, db: int) -> list[str]:
        return sorted(key for key in self.ask("KEYS", "*", db=db).splitlines() if not key.startswith("rollbackd:"))

    def calls(self, command: str) -> int:
        lines = self.ask("INFO", "commandstats").splitlines()
        return next((int(line.partition("calls=")[2].split(",")[0]) for line in lines if line.startswith(f"cmdstat_{command}:")), 0)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis") / "m", "--databases", "1000") as port:
        yield Server(port)


class RedisWorld(World):
    def __init__(self, server: Server, path: Path, **settings: Any) -> None:
        self.server = server
        self.path = path
        self.db = next(server.databases)
        self.user = f"u{self.db}"
        self.rights("+@all")
        server.fill(self.db, session=30, page=7)
        self.flushed = server.calls("flushdb")
        self.settings = {
            "adapter": "redis", "url": f"redis://127.0.0.1:{server.port}/{self.db}", "username": self.user,
            "password": {"env": "REDIS"}, "request_timeout": "5s", **(settings or {"flush": True}),
        }  # fmt: skip

    def rights(self, *rules: str) -> None:
        self.server.ask("ACL", "SETUSER", self.user, "reset", "on", f">{PASSWORD}", "~*", *rules)

    def adapter(self) -> RedisAdapter:
        def reveal(secret: Secret) -> str:
            assert secret.env == "REDIS"
            return PASSWORD

        return RedisAdapter(RedisSettings.model_validate(self.settings), replace(place(self.path), reveal=reveal))

    def present(self) -> str:
        return "-"

    def target(self) -> Release:
        return NO_RELEASE

    def finished(self) -> int:
        return self.server.calls("flushdb") - self.flushed

    def everything(self) -> object:
        return sorted(self.server.ask("KEYS", "*", db=self.db).splitlines()), self.finished()

    def break_it(self) -> None:
        self.rights("+@all", "-flushdb", "-unlink")

    def hang(self) -> None:
        self.settings["request_timeout"] = "300ms"
        self.server.ask("CLIENT", "PAUSE", "400", "WRITE")


class PatternWorld(RedisWorld):
    def __init__(self, server: Server, path: Path, **settings: Any) -> None:
        super().__init__(server, path, pattern="session:*", batch=10, pause="1ms", **settings)

    def finished(self) -> int:
        left = {key.partition(":")[0] for key in self.server.keys(self.db)}
        assert "page" in left
        return 0 if "session" in left else 1


class TestRedisFlush(StepContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server

    def make_world(self, path: Path) -> World:
        return RedisWorld(self.server, path)


class TestRedisPattern(TestRedisFlush):
    def make_world(self, path: Path) -> World:
        return PatternWorld(self.server, path)


@pytest.fixture
def flush(server: Server, tmp_path: Path) -> RedisWorld:
    return RedisWorld(server, tmp_path)


@pytest.fixture
def pattern(server: Server, tmp_path: Path) -> PatternWorld:
    return PatternWorld(server, tmp_path)


def empty(world: RedisWorld) -> None:
    change = finish(planned(world.adapter(), NO_RELEASE))
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_a_database_is_emptied_and_no_other(flush: RedisWorld) -> None:
    other = next(flush.server.databases)
    flush.server.fill(other, page=3)
    change = finish(planned(flush.adapter(), NO_RELEASE))
    where = f"database {flush.db} of redis://127.0.0.1:{flush.server.port}"
    noted = "and notes that for a day in a key rollbackd:flushed:…"
    assert change.risks == (f"removes all 37 keys of {where}, {noted}",)
    empty(flush)
    assert flush.server.keys(flush.db) == []
    assert len(flush.server.keys(other)) == 3


def test_what_matches_goes_and_the_rest_stays(pattern: PatternWorld) -> None:
    empty(pattern)
    assert pattern.server.keys(pattern.db) == [f"page:{n}" for n in range(7)]


@pytest.mark.parametrize("kind", [RedisWorld, PatternWorld])
def test_what_came_in_after_it_was_done_stays_whatever_was_killed(
    server: Server, tmp_path: Path, kind: type[RedisWorld]
) -> None:
    for n in itertools.count(1):
        world = kind(server, tmp_path / str(n))
        change = finish(planned(world.adapter(), NO_RELEASE))
        killed = killed_at(n, lambda w=world, c=change: perform(w.adapter(), c), descending=False)  # type: ignore[misc]
        done = not [key for key in server.keys(world.db) if key.startswith("session")]
        if done and isinstance(world, PatternWorld) and killed:
            continue  # its last batch is gone, and nothing but going on can tell that it was the last
        server.fill(world.db, session=2)
        assert finish(perform(world.adapter(), change)) is Progress.DONE
        left = [key for key in server.keys(world.db) if key.startswith("session")]
        assert left == (["session:0", "session:1"] if done else []), f"killed at boundary {n}"
        if not killed:
            break


def test_a_sweep_that_was_cut_off_goes_on_where_it_was(pattern: PatternWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    import rollbackd_adapters.redis as module

    monkeypatch.setattr(module, "_NOTED", timedelta())
    pattern.server.fill(pattern.db, session=1000)
    change = finish(planned(pattern.adapter(), NO_RELEASE))
    start = pattern.server.calls("scan")
    assert killed_at(60, lambda: perform(pattern.adapter(), change), descending=False)
    before = pattern.server.calls("scan")
    assert finish(perform(pattern.adapter(), change)) is Progress.DONE
    assert pattern.finished() == 1
    assert pattern.server.calls("scan") - before < before - start, "it began anew"
    (done,) = (pattern.path / "scratch").rglob("done.json")
    assert 950 < json.loads(done.read_text())["removed"] <= 1000


def test_a_sweep_that_takes_too_long_is_given_up_for_now_and_goes_on(pattern: PatternWorld) -> None:
    pattern.settings["timeout"] = "1ms"
    change = finish(planned(pattern.adapter(), NO_RELEASE))
    with pytest.raises(AdapterError, match=r"not through after 1ms, .* keys removed so far") as failed:
        finish(pattern.adapter().apply(change))
    assert not failed.value.permanent
    pattern.settings["timeout"] = "10s"
    assert finish(perform(pattern.adapter(), change)) is Progress.DONE
    assert pattern.finished() == 1


def test_a_connection_that_is_lost_in_the_middle_loses_neither_the_place_nor_the_count(pattern: PatternWorld) -> None:
    pattern.server.fill(pattern.db, session=300)
    change = finish(planned(pattern.adapter(), NO_RELEASE))
    batches = itertools.count(1)

    def hook(name: str) -> None:
        if name == "redis.batch" and next(batches) == 10:
            pattern.server.ask("CLIENT", "KILL", "USER", pattern.user)

    boundary.hook = hook
    with pytest.raises(AdapterError, match=r"onnection") as failed:
        finish(pattern.adapter().apply(change))
    assert not failed.value.permanent
    assert finish(perform(pattern.adapter(), change)) is Progress.DONE
    assert pattern.finished() == 1
    (done,) = (pattern.path / "scratch").rglob("done.json")
    assert json.loads(done.read_text())["removed"] == 300


def test_after_the_server_was_started_anew_a_sweep_begins_anew(tmp_path: Path) -> None:
    with redis_server(tmp_path / "first") as port:
        world = PatternWorld(Server(port), tmp_path / "world")
        world.settings |= {"url": f"redis://127.0.0.1:{port}/{world.db}", "timeout": "1ms"}
        change = finish(planned(world.adapter(), NO_RELEASE))
        with pytest.raises(AdapterError, match="not through"):
            finish(world.adapter().apply(change))
    with redis_server(tmp_path / "second") as port:
        other = PatternWorld(Server(port), tmp_path / "world")
        assert finish(perform(other.adapter(), change)) is Progress.DONE
        assert other.finished() == 1


def test_one_that_is_full_is_emptied_too(tmp_path: Path) -> None:
    with redis_server(tmp_path / "server", "--maxmemory", "100mb", "--maxmemory-policy", "noeviction") as port:
        world = RedisWorld(Server(port), tmp_path / "world")
        world.server.ask("CONFIG", "SET", "maxmemory", "1kb")
        assert finish(world.adapter().ready()) == []
        empty(world)
        assert world.server.keys(world.db) == []
        assert world.finished() == 1


def test_a_replica_is_refused_and_its_master_named(server: Server, tmp_path: Path) -> None:
    options = ("--databases", "1000", "--replicaof", "127.0.0.1", str(server.port))
    with redis_server(tmp_path / "replica", *options) as port:
        settings = RedisSettings.model_validate({"adapter": "redis", "url": f"redis://127.0.0.1:{port}", "flush": True})
        adapter = RedisAdapter(settings, place(tmp_path))
        (problem,) = finish(adapter.ready())
        assert (
            f"is a replica, in which nothing can be removed; name its master, 127.0.0.1:{server.port}" in problem.text
        )
        with pytest.raises(AdapterError, match="name its master") as refused:
            finish(adapter.apply(Change("layer", NO_RELEASE, NO_RELEASE, key="shop-1/0/cache")))
        assert refused.value.permanent


def test_a_flush_that_another_journal_called_the_same_is_not_taken_for_ours(server: Server, tmp_path: Path) -> None:
    world = RedisWorld(server, tmp_path)
    change = finish(planned(world.adapter(), NO_RELEASE))
    finish(world.adapter().apply(change))
    world.path = tmp_path / "of another journal"
    server.fill(world.db, page=3)
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED
    finish(world.adapter().apply(change))
    assert server.keys(world.db) == []


def test_what_the_same_command_will_get_again_is_final_and_says_what_to_do(tmp_path: Path) -> None:
    renamed = ("--rename-command", "FLUSHDB", "", "--rename-command", "UNLINK", "")
    with redis_server(tmp_path / "server", *renamed) as port:
        server = Server(port)
        server.fill(0, session=1)
        for settings, words in (
            ({"flush": True}, "unknown command 'FLUSHDB'.*; it is renamed or switched off there"),
            ({"pattern": "session:*"}, "unknown command 'UNLINK'.*; it is renamed or switched off there"),
            ({"pattern": "a*", "db": 99}, "DB index is out of range; correct the database's number"),
        ):
            known = {"adapter": "redis", "url": f"redis://127.0.0.1:{port}", **settings}
            adapter = RedisAdapter(RedisSettings.model_validate(known), place(tmp_path))
            assert finish(adapter.ready()), "it is told before"
            with pytest.raises(AdapterError, match=words) as refused:
                finish(adapter.apply(Change("layer", NO_RELEASE, NO_RELEASE, key="shop-1/0/cache")))
            assert refused.value.permanent
        assert server.keys(0) == ["session:0"]


def test_a_cluster_is_refused(tmp_path: Path) -> None:
    with redis_server(tmp_path / "server", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as port:
        settings = RedisSettings.model_validate(
            {"adapter": "redis", "url": f"redis://127.0.0.1:{port}", "pattern": "a*"}
        )
        adapter = RedisAdapter(settings, place(tmp_path))
        (problem,) = finish(adapter.ready())
        assert "node of a cluster" in problem.text
        with pytest.raises(AdapterError, match="node of a cluster"):  # else the keys of the other nodes stay
            finish(adapter.apply(Change("layer", NO_RELEASE, NO_RELEASE, key="shop-1/0/cache")))


def test_a_right_that_is_missing_is_told_before_and_final_after(flush: RedisWorld) -> None:
    flush.break_it()
    (problem,) = finish(flush.adapter().ready())
    assert "no permissions to run the 'flushdb'" in problem.text
    with pytest.raises(AdapterError, match="give the user that right") as refused:
        empty(flush)
    assert refused.value.permanent
    assert len(flush.server.keys(flush.db)) == 37


DOCUMENTED = (
    "+ping +role +select +dbsize +exists +multi +exec +flushdb +set ~rollbackd:*",
    "+ping +role +select +info +scan +unlink ~session:*",
)


@pytest.mark.parametrize(("kind", "rights"), list(zip((RedisWorld, PatternWorld), DOCUMENTED, strict=True)))
def test_the_rights_that_are_documented_are_enough(
    server: Server, tmp_path: Path, kind: type[RedisWorld], rights: str
) -> None:
    assert rights.removesuffix(" ~session:*") in (Path(__file__).parents[2] / "docs/adapters.md").read_text()
    world = kind(server, tmp_path)
    server.ask("ACL", "SETUSER", world.user, "reset", "on", f">{PASSWORD}", *rights.split())
    assert finish(world.adapter().ready()) == []
    empty(world)
    assert world.finished() == 1


def test_a_wrong_password_is_final_and_never_shown(flush: RedisWorld) -> None:
    flush.server.ask("ACL", "SETUSER", flush.user, "resetpass", ">other")
    (problem,) = finish(flush.adapter().ready())
    assert "look at `username` and `password`" in problem.text
    assert PASSWORD not in problem.text


def test_one_that_is_gone_or_hangs_is_told_in_time(tmp_path: Path) -> None:
    with redis_server(tmp_path / "server") as port, socket.create_server(("127.0.0.1", 0)) as silent:
        gone = {"adapter": "redis", "pattern": "a*", "request_timeout": "300ms"}
        for url in ("redis://127.0.0.1:1", f"redis://127.0.0.1:{silent.getsockname()[1]}"):
            settings = RedisSettings.model_validate(gone | {"url": url})
            (problem,) = finish(RedisAdapter(settings, place(tmp_path)).ready())
            assert settings.where in problem.text
        assert port


def test_it_is_reached_by_a_socket_too(tmp_path: Path) -> None:
    with redis_server(tmp_path / "server", "--unixsocket", str(tmp_path / "s")) as port:
        world = RedisWorld(Server(port), tmp_path / "world")
        world.settings |= {"url": f"unix://{tmp_path}/s", "db": world.db}
        empty(world)
        assert world.server.keys(world.db) == []


@pytest.mark.needs("openssl")
def test_it_is_reached_by_tls_whose_certificate_is_verified(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", *NEW_KEY, "-nodes", "-keyout", tmp_path / "key", "-out",
         tmp_path / "crt", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    files = ["--tls-cert-file", str(tmp_path / "crt"), "--tls-key-file", str(tmp_path / "key")]
    files += ["--tls-ca-cert-file", str(tmp_path / "crt"), "--tls-auth-clients", "no"]
    tls = free_port()
    with redis_server(tmp_path / "server", "--tls-port", str(tls), *files) as port:
        Server(port).fill(0, page=3)
        plain = {"adapter": "redis", "flush": True, "url": f"rediss://127.0.0.1:{tls}"}
        (problem,) = finish(RedisAdapter(RedisSettings.model_validate(plain), place(tmp_path)).ready())
        assert "give `ca`, the certificates that sign it" in problem.text
        missing = RedisSettings.model_validate({**plain, "ca": tmp_path / "none"})
        assert finish(RedisAdapter(missing, place(tmp_path)).ready())[0].text.endswith(
            "none: no such file; correct `ca`"
        )
        trusted = RedisAdapter(RedisSettings.model_validate({**plain, "ca": tmp_path / "crt"}), place(tmp_path))
        change = finish(planned(trusted, NO_RELEASE))
        assert finish(perform(trusted, change)) is Progress.DONE
        assert Server(port).keys(0) == []


def test_only_what_holds_data_counts_as_data_and_cannot_be_taken_back(flush: RedisWorld) -> None:
    assert not flush.adapter().traits.data
    assert finish(flush.adapter().plan(NO_RELEASE)).reversible
    flush.settings["holds_data"] = True
    assert flush.adapter().traits.data
    assert not finish(flush.adapter().plan(NO_RELEASE)).reversible


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "either `flush: true` or a `pattern`"),
        ({"flush": True, "pattern": "a*"}, "either `flush: true` or a `pattern`"),
        ({"flush": True, "url": "http://h"}, "this is no Redis"),
        ({"flush": True, "url": "redis://u:p@h"}, "would be shown"),
        ({"flush": True, "url": "redis://h/x"}, "not a database's number"),
        ({"flush": True, "url": "redis://h/1", "db": 2}, "another database than the URL's"),
        ({"flush": True, "username": "u"}, "give `password"),
        ({"flush": True, "ca": "/x"}, "write the URL with rediss://"),
        ({"flush": True, "batch": 0}, "greater than or equal"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as failed:
        RedisSettings.model_validate({"adapter": "redis", "url": "redis://127.0.0.1", **settings})
    assert words in str(failed.value)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollbackd.system.redis_client.find_spec", lambda _name: None)
    with pytest.raises(ValidationError, match=r"rollbackd\[redis\]"):
        RedisSettings.model_validate({"adapter": "redis", "url": "redis://127.0.0.1", "flush": True})


# -- a pattern that matches nothing -------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "left"),
    [("sesion:*", 30), ("Session:*", 30), ("session", 30), ("nothing:[0-9]", 0), ("session:*", 0)],
    ids=["misspelt", "other letters", "no star", "empty database", "removed already"],
)
def test_a_pattern_that_matches_nothing_is_told_before_and_after(
    server: Server, tmp_path: Path, pattern: str, left: int
) -> None:
    world = PatternWorld(server, tmp_path)
    world.settings["pattern"] = pattern
    if not left:
        server.ask("FLUSHDB", db=world.db)
    where = f"database {world.db} of redis://127.0.0.1:{server.port}"
    change = finish(planned(world.adapter(), NO_RELEASE))
    assert change.risks == (f"removes all keys that match {pattern} in {where}; none does now: is the pattern right?",)
    assert finish(world.adapter().note(change.key)) == "", "nothing was done yet"
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert finish(world.adapter().note(change.key)) == f"nothing was removed: no key of {where} matched {pattern}"
    assert len([key for key in server.keys(world.db) if key.startswith("session")]) == left


def test_an_empty_database_that_is_emptied_is_told_and_a_full_one_is_not(server: Server, tmp_path: Path) -> None:
    for number, keys in enumerate((0, 5)):
        world = RedisWorld(server, tmp_path / str(number))
        server.ask("FLUSHDB", db=world.db)
        server.fill(world.db, page=keys)
        change = finish(planned(world.adapter(), NO_RELEASE))
        assert finish(perform(world.adapter(), change)) is Progress.DONE
        told = finish(world.adapter().note(change.key))
        assert ("had no keys" in told) is (keys == 0)
        assert bool(told) is (keys == 0)


def test_a_large_database_is_not_looked_through_for_a_plan(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PatternWorld(server, tmp_path)
    world.settings["pattern"] = "none:*"
    monkeypatch.setattr("rollbackd_adapters.redis._LOOKED_FOR", timedelta())
    (risk,) = finish(planned(world.adapter(), NO_RELEASE)).risks
    assert risk.endswith("none of about 0 keys that were looked at does")
