"""A person's rollback with the daemon stopped, on a question that stands in the journal: the real journal and runner."""

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.app import offline_rollback
from rollbackd.config.load import dump_service, load
from rollbackd.facts import Record
from rollbackd.incident.fold import fold
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, open_journal
from rollbackd.model import (
    FLEET,
    Action,
    ApprovalRequest,
    Decision,
    Outcome,
    Priority,
    Release,
    Request,
    State,
    Trigger,
    incident_stream,
    service_stream,
)
from rollbackd.system.clock import SystemClock
from rollbackd.views.shapes import RecordView

ANN, BOB = "unix:ann", "unix:bob"
APPLY = "import os, pathlib; pathlib.Path(os.sys.argv[1]).write_text(os.environ['ROLLBACKD_AFTER'])"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    present, known, signals = tmp_path / "present", tmp_path / "known", tmp_path / "signals"
    present.write_text("v2")
    known.write_text("v2\nv1\n")
    signals.mkdir(mode=0o770)
    layer = {
        "adapter": "command", "current": ["cat", str(present)], "releases": ["cat", str(known)],
        "apply": [sys.executable, "-S", "-E", "-c", APPLY, str(present)],
    }  # fmt: skip
    service = {
        "name": "shop", "match": {"service": "shop"}, "layers": {"code": layer},
        "checks": {"health": {"command": ["true"]}},
        "verify": {"every": "1s", "passes": 1, "settle": "0s", "deadline": "20s", "watch": "0s", "checks": ["health"]},
    }  # fmt: skip
    daemon = {
        "mode": "act", "open_on_loopback": True, "signals": str(signals), "scratch": str(tmp_path / "layers"),
        "journal": f"sqlite:///{tmp_path}/journal.db", "socket": str(tmp_path / "s.sock"),
    }  # fmt: skip
    rule = {"name": "sick", "when": {"event": "sick"}}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"daemon": daemon, "rules": [rule], "services": [service]}))
    return path


async def asked(path: Path, expires: timedelta, approvals: Sequence[str] = (ANN,)) -> None:
    """v1 was good, v2 came, trouble: two people are asked, one said yes; then the daemon stopped."""
    config = load(path).config
    journal = await open_journal(config.daemon.journal, SystemClock())
    now = SystemClock().now()
    old, new = (State({"code": Release(name)}) for name in ("v1", "v2"))
    trigger = Trigger("shop", "sick", Priority.P1, "sick/1", now, now)
    question = ApprovalRequest(("it is night",), now + expires, approvals=2)
    decision = Decision(trigger, Action.ASK, (), new, old, ("default",), "shop-1", question=question)
    stream, incident = service_stream("shop"), incident_stream("shop-1")
    opened = facts.Opened("shop", decision, dump_service(config.services[0]), ("default",))
    await journal.append(
        Entry(stream, facts.Changed(old, now, now)),
        Entry(stream, facts.MarkedGood(old, "by unix:ann")),
        Entry(stream, facts.Changed(new, now, now)),
        Entry(FLEET, facts.Opening("shop", "shop-1", asks=True)),
        Entry(incident, opened),
        Entry(stream, facts.Decided(decision)),
        *(Entry(incident, facts.Approved("yes"), actor) for actor in approvals),
    )
    await journal.close()


async def told(path: Path) -> list[Record]:
    journal = await open_journal(load(path).config.daemon.journal, SystemClock())
    try:
        return list(await journal.read(incident_stream("shop-1")))
    finally:
        await journal.close()


@pytest.mark.parametrize(
    ("expires", "approvals"),
    [(timedelta(hours=1), (ANN,)), (timedelta(hours=1), (ANN, BOB)), (timedelta(seconds=-60), (ANN,))],
    ids=["asks", "is answered", "is over"],
)
async def test_an_order_offline_rises_what_asks_and_what_was_said_stays(
    config: Path, tmp_path: Path, expires: timedelta, approvals: Sequence[str]
) -> None:
    await asked(config, expires, approvals)
    shown: list[RecordView] = []
    ended: Any = await offline_rollback(config, Request("shop", "unix:root", "the daemon is down"), shown.append)
    assert (ended.id, ended.outcome) == ("shop-1", "recovered")
    assert (tmp_path / "present").read_text() == "v1"
    records = await told(config)
    found: Incident | None = fold(records)
    assert found is not None
    assert (found.risen, found.by_people, found.outcome) == ("ordered by unix:root", True, Outcome.RECOVERED)
    assert [yes.actor for yes in found.approvals] == list(approvals)
    kinds = [type(record.fact).__name__ for record in records]
    assert (kinds.count("Opened"), kinds.count("Risen"), kinds.count("Applied")) == (1, 1, 1)
    assert [record.kind for record in shown if record.kind in {"Opened", "Approved", "Risen"}] == [
        "Opened", *["Approved"] * len(approvals), "Risen",
    ]  # fmt: skip


async def test_secrets_that_only_the_daemon_has_stop_no_emergency(config: Path, tmp_path: Path) -> None:
    await asked(config, timedelta(hours=1))
    written = json.loads(config.read_text())
    written["daemon"]["tokens"] = [{"name": "am", "role": "source", "token": {"credential": "alertmanager-token"}}]
    written["notify"] = {"receivers": [{"name": "room", "slack": {"webhook_url": {"env": "NO_SUCH_SECRET"}}}]}
    config.write_text(json.dumps(written))
    began = SystemClock().monotonic()
    ended: Any = await offline_rollback(config, Request("shop", "unix:root"), lambda _: None)
    assert ended.outcome == "recovered"
    assert SystemClock().monotonic() - began < 20, "what waits for the daemon is not waited for here"
    assert (tmp_path / "present").read_text() == "v1"
