"""`rollbackd drill`, and the rollback that works whatever the daemon does."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.cli import daemon_fallback, order_commands
from rollbackd.cli.command_frame import Session, UsageError
from rollbackd.cli.daemon_client import UnreachableError
from rollbackd.cli.drill_command import drill
from rollbackd.cli.outcome_report import report
from rollbackd.journal import Exclusive
from rollbackd.views.shapes import DrillView, IncidentDetail, RecordView
from tests.fakes.operations import NOON, OPENED, FakeOperations
from tests.fakes.serving import Served, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock") as served:
        yield served


async def drilled(
    served: Served, service: str | None = None, *, as_json: bool = False, execute: bool = False, listed: bool = False
) -> int | None:
    session = Session(json=as_json, socket=served.socket)
    return await asyncio.to_thread(lambda: drill(session, service, execute=execute, listed=listed))


# -- drill ----------------------------------------------------------------------------------------
async def test_a_drill_is_a_table_that_people_can_read(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert await drilled(served, "checkout") is None
    assert capsys.readouterr().out == """\
checkout: drill ready, plan default
  runs      code v41 (3f2a9c112233)
  goes to   code v40 (77d0e1f2a3b4)
  expected  2m35s from the past, may take 10m
  took      300ms

LAYER  AS    FROM  TO   SNAPSHOT     EXPECTED  TARGET  READY
code   step  v41   v40  s1 verified  1m35s     -       yes

CHECK   VERDICT  SAYS
health  good     200
"""  # fmt: skip
    assert [one[:3] for one in served.operations.orders] == [("drill", "checkout", "")]


async def test_what_is_not_ready_ends_with_code_1_and_says_why(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await drilled(served, "search") == 1
    out = capsys.readouterr().out
    assert out.startswith("search: drill not ready, plan default\n")
    assert "  problems  code: no space left\n  expected  not known: no rollback ran every step yet" in out
    assert await drilled(served, "search", as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["code: no space left"]


async def test_what_drills_found_is_a_list(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert await drilled(served, listed=True) is None
    assert capsys.readouterr().out == "no drills\n"
    await served.operations.drill("search", "full", "unix:ann")
    await drilled(served, listed=True)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("WHEN SERVICE PLAN EXECUTED TOOK RESULT PROBLEMS 2026-03-01")
    assert "search full asked only 300ms not_ready code: no space" in said


async def test_a_drill_is_of_a_service(served: Served) -> None:
    with pytest.raises(UsageError, match="rollbackd drill SERVICE"):
        await drilled(served)


class _Executing(FakeOperations):
    """Goes there by checkout-1 and comes back by checkout-2, each as soon as somebody follows it."""

    async def drill(self, service: str, plan: str, actor: str, *, execute: bool = False) -> DrillView:
        found = await super().drill(service, plan, actor, execute=execute)
        await self.goes("checkout-1")
        self.drills_ = [replace(found, result="running", incident="checkout-1")]
        return self.drills_[0]

    async def goes(self, name: str) -> None:
        self.incidents_[name] = replace(OPENED, id=name, status="closed", outcome="recovered")
        self.records[name] = []
        await self.note(name, "Applied", f"{name} went its way")

    async def drills(self, service: str = "", limit: int = 50) -> list[DrillView]:
        if "checkout-2" not in self.incidents_:
            await self.goes("checkout-2")
            self.incidents_["checkout-2"] = replace(self.incidents_["checkout-2"], status="running", outcome="")
        elif self.incidents_["checkout-2"].outcome:
            self.drills_ = [replace(self.drills_[0], result="ready", returned="checkout-2", took=timedelta(seconds=4))]
        return await super().drills(service, limit)

    async def incident(self, id: str, after: int = 0, wait: timedelta = timedelta()) -> IncidentDetail:  # noqa: A002
        self.incidents_[id] = replace(self.incidents_[id], status="closed", outcome="recovered")
        return await super().incident(id, after, wait)


async def test_an_executed_drill_is_followed_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path / "s.sock", _Executing()) as served:
        served.operations.services_["checkout"] = replace(served.operations.services_["checkout"], incident="")
        assert await drilled(served, "checkout", execute=True) is None
    out = capsys.readouterr().out
    assert out.index("drill begins") < out.index("checkout-1 went its way") < out.index("drill ready")
    assert "  went there  checkout-1\n  came back   checkout-2\n" in out
    assert out.endswith("  took        4s\n")


# -- the report -----------------------------------------------------------------------------------
def _record(n: int, kind: str, seconds: float, **fact: object) -> RecordView:
    return RecordView(n, NOON + timedelta(seconds=seconds), "daemon", kind, "", fact)


RECORDS = [
    asdict(record)
    for record in (
        _record(1, "Opened", 0),
        _record(2, "Entering", 1, layer="page", attempt=1),
        _record(3, "Entered", 1.4, layer="page"),
        _record(4, "ApplyStarted", 2, layer="code", attempt=1),
        _record(5, "ApplyFailed", 3, layer="code"),
        _record(6, "ApplyStarted", 8, layer="code", attempt=2),
        _record(7, "Applied", 10.5, layer="code"),
        _record(8, "Gated", 11, results=[{"name": "health", "verdict": "bad", "reason": "500"}]),
        _record(9, "Round", 12, results=[{"name": "health", "verdict": "good", "reason": "200"}]),
    )
]


def test_a_report_says_what_was_done_how_long_it_took_and_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    steps = (replace(OPENED.steps[0], status="done"),)
    ended = replace(
        OPENED, status="closed", outcome="recovered", reason="3 good rounds in a row",
        closed=NOON + timedelta(seconds=72), steps=steps,
    )  # fmt: skip
    report(asdict(ended), RECORDS)
    assert capsys.readouterr().out == """\

  what       checkout: recovered, 3 good rounds in a row
  from       code v41 (3f2a9c112233)
  to         code v40 (77d0e1f2a3b4)
  plan       default
  took       72.0s
  left over  nothing
  mind       code: loses 2 uploads
  next       nothing: it is watched on; trouble of the same state is told

STEP  FROM                TO                  STATUS  TOOK
page  -                   -                   left    0.4s
code  v41 (3f2a9c112233)  v40 (77d0e1f2a3b4)  done    8.5s

CHECK   VERDICT  SAYS
health  good     200
"""  # fmt: skip


def test_a_report_of_what_failed_says_what_is_left_and_how_to_leave_it(capsys: pytest.CaptureFixture[str]) -> None:
    failed = replace(OPENED, status="closed", outcome="failed", entered=("page",), closed=NOON)
    report(asdict(failed), RECORDS[:5])
    out = capsys.readouterr().out
    assert "  left over  page still entered; `rollbackd ack checkout-1 --leave` leaves it\n" in out
    assert "  next       mend what the step says, then the same order again" in out
    assert "entered" in next(line for line in out.splitlines() if line.startswith("page"))
    parked = replace(OPENED, status="parked", closed=None, notes=("page: 3 sessions are left",))
    report(json.loads(json.dumps(asdict(parked), default=str)), [])
    out = capsys.readouterr().out
    assert "  mind       code: loses 2 uploads\n             page: 3 sessions are left\n" in out
    assert "  next       `rollbackd incidents checkout-1` says why\n" in out


# -- whatever the daemon does ---------------------------------------------------------------------
CONFIG = """
daemon: {{mode: act, open_on_loopback: true, socket: {0}/s.sock, journal: "sqlite:///{0}/journal.db",
  signals: {0}/signals, scratch: {0}/layers}}
services:
  - name: checkout
    match: {{service: checkout}}
    layers: {{code: {{adapter: command, current: [cat, "{0}/code"], releases: [cat, "{0}/code"], apply: ["true"]}}}}
    verify: {{checks: [{{command: ["true"]}}]}}
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(tmp_path))
    signals = tmp_path / "signals"
    signals.mkdir()
    signals.chmod(0o1770)
    (tmp_path / "code").write_text("v1\n")
    return Session(config=config)


def test_a_daemon_that_hangs_keeps_its_journal_and_is_to_be_ended_first(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon_fallback, "PROBE", 0.2)
    with socket.socket(socket.AF_UNIX) as hanging, Exclusive(f"sqlite:///{tmp_path}/journal.db"):
        hanging.bind(str(tmp_path / "s.sock"))
        hanging.listen()
        assert order_commands.rollback(session, "checkout", plan="default", yes=True) == 3
    error = capsys.readouterr().err
    assert f"the daemon does not answer on {tmp_path}/s.sock: no answer in time; going on without it" in error
    assert "journal is in use by process" in error
    assert "systemctl kill --signal=KILL rollbackd" in error
    assert f"touch {tmp_path}/signals/HOLD" in error
    assert "Traceback" not in error


def test_without_a_yes_nothing_happens_when_the_daemon_does_not_answer(session: Session) -> None:
    with pytest.raises(UnreachableError):
        order_commands.rollback(session, "checkout")


def test_who_may_not_use_the_socket_does_not_go_round_it(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise UnreachableError(Path("/s"), "permission denied", forbidden=True)

    monkeypatch.setattr("rollbackd.cli.daemon_client.Client.get", forbidden)
    with pytest.raises(UnreachableError):
        order_commands.rollback(session, "checkout", yes=True)


async def test_a_daemon_that_answers_with_a_problem_answers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(socket=served.socket)
    assert await asyncio.to_thread(daemon_fallback.answers, session)
    monkeypatch.setattr(served.operations, "holds", served.operations.incident)
    assert await asyncio.to_thread(daemon_fallback.answers, session)
