"""Commands that need no daemon: check, schema, audit, run, and a rollback offline."""

import asyncio
import json
import os
import pwd
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import rollbackd.app
from rollbackd.cli import journal_owner, local_commands, offline_rollback
from rollbackd.cli.command_frame import Session, StopError
from rollbackd.cli.terminal_text import moment, safe, table
from rollbackd.facts import BreakerReset
from rollbackd.journal import Entry, open_journal
from rollbackd.model import FLEET, Request
from rollbackd.operations import OrderRefused
from rollbackd.system.clock import SystemClock
from rollbackd.views.shapes import FindingView, IncidentView, RecordView
from tests.fakes.operations import NOON, OPENED

CONFIG = """
daemon:
  mode: shadow
  open_on_loopback: true
  socket: {place}/layers/rollbackd.sock
  journal: sqlite:///{place}/journal/journal.db
  signals: {place}/signals
  scratch: {place}/layers
notify:
  receivers:
    - {{name: room, slack: {{webhook_url: {{env: NOT_SET_ANYWHERE}}}}}}
services:
  - name: checkout
    match: {{service: checkout}}
    layers:
      code: {{adapter: git, repo: "{place}/my 100% repo"}}
    checks: {{health: {{http: "http://127.0.0.1:3000/health"}}}}
    verify: {{checks: [health]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path / "my 100% repo")], check=True)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(place=tmp_path))
    return path


def test_check_summarises_and_prints_the_units_drop_in(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert local_commands.check(Session(), config, without_secrets=True) is None
    assert (
        capsys.readouterr().out
        == f"""\
SERVICE   MODE    PRIO  LAYERS      PLANS
checkout  shadow  P2    code (git)  default: code

rules:     none
receivers: room (slack)
note:      nothing makes a rollback by itself: there are no rules

# systemctl edit rollbackd
[Service]
ReadWritePaths={tmp_path}/journal
ReadWritePaths={tmp_path}/layers
ReadWritePaths="{tmp_path}/my 100%% repo"
ReadWritePaths={tmp_path}/signals

ok: {config}
"""
    )


def test_check_notes_a_release_that_a_plan_fixes_and_that_is_not_there(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(11, 19):
        (tmp_path / "web" / str(number)).mkdir(parents=True)
    front = f"front: {{adapter: releases, directory: {tmp_path}/web, link: {tmp_path}/current}}"
    gone = f"gone: {{adapter: releases, directory: {tmp_path}/nowhere, link: {tmp_path}/lost}}"
    fixed = '{fixed: [{front: "3"}], there: [{front: "12"}], lost: [{gone: "12"}]}'
    text = config.read_text().replace("    layers:\n", f"    layers:\n      {front}\n      {gone}\n")
    config.write_text(text.replace("    checks:", f"    plans: {fixed}\n    plan: there\n    checks:"))
    assert local_commands.check(Session(), config, without_secrets=True) is None
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:") and "plan" in line]
    assert len(notes) == 2
    assert notes[0].startswith(
        'note:      plan fixed of checkout cannot be run: front: no release "3"; the newest are: 18'
    )
    assert notes[1].startswith(f"note:      plan lost of checkout cannot be run: gone: {tmp_path}/nowhere: nothing is")


def test_check_lists_every_error_and_is_a_no(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("adapter: git", "adaptr: git").replace("verify", "verfy"))
    assert local_commands.check(Session(config=config)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(f"{config}:") for line in lines)
    assert any('did you mean "verify"?' in line for line in lines)


def test_check_looks_for_secrets_unless_told_not_to(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert local_commands.check(Session(json=True), config) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] is False
    assert "NOT_SET_ANYWHERE" in found["errors"][0]


def test_check_says_when_only_what_the_service_is_given_is_missing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person's shell has no credentials of systemd's, and the file is well."""
    hint = "rollbackd: nothing but secrets is missing here; what only the service is given: --without-secrets\n"
    assert local_commands.check(Session(), config) == 1
    assert capsys.readouterr().err == hint
    config.write_text(config.read_text().replace("services:", "servces:"))
    assert local_commands.check(Session(), config) == 1
    assert capsys.readouterr().err == ""


def test_check_of_a_file_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert local_commands.check(Session(config=tmp_path / "none.yaml")) == 1
    assert "none.yaml" in capsys.readouterr().out


def test_the_schema_is_a_json_schema_of_the_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    local_commands.schema(Session())
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"daemon", "services", "rules", "notify"} <= set(schema["properties"])


async def _write_journal(url: str) -> None:
    journal = await open_journal(url, SystemClock())
    for number in range(3):
        await journal.append(Entry(FLEET, BreakerReset(f"number {number}"), "unix:ann"))
    await journal.close()


def test_the_audit_says_whether_all_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(_write_journal(f"sqlite:///{path}"))
    assert local_commands.audit(Session(), f"sqlite:///{path}") is None
    assert capsys.readouterr().out == "3 facts in 1 streams: all fit\n"
    connection = sqlite3.connect(path)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE facts SET actor = 'unix:bob' WHERE n = 2")
    connection.commit()
    connection.close()
    assert local_commands.audit(Session(json=True), f"sqlite:///{path}") == 1
    assert any("#2" in sentence for sentence in json.loads(capsys.readouterr().out)["broken"])


def test_the_audit_makes_no_journal_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StopError, match="there is no journal"):
        local_commands.audit(Session(), f"sqlite:///{tmp_path}/journal.db")
    assert list(tmp_path.iterdir()) == []


def test_run_is_the_daemon_with_this_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Path] = []

    def daemon(path: Path) -> int:
        given.append(path)
        return 7

    monkeypatch.setattr(rollbackd.app, "run", daemon)
    assert local_commands.run(Session(config=tmp_path / "c.yaml")) == 7
    assert given == [tmp_path / "c.yaml"]


WANTED = {"to": "v40", "plan": "", "plan_id": "", "reason": "all is down", "irreversible": ["db"], "over_hold": False}


@pytest.mark.parametrize(("outcome", "code"), [("recovered", 0), ("unverified", 1), ("failed", 1)])
def test_a_rollback_offline_shows_its_steps_and_its_outcome(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: str, code: int
) -> None:
    asked: list[Request] = []

    async def roll_back(path: Path, request: Request, on_record: Callable[[RecordView], None]) -> IncidentView:
        asked.append(request)
        on_record(RecordView(1, NOON, "unix:ann", "Opened", "opened"))
        on_record(RecordView(2, NOON + timedelta(days=1), "daemon", "Applied", "code \x1b is at v40"))
        return replace(OPENED, status="closed", outcome=outcome, reason="so it ended")

    monkeypatch.setattr(offline_rollback, "offline_rollback", roll_back)
    assert offline_rollback.roll_back(Session(config=tmp_path), "checkout", WANTED, lambda: True) == code
    assert asked == [Request("checkout", asked[0].actor, "all is down", "v40", "", ("db",), False)]
    assert asked[0].actor.startswith("unix:")
    shown = """\
2026-03-01
  12:00:00Z  unix:ann  opened
2026-03-02
  12:00:00Z  daemon    code \\x1b is at v40

"""
    out = capsys.readouterr().out
    assert out.startswith(f"{shown}  what       checkout: {outcome}, so it ended\n")
    assert out.endswith(f"\ncheckout: {outcome}\n")
    offline_rollback.roll_back(Session(json=True, config=tmp_path), "checkout", WANTED, lambda: True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"service": "checkout", "outcome": outcome}


def test_a_rollback_offline_that_is_interrupted_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupt(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(offline_rollback, "offline_rollback", interrupt)
    assert offline_rollback.roll_back(Session(config=tmp_path), "checkout", WANTED, lambda: True) == 130
    assert capsys.readouterr().err.endswith("goes on by the same command, or when the daemon starts\n")


def test_a_rollback_offline_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def refuse(*_: Any) -> str:
        raise OrderRefused("checkout is not rolled back", (FindingView("hold", "refuse", "held by a file"),))

    monkeypatch.setattr(offline_rollback, "offline_rollback", refuse)
    with pytest.raises(StopError, match="checkout is not rolled back\n  hold: held by a file"):
        offline_rollback.roll_back(Session(config=tmp_path), "checkout", WANTED, lambda: True)


def test_a_rollback_offline_without_a_configuration_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StopError, match=r"none\.yaml"):
        offline_rollback.roll_back(Session(config=tmp_path / "none.yaml"), "checkout", WANTED, lambda: True)


def test_root_acts_offline_as_the_user_whose_journal_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[tuple[str, object]] = []
    for call in ("setgroups", "setgid", "setuid", "umask"):
        monkeypatch.setattr(os, call, lambda given, call=call: became.append((call, given)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(journal_owner, "_owner", lambda _: os.stat_result((0, 0, 0, 0, 65534, 65534, 0, 0, 0, 0)))
    monkeypatch.setenv("HOME", "/root")
    (tmp_path / "signals").mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(f"daemon: {{signals: {tmp_path}/signals}}")
    with pytest.raises(StopError):
        offline_rollback.roll_back(Session(config=config), "checkout", WANTED, lambda: True)
    groups = sorted({65534, (tmp_path / "signals").stat().st_gid})
    assert became == [("setgroups", groups), ("setgid", 65534), ("setuid", 65534), ("umask", 0o022)]
    assert "rollbackd: going on as nobody, whose journal it is" in capsys.readouterr().err
    assert os.environ["HOME"] == pwd.getpwuid(65534).pw_dir


def test_whose_journal_it_is_is_asked_of_its_directory_while_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(journal_owner, "_turn_into", lambda found, _: f"user {found.st_uid}")
    config = tmp_path / "c.yaml"
    config.write_text(f"daemon: {{journal: 'sqlite:///{tmp_path}/journal.db'}}")
    own = tmp_path.stat().st_uid
    assert journal_owner.become(config) == ([f"going on as user {own}, whose journal it is"] if own else [])
    config.write_text("daemon: {journal: 'sqlite:////no/such/place/journal.db'}")
    assert journal_owner.become(config) == []


def test_secrets_that_only_the_daemon_has_are_named_once(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    names = ("one", "two", "three", "four")
    config.write_text(
        f"daemon: {{mode: act, signals: {tmp_path}, journal: 'sqlite:///{tmp_path}/journal.db', tokens: ["
        + ", ".join(f"{{name: {name}, role: source, token: {{credential: {name}}}}}" for name in names)
        + "]}\n"
    )
    *_, lacking, what = journal_owner.become(config)
    assert lacking.startswith("without secrets of the daemon: credential one: systemd gave this process none;")
    assert lacking.endswith(" and 1 more")
    assert what == "what asks for one of them fails, and messages that need one go out when the daemon runs again"


def test_a_no_begins_nothing_offline(tmp_path: Path) -> None:
    assert offline_rollback.roll_back(Session(config=tmp_path / "none.yaml"), "checkout", WANTED, lambda: False) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("v41 (3f2a)", "v41 (3f2a)"),
        ("grün ✓ 日本", "grün ✓ 日本"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x9b\x7f\x85", r"\x9b\x7f\x85"),
        ("\u202e\u200b\u2028\ufeff", r"\u202e\u200b\u2028\ufeff"),
        ("\U000e0041\ud800", r"\U000e0041\ud800"),
    ],
)
def test_what_a_terminal_would_act_on_is_written_out(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_a_time_is_shown_in_utc_and_what_is_none_as_text() -> None:
    assert moment("2026-03-01T13:00:00+01:00") == "2026-03-01 12:00:00Z"
    assert (moment(None), moment("soon\x1b")) == ("", r"soon\x1b")


def test_a_table_folds_and_never_cuts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    table(("A", "B"), [("x" * 30, "[b]y[/b]"), ("", None)])
    out = capsys.readouterr().out
    assert out.count("x") == 30
    assert "[b]" in out
    assert "…" not in out
    assert all(len(line) <= 24 for line in out.splitlines())
