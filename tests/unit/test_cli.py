"""The command line as people run it: a process, the real HTTP side on a socket, a desk in memory behind it."""

import asyncio
import getpass
import json
import os
import pty
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd.cli.place import SIGNALS, SOCKET, daemon_paths
from rollbackd.desk import Desk
from rollbackd.model import Request
from rollbackd.views import HoldView
from rollbackd.web import Server, build_app
from tests.fakes.desk import CHECKOUT, NOON, FakeDesk
from tests.fakes.serving import Served, daemon, reveal, serving

ME = f"unix:{getpass.getuser()}"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    return {**kept, "COLUMNS": "80", "ROLLBACKD_CONFIG": "/nonexistent", "PYTHONWARNINGS": "error", **more}


async def start(
    *arguments: str, stdin: int = asyncio.subprocess.DEVNULL, env: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rollbackd",
        *arguments,
        stdin=stdin,
        stdout=pipe,
        stderr=pipe,
        env=environment(**(env or {})),
    )


async def run(*arguments: str, **more: str) -> Ran:
    process = await start(*arguments, env=more)
    out, error = await asyncio.wait_for(process.communicate(), 30)
    return Ran(process.returncode or 0, out.decode(), error.decode())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock") as served:
        yield served


async def ask(served: Served, *arguments: str, **more: str) -> Ran:
    return await run("--socket", str(served.socket), *arguments, **more)


async def test_the_status_table(served: Served) -> None:
    served.desk.holds_["checkout"] = HoldView("checkout", "unix:ann", "release day", "api", NOON)
    ran = await ask(served, "status")
    assert (ran.code, ran.error) == (0, "")
    assert ran.out == """\
SERVICE   HEALTH  RUNS                    GOOD  GOES BACK TO            INCIDENT
checkout  bad     code v41                0%    code v40                -
                  (3f2a9c112233)                (77d0e1f2a3b4)
search    good    code v40                yes   -                       -
                  (77d0e1f2a3b4)

checkout is held by unix:ann (api) until 2026-03-01 12:00:00Z: release day
search is in shadow mode: decides and tells, touches nothing
search cannot be rolled back: no good state to go back to
"""  # fmt: skip


async def test_a_services_details(served: Served) -> None:
    ran = await ask(served, "status", "checkout")
    assert ran.out == """\
checkout: bad, P1, mode act
  runs          code v41 (3f2a9c112233)
  since         2026-02-28 12:00:00Z
  good          not yet: 0% of its bake time
  goes back to  code v40 (77d0e1f2a3b4)

RULE             VERDICT  SINCE                 WHY
high-error-rate  bad      2026-03-01 12:00:00Z  34.2% > 10%

STATE         SINCE                 RELEASES              GOOD
9d1c0a33b7e2  2026-02-28 12:00:00Z  code v41              -
                                    (3f2a9c112233)
44aa55bb66cc  2026-02-26 12:00:00Z  code v40              ran 30m without a
                                    (77d0e1f2a3b4)        trigger
"""  # fmt: skip


async def test_an_incident_with_its_decision_and_timeline(served: Served) -> None:
    await ask(served, "rollback", "checkout", "--reason", "bad release")
    await served.desk.note("checkout-1", "Applied", "code is at v40")
    ran = await ask(served, "incidents", "checkout-1")
    assert (
        ran.out
        == f"""\
checkout-1: running, P1, rule manual, plan default
  reason  bad release
  opened  2026-03-01 12:00:00Z
  from    code v41 (3f2a9c112233)
  to      code v40 (77d0e1f2a3b4)

STEP  FROM                TO                  STATUS   RISKS
code  v41 (3f2a9c112233)  v40 (77d0e1f2a3b4)  waiting  loses 2 uploads

2026-03-01 12:00:00Z  checkout: refuse, needs a person (high-error-rate, P1)
  onset     2026-03-01 11:55:00Z
  evidence  job:errors:ratio5m = 34.2%, > 10% for 5m
  runs      code v41 (3f2a9c112233)
  target    code v40 (77d0e1f2a3b4)
  against   cooldown: rolled back 3m ago, waits 10m (refuse, escalates)
  passed    hold

2026-03-01
  12:00:00Z  {ME:<9}  rollback of checkout opened
  12:00:01Z  {"daemon":<9}  code is at v40
"""
    )


async def test_ids_are_never_cut_off_however_narrow_the_terminal(served: Served) -> None:
    name = "a-service-with-a-name-as-long-as-a-service-may-have-it-63-chars"
    served.desk.services_ = {name: replace(CHECKOUT, name=name)}
    for columns in ("80", "40"):
        out = (await ask(served, "status", COLUMNS=columns)).out
        assert max(map(len, out.splitlines())) <= int(columns)
        first = "".join(line[: line.find("  ")] if "  " in line else line for line in out.splitlines()[1:])
        assert name in first.replace(" ", "")


async def test_text_from_outside_can_do_nothing_to_a_terminal(served: Served) -> None:
    nasty = "\x1b[2J\x9b31m[red]x[/red]\r\n\u202ereversed\x00"
    served.desk.services_ = {"checkout": replace(CHECKOUT, cannot=nasty, health=nasty)}
    served.desk.holds_["checkout"] = HoldView("checkout", "unix:ann", nasty, "api")
    for arguments in (("status",), ("status", "checkout"), ("status", "--json")):
        out = (await ask(served, *arguments, COLUMNS="400")).out
        assert set(out) & set("\x1b\x9b\r\u202e\x00") == set()
    assert r"\x1b[2J\x9b31m[red]x[/red]\r\n\u202ereversed\x00" in (await ask(served, "status", COLUMNS="400")).out


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("status", "checkout"), ("incidents",), ("incidents", "checkout-1"), ("decisions",),
        ("plan", "checkout"), ("hold", "checkout"), ("abort", "checkout"), ("ack", "checkout-1"), ("resume", "--breaker"),
        ("good", "checkout"), ("quarantine", "checkout", "v41"), ("schema",),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_every_answer_can_be_had_as_json(served: Served, arguments: tuple[str, ...]) -> None:
    await served.desk.rollback(Request("checkout", ME))
    ran = await ask(served, *arguments, "--json")
    assert (ran.code, ran.error) == (0, "")
    assert isinstance(ran.json, dict)


async def test_the_shared_options_may_stand_before_the_command(served: Served) -> None:
    assert (await ask(served, "--json", "status")).json == (
        await run("status", "--json", "--socket", str(served.socket))
    ).json


async def test_orders_say_who_gave_them(served: Served) -> None:
    assert (
        await ask(served, "hold", "checkout", "--reason", "sale")
    ).out == f"checkout is held: no step is started (as {ME})\n"
    await ask(served, "hold", "--all", "--until", "2026-03-02T08:00:00+01:00")
    await ask(served, "hold", "--all", "--lift")
    assert (await ask(served, "resume", "checkout")).out == f"checkout is no longer held (as {ME})\n"
    await ask(served, "resume", "--breaker", "--reason", "mended")
    assert (await ask(served, "good", "checkout")).out == f"checkout: code v41 (3f2a9c112233) is good: marked by {ME}\n"
    await ask(served, "good", "checkout", "code=v40", "config=ab=cd")
    await ask(served, "quarantine", "checkout", "v41", "--lift")
    await ask(served, "rollback", "checkout", "--to", "v40", "--plan", "config", "--irreversible", "db", "--over-hold")
    await ask(served, "abort", "checkout", "--reason", "wrong one")
    await ask(served, "abort", "checkout-1")
    await ask(served, "ack", "checkout")
    await ask(served, "ack", "checkout-1", "--leave")
    assert served.desk.orders == [
        ("hold", "checkout", ME, "sale", None),
        ("hold", "*", ME, "", datetime(2026, 3, 2, 7, tzinfo=UTC)),
        ("unhold", "*", ME),
        ("unhold", "checkout", ME),
        ("resume", ME, "mended"),
        ("good", "checkout", {}, ME),
        ("good", "checkout", {"code": "v40", "config": "ab=cd"}, ME),
        ("quarantine", "checkout", {"": "v41"}, ME, True),
        ("rollback", Request("checkout", ME, "", "v40", "config", ("db",), True)),
        ("abort", "checkout", ME, "wrong one"),
        ("abort", "checkout-1", ME, ""),
        ("acknowledge", "checkout", ME, False),
        ("acknowledge", "checkout-1", ME, True),
    ]


async def test_a_hold_for_a_time_ends_that_long_from_now(served: Served) -> None:
    await ask(served, "hold", "checkout", "--until", "2h")
    until = served.desk.holds_["checkout"].until
    assert until is not None
    assert timedelta(minutes=119) < until - datetime.now(UTC) <= timedelta(hours=2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "chekout"), 1, 'rollbackd: no service "chekout"; there are checkout and search\n'),
        (("incidents", "nothing-1"), 1, 'rollbackd: no incident "nothing-1"\n'),
        (("rollback", "checkout", "--to", "nowhere"), 2, 'rollbackd: no release "nowhere"; name one of v40, v41\n'),
        (("rollback", "search"), 1, "rollbackd: search is not rolled back\n  target: no good state\n"),
        (("resume", "checkout"), 1, "rollbackd: checkout is held by a file; remove /var/lib/rollbackd/signals/HOLD.checkout\n"),
        (("hold",), 2, "rollbackd: name a service, or --all: rollbackd hold SERVICE\n"),
        (("hold", "checkout", "--all"), 2, "rollbackd: name a service, or --all: rollbackd hold SERVICE\n"),
        (("hold", "checkout", "--until", "soon"), 2, 'rollbackd: --until: "soon" is no time; write 2h, or 2026-03-02T08:00:00+01:00\n'),
        (("resume", "checkout", "--breaker"), 2, "rollbackd: --breaker is for all services and lifts no hold; give it alone\n"),
        (("incidents", "--watch"), 2, "rollbackd: --watch follows one incident: rollbackd incidents INCIDENT --watch\n"),
        (("good", "checkout", "code="), 2, 'rollbackd: "code=": write each layer once, as LAYER=RELEASE\n'),
        (("status", "--limit"), 2, None),
        (("nonsense",), 2, None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
async def test_what_goes_wrong_is_a_sentence_and_an_exit_code(
    served: Served, arguments: tuple[str, ...], code: int, said: str | None
) -> None:
    ran = await ask(served, *arguments)
    assert ran.code == code
    assert ran.error == said or said is None
    assert "Traceback" not in ran.error


async def test_a_refusal_as_json_is_the_apis_problem(served: Served) -> None:
    ran = await ask(served, "rollback", "search", "--json")
    assert ran.code == 1
    assert ran.json["status"] == 409
    assert ran.json["findings"][0]["guard"] == "target"


async def test_a_plan_with_problems_is_a_no(served: Served) -> None:
    ran = await ask(served, "plan", "search")
    assert ran.code == 1
    assert "  problems   no good state to go back to\n" in ran.out
    assert "  against    windows: outside the allowed windows (ask)\n" in ran.out


async def test_an_unreachable_daemon_is_3_and_says_what_to_do(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"daemon: {{socket: {tmp_path}/there.sock, signals: {tmp_path}/signals}}\n")
    for arguments in (("status",), ("rollback", "checkout", "--watch"), ("incidents", "x-1", "--watch")):
        ran = await run("--config", str(config), *arguments)
        assert ran.code == 3
        assert ran.out == ""
        assert (
            ran.error
            == f"""\
rollbackd: the daemon does not answer on {tmp_path}/there.sock: no such file or directory
  is it running?           systemctl status rollbackd
  stop all rollbacks:      touch {tmp_path}/signals/HOLD
  roll back without it:    rollbackd rollback SERVICE --offline
"""
        )


@pytest.mark.parametrize("text", ["daemon: [", "daemon: {socket: 7}", "- a", "", "\x00", "[" * 5000])
def test_a_broken_configuration_keeps_nobody_from_the_daemon(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    assert daemon_paths(config) == (SOCKET, SIGNALS)


async def test_the_configuration_says_where_the_socket_is(served: Served, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"daemon: {{socket: {served.socket}}}\n")
    assert (await run("status", ROLLBACKD_CONFIG=str(config))).code == 0


async def test_an_answer_that_was_lost_is_not_called_a_failure(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    path = tmp_path / "s.sock"
    async with await asyncio.start_unix_server(hang_up, path):
        ran = await run("--socket", str(path), "resume", "--breaker")
    assert ran.code == 3
    assert "the order may have been taken" in ran.error


async def test_something_else_on_the_socket_is_told_from_the_daemon(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    path = tmp_path / "s.sock"
    async with await asyncio.start_unix_server(echo, path):
        ran = await run("--socket", str(path), "status")
    assert (ran.code, "what answers there is not rollbackd" in ran.error) == (3, True)


async def test_watching_shows_the_steps_and_ends_with_the_outcome(served: Served) -> None:
    process = await start("--socket", str(served.socket), "rollback", "checkout", "--watch")
    await until(lambda: "checkout-1" in served.desk.records)
    await served.desk.note("checkout-1", "Applied", "code is at v40")
    await served.desk.close("checkout-1", "recovered")
    out, error = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, error) == (0, b"")
    shown = [line.split(None, 2)[2] for line in out.decode().splitlines() if line.startswith("  12:")]
    assert shown == ["rollback of checkout opened", "code is at v40", "recovered"]
    assert out.decode().endswith("\ncheckout-1: recovered\n")


async def test_watching_a_rollback_that_does_not_recover_is_a_no(served: Served) -> None:
    await served.desk.rollback(Request("checkout", ME))
    await served.desk.close("checkout-1", "ineffective")
    ran = await ask(served, "incidents", "checkout-1", "--watch", "--json")
    assert ran.code == 1
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line.get("text") for line in lines[:-1]] == ["rollback of checkout opened", "ineffective"]
    assert lines[-1]["outcome"] == "ineffective"


async def test_watching_ends_when_the_incident_is_parked_for_a_person(served: Served) -> None:
    await served.desk.rollback(Request("checkout", ME))
    served.desk.incidents_["checkout-1"] = replace(served.desk.incidents_["checkout-1"], status="parked")
    ran = await ask(served, "incidents", "checkout-1", "--watch")
    assert (ran.code, "needs a person" in ran.error) == (1, True)


async def test_watching_survives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    desk, path = FakeDesk(), tmp_path / "s.sock"
    configured = daemon(path)

    async def serve() -> Server:
        server = Server(build_app(cast("Desk", desk), configured, reveal), configured.listen, path)
        await server.start()
        return server

    first = await serve()
    await desk.rollback(Request("checkout", ME))
    process = await start("--socket", str(path), "incidents", "checkout-1", "--watch")
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.wait_for(process.stdout.readuntil(b"opened\n"), 30)
    await first.stop()
    assert b"trying again" in await asyncio.wait_for(process.stderr.readline(), 30)
    second = await serve()
    await desk.close("checkout-1", "recovered")
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert out.decode().splitlines()[-1] == "checkout-1: recovered"
    assert out.count(b"opened") == 0
    await second.stop()


async def on_a_terminal(served: Served, answer: str, *arguments: str) -> Ran:
    ours, theirs = pty.openpty()
    try:
        process = await start("--socket", str(served.socket), *arguments, stdin=theirs)
        os.write(ours, answer.encode())
        out, error = await asyncio.wait_for(process.communicate(), 30)
    finally:
        os.close(ours)
        os.close(theirs)
    return Ran(process.returncode or 0, out.decode(), error.decode())


async def test_on_a_terminal_the_plan_is_shown_and_a_no_does_nothing(served: Served) -> None:
    ran = await on_a_terminal(served, "n\n", "rollback", "checkout")
    assert ran.code == 1
    assert "STEP  FROM                TO                  RISKS\n" in ran.out
    assert "nothing was done" in ran.error
    assert served.desk.orders == []


async def test_on_a_terminal_a_yes_is_to_the_state_that_was_shown(served: Served) -> None:
    ran = await on_a_terminal(served, "y\n", "rollback", "checkout")
    assert ran.code == 0
    assert served.desk.orders == [("rollback", Request("checkout", ME, to="44aa55bb66cc"))]


async def test_on_a_terminal_yes_can_be_said_before(served: Served) -> None:
    assert (await on_a_terminal(served, "", "rollback", "checkout", "--yes")).code == 0
    assert served.desk.orders == [("rollback", Request("checkout", ME))]


async def test_there_are_no_colours_where_nobody_sees_them(served: Served) -> None:
    assert "\x1b" not in (await ask(served, "status", TERM="xterm-256color")).out


async def test_help_is_there_well_within_a_second() -> None:
    took = []
    for _ in range(3):
        started = time.monotonic()
        ran = await run("--help")
        took.append(time.monotonic() - started)
        assert ran.code == 0
    assert min(took) < 1
    commands = "run check schema status incidents decisions plan rollback abort ack hold resume good quarantine audit"
    assert [line.split()[0] for line in ran.out.partition("Commands:\n")[2].splitlines()] == commands.split()
    assert "..." not in ran.out.partition("Commands:\n")[2]


async def test_the_version_is_the_packages() -> None:
    from rollbackd import __version__

    assert (await run("--version")).out == f"rollbackd {__version__}\n"
