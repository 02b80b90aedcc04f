"""What the crash tests share: whole daemons that are started and killed, each in a directory of its own.

The daemon is the real one, served on its Unix socket; only its start is short-cut (`tests.crash.zygote`).
"""

import asyncio
import hashlib
import json
import os
import re
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from rollbackd.facts import Changed, MarkedGood, Record, Told
from rollbackd.incident.fold import fold
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, Journal, open_journal
from rollbackd.journal.reserve import RESERVE, Reserve
from rollbackd.journal.sqlite_journal import SqliteJournal
from rollbackd.model import State, incident_stream, service_stream
from rollbackd.system.clock import SystemClock
from rollbackd.system.supervisor import holders
from tests.crash.lives import LIMIT, Life, Zygote, until
from tests.fakes.slack import SlackFake

NEVER = "1h"
"""How often the layers are looked at for changes: not while a test counts what a rollback does."""


@dataclass
class World:
    """A daemon's directory, through all its lives."""

    root: Path
    mother: Zygote
    slack: SlackFake | None = None
    slack_url: str = ""
    life: Life | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """What every life is started with: the clock's speed and origin."""
    _firing: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The alerts that were posted, by their fingerprints, until they end."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    # -- its configuration ----------------------------------------------------------------------
    def configure(self, services: Sequence[Mapping[str, Any]], **others: Any) -> None:
        """Write the configuration; the rule is an alert called Sick, about anything that is a service."""
        signals = self.root / "signals"
        signals.mkdir(exist_ok=True)
        signals.chmod(0o1770)
        config: dict[str, Any] = {
            "daemon": {
                "mode": "act",
                "listen": "127.0.0.1:0",
                "socket": str(self.way_in),
                "journal": self.journal_url,
                "signals": str(signals),
                "scratch": str(self.root / "layers"),
                "open_on_loopback": True,
                "look_every": NEVER,
            },
            "rules": [{"name": "sick", "when": {"alert": 'alertname="Sick"'}}],
            "limits": {"common_cause": False},
            "services": list(services),
        }
        if self.slack_url:
            secret = self.root / "slack"
            secret.write_text(self.slack_url)
            secret.chmod(0o600)
            config["notify"] = {"receivers": [{"name": "room", "slack": {"webhook_url": {"file": str(secret)}}}]}
        self.config.write_text(yaml.safe_dump(config | others, sort_keys=False))

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def way_in(self) -> Path:
        return self.root / "sock"

    @property
    def database(self) -> Path:
        return self.root / "journal.db"

    @property
    def journal_url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def log(self) -> str:
        path = self.root / "log"
        return path.read_text() if path.exists() else ""

    # -- its lives ------------------------------------------------------------------------------
    async def start(self, **hook: Any) -> Life:
        """A new life, which need not get as far as answering; `hook` is what `tests.crash.zygote` understands."""
        assert self.dead
        order = {"config": str(self.config), "log": str(self.root / "log"), "journal": str(self.database)}
        self.life = Life((await self.mother.ask({**order, **self.settings, **hook}))["pid"], self.mother)
        self._alertmanager = asyncio.create_task(self._end_alerts(self.life))
        return self.life

    async def _end_alerts(self, life: Life) -> None:
        """What Alertmanager does: say that an alert has ended, once something was gone back in its service."""
        while life.alive:
            for name, one in tuple(self._firing.items()):
                of_service = f"stream LIKE 'incident:{one['labels']['service']}-%'"
                if self.counted(f"SELECT count(*) FROM facts WHERE kind = 'Applied' AND {of_service}"):
                    now = datetime.now(UTC).isoformat()
                    if await self._deliver({**one, "status": "resolved", "endsAt": now}):
                        self._firing.pop(name, None)
            await asyncio.sleep(0.1)

    @property
    def dead(self) -> bool:
        return self.life is None or not self.life.alive

    async def serving(self) -> bool:
        """Wait until it answers; False when it ended first."""

        async def ready() -> bool:
            if self.dead:
                return True
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.way_in))
                return True
            return False

        await until(ready, f"{self.root.name} answers; log: {self.log[-2000:]}")
        return not self.dead

    async def begin(self, **hook: Any) -> Life:
        """A new life, once it answers."""
        life = await self.start(**hook)
        assert await self.serving(), f"{self.root.name} ended: {self.log[-2000:]}"
        return life

    # -- talking to it --------------------------------------------------------------------------
    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request on the socket. :raises aiohttp.ClientError: OSError: nobody answers, or not to the end."""
        connector = aiohttp.UnixConnector(str(self.way_in), force_close=True)
        limit = aiohttp.ClientTimeout(total=LIMIT)
        async with (
            aiohttp.ClientSession("http://rollbackd", connector=connector, timeout=limit) as session,
            session.request(method, path, json=body) as answer,
        ):
            return answer.status, await answer.json()

    async def get(self, path: str) -> Any:
        status, found = await self.ask("GET", path)
        assert status == 200, found
        return found

    async def order(self, path: str, **body: Any) -> Any:
        """A POST that must be taken."""
        status, found = await self.ask("POST", path, body)
        assert status == 200, found
        return found

    async def post(self, *alerts: Mapping[str, Any]) -> bool:
        """Deliver alerts; whether it answered 200, that is whether Alertmanager would not send them again."""
        self._firing |= {one["fingerprint"]: one for one in alerts}
        return await self._deliver(*alerts)

    async def _deliver(self, *alerts: Mapping[str, Any]) -> bool:
        try:
            status, answer = await self.ask("POST", "/api/v1/alerts", delivery(alerts))
        except (aiohttp.ClientError, OSError):
            return False
        assert status in {200, 503}, answer
        return status == 200

    async def has(self, kind: str, saying: str = "") -> bool:
        """Wait until there is a fact of that kind, with `saying` in it; False when the daemon ended first."""
        where = f"kind = '{kind}' AND instr(body, '{saying}')" if saying else f"kind = '{kind}'"

        async def wanted() -> bool:
            return self.dead or self.counted(f"SELECT count(*) FROM facts WHERE {where}") > 0

        await until(wanted, f"{kind} {saying}; log: {self.log[-3000:]}")
        return not self.dead or self.counted(f"SELECT count(*) FROM facts WHERE {where}") > 0

    async def told(self, event: str) -> bool:
        """Wait until people were told; False when the daemon ended first."""
        return await self.has("Told", f'"event":"{event}"')

    async def settled(self) -> None:
        """What still waited in the outbox when it was stopped is told by another life: late, and not lost."""
        waiting = "SELECT count(*) FROM outbox WHERE ended IS NULL"
        if self.counted(waiting):
            life = await self.begin()

            async def told() -> bool:
                return self.counted(waiting) == 0

            await until(told, f"all is told; log: {self.log[-2000:]}")
            assert await life.stop() == 0

    async def checked(self) -> list[Record]:
        """What holds of its journal once all is quiet; its facts."""
        await self.settled()
        async with self.journal() as journal:
            return await check_journal(journal)

    # -- what it left ---------------------------------------------------------------------------
    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        """Its journal, while it is dead."""
        assert self.dead
        journal = await open_journal(self.journal_url, SystemClock())
        try:
            yield journal
        finally:
            await journal.close()

    async def deployed(self, histories: Mapping[str, Sequence[State]]) -> None:
        """Write down what ran before, oldest first: all of it good but the last, which came a minute ago."""
        now, minute = datetime.now(UTC), timedelta(minutes=1)
        entries = []
        for service, (*good, bad) in histories.items():
            found: list[Any] = []
            for age, state in zip(range(len(good), 0, -1), good, strict=True):
                found.append(Changed(state, now - 60 * age * minute, now - 60 * age * minute))
                found.append(MarkedGood(state, "ran 30m without a trigger"))
            found.append(Changed(bad, now - 2 * minute, now - minute))
            entries += [Entry(service_stream(service), fact) for fact in found]
        await (await SqliteJournal.open(self.journal_url, SystemClock(), reserve=1)).close()
        os.truncate(Reserve(self.database).path, RESERVE)  # as large as it must be, and costs nothing
        async with self.journal() as journal:
            await journal.append(*entries)

    async def incident(self, name: str) -> Incident | None:
        """An incident, read while the daemon is dead."""
        async with self.journal() as journal:
            return fold(await journal.read(incident_stream(name)))

    def survivors(self) -> list[int]:
        """What earlier lives started and still works."""
        return [pid for lock in self.root.glob("layers/locks/*.run") for pid in holders(lock)]

    def counted(self, query: str) -> int:
        """One number from its database, also while it lives; read only, so that the next life finds what the last left.

        0 when a kill has left it so that only a writer can read it.
        """
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute(query).fetchone()[0])
            except sqlite3.OperationalError:
                return 0

    def heard(self, service: str) -> Counter[str]:
        """What Slack took about a service, by text."""
        assert self.slack is not None
        name = re.compile(rf"\b{re.escape(service)}\b")
        return Counter(body["text"] for body in self.slack.taken if name.search(body["text"]))


def of_kind(records: Sequence[Record], kind: type[Any]) -> list[Any]:
    """The facts of a kind, in order."""
    return [record.fact for record in records if isinstance(record.fact, kind)]


async def check_journal(journal: Journal) -> list[Record]:
    """What holds of every journal once all is quiet; its facts."""
    assert (await journal.audit()).broken == ()
    assert await journal.unhandled() == []
    assert await journal.waiting() == []
    records = await journal.since(0)
    keys = Counter((told.receiver, told.key) for told in of_kind(records, Told))
    assert set(keys.values()) <= {1}, f"delivered twice: {keys}"
    return records


def alert(service: str, number: int = 0, since: timedelta = timedelta(seconds=20)) -> dict[str, Any]:
    """One alert, as Alertmanager writes it; different numbers are different alerts."""
    labels = {"alertname": "Sick", "service": service, "instance": str(number)}
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": f"{service} is sick"},
        "startsAt": (datetime.now(UTC) - since).isoformat().replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example:9090/graph",
        "fingerprint": f"{hash_of(labels):016x}",
    }


def hash_of(labels: Mapping[str, str]) -> int:
    """64 bits that differ for different labels, the same in every process."""
    text = json.dumps(labels, sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def delivery(alerts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A webhook's body."""
    return {
        "version": "4",
        "groupKey": '{}:{alertname="Sick"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "rollbackd",
        "groupLabels": {"alertname": "Sick"},
        "commonLabels": {"alertname": "Sick"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "alerts": list(alerts),
    }
