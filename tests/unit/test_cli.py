"""The command line as people run it: a process, the real HTTP side on a socket, a desk in memory behind it.

Most are forks, since the start of the program is the same each time.
"""

import ast
import asyncio
import getpass
import json
import os
import pty
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import TypeAdapter

import rollbackd.cli
from rollbackd.api import Server, build_app
from rollbackd.api.openapi import document
from rollbackd.cli.change_commands import deadline
from rollbackd.cli.locations import SIGNALS, SOCKET, daemon_paths
from rollbackd.cli.terminal_text import length
from rollbackd.model import Priority, Request
from rollbackd.notify.receivers.webhook import schema as webhook_schema
from rollbackd.operations import Operations
from rollbackd.operations.parameters import ChangeBody
from rollbackd.syntax.units import format_duration
from rollbackd.views.shapes import HoldView
from tests import forks
from tests.fakes.operations import CHECKOUT, HOTFIX, NOON, V40, V41, FakeOperations
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


async def run_anew(*arguments: str) -> Ran:
    """As a shell starts it."""
    process = await start(*arguments)
    out, error = await asyncio.wait_for(process.communicate(), 30)
    return Ran(process.returncode or 0, out.decode(), error.decode())


async def run(*arguments: str, **more: str) -> Ran:
    ended = await asyncio.to_thread(forks.run, "rollbackd", arguments, 30, environment=environment(**more))
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def _used_by_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


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
    served.operations.holds_["checkout"] = HoldView("checkout", "unix:ann", "release day", "api", NOON)
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


async def test_the_checks_of_a_service_now(served: Served) -> None:
    ran = await ask(served, "status", "checkout", "--checks")
    assert (ran.code, ran.error) == (1, "")
    assert (
        ran.out
        == """\
checkout: not healthy

CHECK   VERDICT  SAYS
health  bad      answered 500, wants 2xx
(log)   bad      3 lines match

(in brackets: only told)
"""
    )
    ran = await ask(served, "status", "search", "--checks", "--json")
    assert (ran.code, ran.json["healthy"]) == (0, True)
    ran = await ask(served, "status", "--checks")
    assert (ran.code, ran.error.splitlines()[-1].endswith("rollbackd status SERVICE --checks")) == (2, True)


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

states, newest first, with what each changed:
  2026-02-28 12:00:00Z  RUNS NOW, unknown
  9d1c0a33b7e2          code v41 (3f2a9c112233)
  2026-02-26 12:00:00Z  GOES BACK TO THIS, good: ran 30m without a trigger
  44aa55bb66cc          code v40 (77d0e1f2a3b4)
"""  # fmt: skip


async def test_a_history_shows_every_mark_and_what_changed_in_80_columns(served: Served) -> None:
    ids = {"code": "3f2a9c112233aabb", "config": "c7"}
    releases = {"code": "v41 (3f2a9c112233)", "config": "c7"}
    back = replace(V40, via="checkout-3", ids={**V40.ids, "config": "c7"}, releases={**V40.releases, "config": "c7"})
    served.operations.history = [
        replace(V41, change="hotfix by unix:dave", ids=ids, releases=releases),
        back,
        replace(V41, quarantined=("code",), ids={**ids, "config": "c6"}, releases={**releases, "config": "c6"}),
        replace(back, key="77aa55bb66cc", via="", since=None, good="marked by unix:ann"),
    ]
    out = (await ask(served, "status", "checkout")).out.partition("changed:\n")[2]
    assert max(map(len, out.splitlines())) <= 80
    assert out == """\
  2026-02-28 12:00:00Z  RUNS NOW, unknown, announced: hotfix by unix:dave
  9d1c0a33b7e2          code v41 (3f2a9c112233)
  2026-02-26 12:00:00Z  GOES BACK TO THIS, good: ran 30m without a trigger,
                        rolled back to by checkout-3
  44aa55bb66cc          code v40 (77d0e1f2a3b4), config c7
  2026-02-28 12:00:00Z  QUARANTINED: code
  9d1c0a33b7e2          code v41 (3f2a9c112233), config c6
  never ran here        good: marked by unix:ann
  77aa55bb66cc          code v40 (77d0e1f2a3b4), config c7
"""  # fmt: skip


async def test_what_waits_for_people_is_in_every_list(served: Served) -> None:
    served.operations.ask()
    served.operations.services_ = {"checkout": replace(CHECKOUT, asks=True, waiting=(HOTFIX,))}
    confirm = """\
checkout: hotfix build-17 (code v41)
  goes back unless it is confirmed until 2026-03-01 12:15:00Z:
  rollbackd confirm build-17
"""
    out = (await ask(served, "status")).out
    assert out.endswith(f"checkout asks whether it goes back: rollbackd incidents checkout-2\n{confirm}")
    out = (await ask(served, "status", "checkout")).out
    assert "  incident      checkout-2 (asks whether it goes back: rollbackd incidents checkout-2)\n" in out
    assert "  announced     hotfix build-17 (code v41)\n                goes back unless" in out
    assert (await ask(served, "incidents")).out.endswith("""
checkout-2 asks until 2026-03-01 12:15:00Z; still missing: one of product
  rollbackd approve checkout-2, or deny; why: rollbackd incidents checkout-2
""")


async def test_an_incident_that_asks_says_what_of_whom_until_when_and_how_to_answer(served: Served) -> None:
    served.operations.ask()
    out = (await ask(served, "incidents", "checkout-2")).out
    assert out.startswith("""\
checkout-2: asking, P1, rule high-error-rate, plan default
  opened  2026-03-01 12:00:00Z
  from    code v41 (3f2a9c112233)
  to      code v40 (77d0e1f2a3b4)
  blamed  code v40 (77d0e1f2a3b4) -> v41 (3f2a9c112233), hotfix announced by unix:dave
  checks  health bad: answered 500 in 1.2s, wants 2xx
          smoke good: exit 0

checkout-2 asks whether to go back
  because   outside the allowed windows
            it ran 2d ago last, longer than 1d
  of        one of tech (unix:ann, unix:bob) and one of product (token:desk)
  not of    unix:dave, who announced the change
  said yes  unix:ann
  missing   one of product
  until     2026-03-01 12:15:00Z, then it goes back by itself
  answer    rollbackd approve checkout-2
            rollbackd deny checkout-2 --reason WHY
""")


async def test_a_plan_shows_its_time_each_guard_and_the_command_that_runs_it(served: Served) -> None:
    ran = await ask(served, "plan", "checkout")
    assert ran.code == 0
    assert ran.out == """\
checkout: plan default
  runs       code v41 (3f2a9c112233)
  target     code v40 (77d0e1f2a3b4)
  within     traffic
  takes      about 1m55s, of that at least 1m15s of verification
  by itself  ask

STEP  FROM                TO                  TOOK BEFORE  RISKS
code  v41 (3f2a9c112233)  v40 (77d0e1f2a3b4)  40s          loses 2 uploads

GUARD    SAYS    WHY
hold     passed  nothing holds it
windows  ask     outside the allowed windows

as shown, or not at all: rollbackd rollback checkout --plan-id 1a2b3c4d5e6f
"""  # fmt: skip


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (None, ""), ("PT0S", "0s"), ("PT0.25S", "250ms"), ("PT1.7S", "2s"), ("PT1M30.4S", "1m30s"), ("P2DT3H", "2d3h"),
        ("P1Y35D", "400d"), ("soon", "soon"),
    ],
)  # fmt: skip
def test_a_duration_of_the_api_is_shown_as_it_is_written_in_the_configuration(written: str | None, shown: str) -> None:
    assert length(written) == shown


def test_whatever_duration_the_api_writes_can_be_read() -> None:
    writes = TypeAdapter(timedelta)
    for days, seconds in ((0, 0), (0, 90), (0, 3600), (3, 1), (800, 59), (0, 0.25)):
        value = timedelta(days=days, seconds=seconds)
        assert length(writes.dump_python(value, mode="json")) == format_duration(value)


async def test_answers_say_what_came_of_them(served: Served) -> None:
    served.operations.ask()
    ran = await ask(served, "approve", "checkout", "--reason", "go")
    assert ran.out == f"checkout-2 is approved; still missing: one of product (as {ME})\n"
    assert (await ask(served, "deny", "checkout-2", "--reason", "a fix comes")).out == (
        f"checkout-2 is denied: nothing goes back, and the same trouble is not asked about again (as {ME})\n"
    )
    assert served.operations.orders == [
        ("approve", "checkout", ME, "go", None), ("deny", "checkout-2", ME, "a fix comes", None),
    ]  # fmt: skip
    served.operations.missing = ""
    assert (await ask(served, "approve", "checkout")).out == (
        f"checkout-2 is approved; it is looked at once more, then goes back (as {ME})\n"
        "  follow: rollbackd incidents checkout-2 --watch\n"
    )


async def test_a_change_is_announced_and_confirmed_in_a_line_each(served: Served) -> None:
    ran = await ask(
        served, "changed", "checkout", "code=v41", "--kind", "hotfix", "--priority", "P0", "--confirm-within", "20m",
        "--key", "build 17", "--text", "login is broken",
    )  # fmt: skip
    assert (ran.code, ran.error) == (0, "")
    assert (
        ran.out
        == f"""\
checkout: hotfix build 17 (code v41) is announced (as {ME})
  goes back unless it is confirmed until 2026-03-01 12:15:00Z:
  rollbackd confirm 'build 17'
"""
    )
    ran = await ask(served, "confirm", "build 17")
    assert ran.out == f"build 17 of checkout is confirmed, it does not go back (as {ME})\n"
    assert (await ask(served, "changed", "checkout", "v42")).out == (
        f"checkout: change checkout@20260301T120000Z (v42) is announced (as {ME})\n  it need not be confirmed\n"
    )
    hotfix = ChangeBody(
        service="checkout", releases={"code": "v41"}, kind="hotfix", priority=Priority.P0,
        confirm_within=timedelta(minutes=20), key="build 17", text="login is broken",
    )  # fmt: skip
    assert served.operations.orders == [
        ("changed", hotfix, ME), ("confirm", "build 17", ME),
        ("changed", ChangeBody(service="checkout", releases={"": "v42"}), ME),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "confirmed", "by", "said"),
    [
        ("confirmed", "unix:ann", NOON, ["confirmed by unix:ann"]),
        ("replaced", "", NOON, ["it runs no more"]),
        ("unseen", "", NOON, ["nothing came of it"]),
        ("running", "", None, ["it need not be confirmed"]),
        ("waiting", "", NOON, ["goes back unless it is confirmed until 2026-03-01 12:00:00Z:", "rollbackd confirm build-17"]),
        ("overdue", "", NOON, ["should have been confirmed until 2026-03-01 12:00:00Z; if it is well:", "rollbackd confirm build-17"]),
    ],
)  # fmt: skip
def test_a_change_says_what_became_of_it(status: str, confirmed: str, by: datetime | None, said: list[str]) -> None:
    assert deadline(asdict(replace(HOTFIX, status=status, confirmed=confirmed, confirm_by=by))) == said


async def test_a_printed_plan_is_run_by_its_id(served: Served) -> None:
    ran = await ask(served, "rollback", "checkout", "--plan-id", "1a2b3c4d5e6f", "--irreversible", "db")
    assert ran.out.startswith("checkout-1 has begun\n"), "what was printed is not printed again"
    assert served.operations.orders == [
        ("rollback", Request("checkout", ME, irreversible=("db",), plan_id="1a2b3c4d5e6f"))
    ]


async def test_an_incident_with_its_decision_and_timeline(served: Served) -> None:
    await ask(served, "rollback", "checkout", "--reason", "bad release")
    await served.operations.note("checkout-1", "Applied", "code is at v40")
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
    served.operations.services_ = {name: replace(CHECKOUT, name=name)}
    for columns in ("80", "40"):
        out = (await ask(served, "status", COLUMNS=columns)).out
        assert max(map(len, out.splitlines())) <= int(columns)
        first = "".join(line[: line.find("  ")] if "  " in line else line for line in out.splitlines()[1:])
        assert name in first.replace(" ", "")


async def test_text_from_outside_can_do_nothing_to_a_terminal(served: Served) -> None:
    nasty = "\x1b[2J\x9b31m[red]x[/red]\r\n\u202ereversed\x00"
    served.operations.services_ = {"checkout": replace(CHECKOUT, cannot=nasty, health=nasty)}
    served.operations.holds_["checkout"] = HoldView("checkout", "unix:ann", nasty, "api")
    for arguments in (("status",), ("status", "checkout"), ("status", "--json")):
        out = (await ask(served, *arguments, COLUMNS="400")).out
        assert set(out) & set("\x1b\x9b\r\u202e\x00") == set()
    assert r"\x1b[2J\x9b31m[red]x[/red]\r\n\u202ereversed\x00" in (await ask(served, "status", COLUMNS="400")).out


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("status", "checkout"), ("incidents",), ("incidents", "checkout-1"), ("decisions",),
        ("plan", "checkout"), ("hold", "checkout"), ("abort", "checkout"), ("ack", "checkout-1"), ("resume", "--breaker"),
        ("good", "checkout"), ("quarantine", "checkout", "v41"), ("schema",), ("approve", "checkout"),
        ("deny", "checkout-2"), ("changed", "checkout"), ("confirm", "build-17"),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_every_answer_can_be_had_as_json(served: Served, arguments: tuple[str, ...]) -> None:
    await served.operations.rollback(Request("checkout", ME))
    served.operations.ask()
    await served.operations.changed(ChangeBody(service="checkout", key="build-17"), ME)
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
    said = (await ask(served, "escalate", "checkout-1", "--reason", "the architect decides")).out
    assert said == f"checkout-1 is escalated: the next people are told (as {ME})\n"
    said = (await ask(served, "mending", "checkout", "8m", "--reason", "the index")).out
    assert said == f"checkout is being mended until 12:08:00 UTC: nothing goes back meanwhile (as {ME})\n"
    assert "so nothing is held up" in (await ask(served, "mending", "checkout", "1h")).out
    assert served.operations.orders == [
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
        ("escalate", "checkout-1", ME, "the architect decides"),
        ("mending", "checkout", ME, timedelta(minutes=8), "the index"),
        ("mending", "checkout", ME, timedelta(hours=1), ""),
    ]


async def test_a_hold_for_a_time_ends_that_long_from_now(served: Served) -> None:
    await ask(served, "hold", "checkout", "--until", "2h")
    until = served.operations.holds_["checkout"].until
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
        (("approve", "nothing-1"), 1, 'rollbackd: no incident "nothing-1"\n'),
        (("deny", "checkout"), 1, "rollbackd: checkout-1 does not ask, it acts; `rollbackd abort checkout-1` stops it\n"),
        (("changed", "chekout"), 1, 'rollbackd: no service "chekout"; there are checkout and search\n'),
        (("changed", "checkout", "--priority", "high"), 2, "rollbackd: priority: Input should be 'P0', 'P1', 'P2' or 'P3'\n"),
        (("changed", "checkout", "--confirm-within", "soon"), 2, 'rollbackd: confirm_within: "soon" is not a duration; write it like 250ms, 30s, 5m, 1h30m or 1d\n'),
        (("changed", "checkout", "v1", "v2"), 2, 'rollbackd: "v2": write each layer once, as LAYER=RELEASE\n'),
        (("confirm", "build-9"), 1, 'rollbackd: nobody announced a change "build-9"\n'),
        (("rollback", "checkout", "--plan-id", "1", "--to", "v1"), 2, "rollbackd: --plan-id says where to and by which plan; leave --to and --plan out\n"),
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
    assert "windows  ask     outside the allowed windows\n" in ran.out


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
    await until(lambda: "checkout-1" in served.operations.records)
    await served.operations.note("checkout-1", "Applied", "code is at v40")
    await served.operations.close("checkout-1", "recovered")
    out, error = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, error) == (0, b"")
    shown = [line.split(None, 2)[2] for line in out.decode().splitlines() if line.startswith("  12:")]
    assert shown == ["rollback of checkout opened", "code is at v40", "recovered"]
    assert out.decode().endswith("\ncheckout-1: recovered\n")


async def test_the_schema_of_what_webhooks_are_sent_is_published() -> None:
    ran = await run("schema", "--webhook")
    assert (ran.code, ran.json) == (0, webhook_schema())
    assert ran.json["properties"]["key"]["description"] == "The same when it is sent again."


async def test_watching_a_rollback_that_does_not_recover_is_a_no(served: Served) -> None:
    await served.operations.rollback(Request("checkout", ME))
    await served.operations.close("checkout-1", "ineffective")
    ran = await ask(served, "incidents", "checkout-1", "--watch", "--json")
    assert ran.code == 1
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line.get("text") for line in lines[:-1]] == ["rollback of checkout opened", "ineffective"]
    assert lines[-1]["outcome"] == "ineffective"


async def test_watching_ends_when_the_incident_is_parked_for_a_person(served: Served) -> None:
    await served.operations.rollback(Request("checkout", ME))
    served.operations.incidents_["checkout-1"] = replace(served.operations.incidents_["checkout-1"], status="parked")
    ran = await ask(served, "incidents", "checkout-1", "--watch")
    assert (ran.code, "needs a person" in ran.error) == (1, True)


async def test_watching_survives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    operations, path = FakeOperations(), tmp_path / "s.sock"
    configured = daemon(path)

    async def serve() -> Server:
        server = Server(build_app(cast("Operations", operations), configured, reveal), configured.listen, path)
        await server.start()
        return server

    first = await serve()
    await operations.rollback(Request("checkout", ME))
    process = await start("--socket", str(path), "incidents", "checkout-1", "--watch")
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.wait_for(process.stdout.readuntil(b"opened\n"), 30)
    await first.stop()
    assert b"trying again" in await asyncio.wait_for(process.stderr.readline(), 30)
    second = await serve()
    await operations.close("checkout-1", "recovered")
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
    assert "STEP  FROM                TO                  TOOK BEFORE  RISKS\n" in ran.out
    assert "nothing was done" in ran.error
    assert served.operations.orders == []


async def test_on_a_terminal_a_yes_is_to_the_plan_that_was_shown(served: Served) -> None:
    ran = await on_a_terminal(served, "y\n", "rollback", "checkout")
    assert ran.code == 0
    assert served.operations.orders == [("rollback", Request("checkout", ME, plan_id="1a2b3c4d5e6f"))]


async def test_on_a_terminal_yes_can_be_said_before(served: Served) -> None:
    assert (await on_a_terminal(served, "", "rollback", "checkout", "--yes", "--no-watch")).code == 0
    assert served.operations.orders == [("rollback", Request("checkout", ME))]


async def test_there_are_no_colours_where_nobody_sees_them(served: Served) -> None:
    assert "\x1b" not in (await ask(served, "status", TERM="xterm-256color")).out


async def test_help_is_there_well_within_a_second() -> None:
    """Of processor time: how long one waits for the processor is the machine's affair."""
    took = []
    for _ in range(3):
        started = _used_by_children()
        ran = await run_anew("--help")
        took.append(_used_by_children() - started)
        assert ran.code == 0
    assert min(took) < 1
    commands = (
        "run check schema install init uninstall discover status incidents decisions plan members login rollback approve "
        "deny abort ack escalate hold mending resume drain changed confirm good quarantine event audit drill backtest test-alert "
        "events journal layer notify report snapshot"
    )
    assert [line.split()[0] for line in ran.out.partition("Commands:\n")[2].splitlines()] == commands.split()
    assert "..." not in ran.out.partition("Commands:\n")[2]


async def test_the_version_is_the_packages() -> None:
    from rollbackd import __version__

    assert (await run_anew("--version")).out == f"rollbackd {__version__}\n"


def asked_of_the_daemon() -> Iterator[tuple[str, list[str]]]:
    """Every `client.get(…)` and `client.send(…)` of the commands: the method, and the path with `*` for what varies."""
    for file in Path(rollbackd.cli.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and re.search(r"\bclient\.(get|send)$", ast.unparse(node.func)):
                if any(isinstance(one, ast.Starred) for one in node.args):
                    continue  # those of snapshots, each tried with a daemon in test_api_snapshots.py
                parts = [str(one.value) if isinstance(one, ast.Constant) else "*" for one in node.args]
                yield ("GET", parts) if ast.unparse(node.func).endswith("get") else (parts[0], parts[1:])


def test_the_command_line_asks_for_nothing_that_is_not_declared() -> None:
    declared = [
        (method.upper(), path.removeprefix("/api/v1/").split("/"))
        for path, methods in document()["paths"].items()
        for method in methods
    ]
    declared.append(("POST", ["login"]))  # the way into the page, on the socket alone; tools have their tokens
    asked = list(asked_of_the_daemon())
    assert len(asked) >= 30
    for method, parts in asked:
        fitting = (
            known
            for verb, known in declared
            if verb == method
            and len(known) == len(parts)
            and all(part in {"*", own} for part, own in zip(parts, known, strict=True))
        )
        assert any(fitting), f"{method} {'/'.join(parts)}"
