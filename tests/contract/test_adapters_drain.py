"""Adapter `drain`: no new sessions, and those that run are waited for, up to a limit that a crash does not restart."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.system import boundary
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from rollbackd.testing import KEY, BracketContract, BracketWorld, finish, place
from rollbackd_adapters.drain import DrainAdapter, DrainSettings
from tests.contract.worlds import script
from tests.fakes.gatehouse import TOKEN, AtTheGate, Gatehouse

HEADERS = {"Authorization": {"env": "GATE"}}


class Virtual(SystemClock):
    """Sleeping takes no time, and is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = timedelta()

    def now(self) -> Any:
        return super().now() + self.slept

    def monotonic(self) -> float:
        return super().monotonic() + self.slept.total_seconds()

    async def sleep(self, length: timedelta) -> None:
        self.slept += length
        await asyncio.sleep(0)


def drain(path: Path, gate: Gatehouse, clock: SystemClock | None = None, **settings: Any) -> DrainAdapter:
    http = {
        "enter": {"url": f"{gate.url}/drain", "headers": HEADERS, "body": {"incident": "{incident}"}},
        "leave": {"url": f"{gate.url}/undrain", "headers": HEADERS},
        "sessions": {"url": f"{gate.url}/sessions", "json": "pools[0].active", "headers": HEADERS},
    }
    known = DrainSettings.model_validate({"adapter": "drain", "http": http, **settings})
    there = replace(place(path), reveal=lambda secret: {"GATE": TOKEN}[secret.env])
    return DrainAdapter(known, replace(there, clock=clock) if clock is not None else there)


class CallsWorld(BracketWorld):
    def __init__(self, path: Path, gate: Gatehouse) -> None:
        self.path = path
        self.gate = gate
        gate.draining, gate.sessions = False, [2, 0]

    def adapter(self) -> DrainAdapter:
        return drain(self.path, self.gate, every="100ms")

    def inside(self) -> bool:
        return self.gate.draining


class CommandWorld(BracketWorld):
    def __init__(self, path: Path, **more: Any) -> None:
        self.path = path
        self._more = more
        self.flag = path / "draining"
        self.log = path / "log"
        self._command = {
            "enter": [
                script(path / "bin/enter", f"test -e {self.flag} || echo in >> {self.log}", f"touch {self.flag}")
            ],
            "leave": [script(path / "bin/leave", f"rm -f {self.flag}", f"echo out >> {self.log}")],
            "sessions": [script(path / "bin/sessions", "echo 0")],
        }

    def adapter(self) -> DrainAdapter:
        known = {"adapter": "drain", "command": self._command, "every": "100ms", **self._more}
        return DrainAdapter(DrainSettings.model_validate(known), place(self.path))

    def inside(self) -> bool:
        return self.flag.exists()

    def crossings(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


class TestDrainByHttp(AtTheGate, BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return CallsWorld(path, self.gate)


class TestDrainByCommand(BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return CommandWorld(path)


# -- waiting ------------------------------------------------------------------------------------
def test_sessions_are_waited_for_until_the_last_has_ended(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [3, 2, 2, 1, 0]
    clock = Virtual()
    layer = drain(tmp_path, gate, clock, every="30s")
    finish(layer.enter("shop-7"))
    assert clock.slept == timedelta(minutes=2)
    assert finish(layer.inside("shop-7"))
    assert finish(layer.note("shop-7")) == "", "there is nothing to tell"
    assert gate.requests[0] == ("POST", "/drain", {"incident": "shop-7"}, "contract/shop-7/enter")
    assert gate.crossings() == 1


def test_so_many_may_be_left(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [9, 5]
    clock = Virtual()
    finish(drain(tmp_path, gate, clock, at_most=5).enter(KEY))
    assert clock.slept == timedelta(seconds=5)


def test_at_the_limit_it_goes_on(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [1]
    clock = Virtual()
    layer = drain(tmp_path, gate, clock, limit="10m", every="1m")
    finish(layer.enter(KEY))
    assert timedelta(minutes=9, seconds=59) < clock.slept <= timedelta(minutes=10)
    assert finish(layer.inside(KEY))
    assert gate.draining
    again = drain(tmp_path, gate, clock)
    assert finish(again.note(KEY)) == "1 session is left after 10m, and the rollback went on", "also after a crash"
    finish(again.leave(KEY))
    assert finish(again.note(KEY)) == ""


def test_at_the_limit_it_fails_and_takes_new_sessions_again(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [7]
    layer = drain(tmp_path, gate, Virtual(), limit="2m", at_limit="fail")
    with pytest.raises(AdapterError, match="7 sessions are left after 2m; new ones are taken again") as failed:
        finish(layer.enter(KEY))
    assert failed.value.permanent
    assert not gate.draining
    assert not finish(layer.inside(KEY))


def test_a_crash_while_waiting_does_not_restart_the_limit(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [1]
    clock = Virtual()

    async def cut_off() -> None:
        async with asyncio.timeout(PATIENCE):
            task = asyncio.ensure_future(drain(tmp_path, gate, clock, limit="10m", every="1m").enter(KEY))
            while clock.slept < timedelta(minutes=7):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    PATIENCE = 20
    asyncio.run(cut_off())
    before = clock.slept
    assert not finish(drain(tmp_path, gate, clock).inside(KEY)), "it is not done: the next life goes on"
    clock.slept += timedelta(minutes=1)  # we were away
    finish(drain(tmp_path, gate, clock, limit="10m", every="1m").enter(KEY))
    assert clock.slept - before <= timedelta(minutes=3, seconds=1)


def test_entering_again_after_leaving_has_the_whole_limit(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [1]
    clock = Virtual()
    layer = drain(tmp_path, gate, clock, limit="10m", every="1m")
    finish(layer.enter(KEY))
    finish(layer.leave(KEY))
    before = clock.slept
    finish(layer.enter(KEY))
    assert clock.slept - before > timedelta(minutes=9)


def test_a_count_that_nobody_answers_is_waited_for_until_the_limit(tmp_path: Path, gate: Gatehouse) -> None:
    clock = Virtual()
    layer = drain(tmp_path, gate, clock, limit="3m", every="1m", at_limit="fail")

    def hook(name: str) -> None:
        if name == "drain.entered":
            gate.status = 500

    boundary.hook = hook
    with pytest.raises(AdapterError, match="answered 500"):
        finish(layer.enter(KEY))
    gate.status = 0
    (problem,) = {request[1] for request in gate.requests if request[0] == "GET"}
    assert problem == "/sessions"


def test_a_service_that_is_down_does_not_keep_a_rollback_from_mending_it(tmp_path: Path, gate: Gatehouse) -> None:
    gate.status = 503
    clock = Virtual()
    layer = drain(tmp_path, gate, clock, every="10s")
    finish(layer.enter(KEY))
    assert clock.slept == timedelta(minutes=1)
    assert finish(layer.inside(KEY))
    said = finish(layer.note(KEY))
    assert said.startswith("new sessions could not be stopped, and none was waited for: ")
    assert said.endswith("answered 503")
    gate.status = 0
    finish(layer.leave(KEY))
    gate.status = 403
    with pytest.raises(AdapterError, match="answered 403") as refused:
        finish(drain(tmp_path / "other", gate, clock).enter(KEY))
    assert refused.value.permanent, "nobody looked whether it may be asked"


def test_a_later_crossing_is_no_repetition_of_the_first(tmp_path: Path, gate: Gatehouse) -> None:
    layer = drain(tmp_path, gate)
    for _ in range(2):
        finish(layer.enter("shop-7"))
        finish(layer.leave("shop-7"))
    keys = [key for method, *_, key in gate.requests if method == "POST"]
    assert keys == [f"contract/shop-7/{way}" for way in ("enter", "leave", "enter/2", "leave/2")]


@pytest.mark.parametrize("answer", ['"many"', "true", "-1", "null"])
def test_what_is_no_number_is_no_answer(tmp_path: Path, gate: Gatehouse, answer: str) -> None:
    import json

    gate.sessions = [json.loads(answer)]
    layer = drain(tmp_path, gate, Virtual(), limit="1m", at_limit="fail")
    with pytest.raises(AdapterError, match=r"sessions cannot be counted .* is not a number"):
        finish(layer.enter(KEY))


def test_a_list_counts_its_items(tmp_path: Path, gate: Gatehouse) -> None:
    gate.sessions = [["a", "b"], []]  # type: ignore[list-item]
    clock = Virtual()
    finish(drain(tmp_path, gate, clock).enter(KEY))
    assert clock.slept == timedelta(seconds=5)


# -- docker, commands ---------------------------------------------------------------------------
def test_running_containers_with_a_label_are_sessions(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("0123456789ab\nba9876543210\n")
    wanted = "ps --quiet --no-trunc --filter label=role=session"
    script(tmp_path / "bin" / "docker", f'[ "$*" = "{wanted}" ]', f"cat {left}", f"sed -i 1d {left}")
    known = place(tmp_path)

    class Found(Spawner):
        @staticmethod
        def environment(extra: Any = None) -> dict[str, str]:
            return Spawner.environment(extra) | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    clock = Virtual()
    command = {name: [script(tmp_path / name, f"echo {name} >> {tmp_path}/log")] for name in ("enter", "leave")}
    settings = {"adapter": "drain", "command": command, "docker": "role=session"}
    there = replace(known, spawner=Found(tmp_path / "locks", clock), clock=clock)
    layer = DrainAdapter(DrainSettings.model_validate(settings), there)
    finish(layer.enter(KEY))
    assert clock.slept == timedelta(seconds=10)
    finish(layer.leave(KEY))
    assert (tmp_path / "log").read_text() == "enter\nleave\n"


def test_a_command_that_fails_is_quoted(tmp_path: Path) -> None:
    world = CommandWorld(tmp_path, at_limit="fail")
    script(tmp_path / "bin/enter", f"touch {world.flag}", "echo no such pool >&2", "exit 3")
    with pytest.raises(AdapterError, match="bin/enter`: exit 3") as failed:
        finish(world.adapter().enter(KEY))
    assert not failed.value.permanent
    assert "no such pool" in failed.value.evidence
    assert not world.inside(), "what it had done is undone: nobody would leave it"
    (tmp_path / "bin/leave").unlink()
    (problem,) = finish(world.adapter().ready())
    assert "bin/leave: no such program" in problem.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one"),
        ({"command": {"enter": ["a"], "leave": ["b"]}}, "sessions are counted in one place"),
        ({"command": {"enter": ["a"], "leave": ["b"], "sessions": ["c"]}, "docker": "x"}, "counted in one place"),
        ({"command": {"enter": ["a"], "leave": ["b"]}, "docker": "--help"}, "should match pattern"),
        ({"command": {"enter": ["a"], "leave": ["b"]}, "docker": "x", "limit": "2h"}, "less than or equal"),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        DrainSettings.model_validate({"adapter": "drain", **settings})
    assert message in str(failed.value)
