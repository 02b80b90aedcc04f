"""The far side: what it serves, what it refuses, and what it makes of a connection that ends."""

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Problem, Progress, Release, Traits
from rollbackd.remote import server as far_side
from rollbackd.remote import wire
from rollbackd.remote.server import LayerServer, converse
from rollbackd.remote.settings import ServedErrors, load
from tests.contract.worlds import script

CHANGE = Change("code", Release("v2"), Release("v1"), key="shop-1/0/code")


@dataclass
class Memory:
    """A layer in memory."""

    traits: Traits = field(default_factory=Traits)
    resource: str = "memory:code"
    fails: Exception | None = None
    applied: list[str] = field(default_factory=list)

    async def current(self) -> Release:
        if self.fails is not None:
            raise self.fails
        return Release("v2")

    async def ready(self) -> Sequence[Problem]:
        return []

    async def progress(self, change: Change) -> Progress:
        return Progress.DONE if self.applied else Progress.NOT_STARTED

    async def apply(self, change: Change) -> None:
        self.applied.append(change.key)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    apply = script(tmp_path / "apply", "true")
    path = tmp_path / "layers.yaml"
    layer = f"{{adapter: command, apply: [{apply}], progress: [{apply}]}}"
    path.write_text(f"scratch: {tmp_path}/scratch\nlayers:\n  code: {layer}\n")
    return path


@pytest.fixture
def layer() -> Memory:
    return Memory()


@pytest.fixture
def server(file: Path, layer: Memory) -> LayerServer:
    made = LayerServer(load(file))
    made._adapters["code"] = layer  # type: ignore[assignment]
    return made


def ask(server: LayerServer, name: str, **params: Any) -> wire.WireAnswer:
    return asyncio.run(server.answer(wire.request(1, "code", name, params)))


class Sink(RawIOBase):
    """What was said; it stops listening after so many lines, and takes a few bytes at a time."""

    def __init__(self, lines: int = 100) -> None:
        self.data = b""
        self._lines = lines

    def write(self, data: Any) -> int:
        if self.data.count(b"\n") >= self._lines:
            raise BrokenPipeError(32, "Broken pipe")
        self.data += bytes(data[:7])
        return min(7, len(data))

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.data.splitlines()]


def talk(server: LayerServer, said: bytes, lines: int = 100) -> Sink:
    sink = Sink(lines)
    asyncio.run(converse(server, BytesIO(said), sink))
    return sink


APPLY = wire.request(1, "code", "apply", {"change": CHANGE})
CURRENT = wire.request(2, "code", "current", {})


def test_it_says_hello_and_answers_in_order(server: LayerServer, layer: Memory) -> None:
    hello, first, second = talk(server, APPLY + CURRENT).lines
    assert hello["hello"]["layers"]["code"]["resource"] == "memory:code"
    assert first == {"id": 1, "result": None}
    assert second["result"]["id"] == "v2"
    assert layer.applied == ["shop-1/0/code"]


def test_a_daemon_that_lost_is_refused_from_the_first_question_of_the_next_one_on(
    server: LayerServer, layer: Memory, file: Path
) -> None:
    def asked(name: str, epoch: int) -> wire.WireAnswer:
        again = LayerServer(load(file))  # each connection has a process of its own
        again._adapters["code"] = layer  # type: ignore[assignment]
        return asyncio.run(again.answer(wire.request(1, "code", name, {"change": CHANGE}, epoch)))

    assert server.hello.fences
    assert asked("apply", 7).error is None
    assert asked("progress", 8).error is None
    for name in ("apply", "progress"):
        refused = asked(name, 7).error
        assert refused is not None
        assert refused.permanent
        assert refused.message == "another daemon has taken code over: epoch 8 was here, this is 7"
    assert ask(server, "current").error is None, "whoever only looks disturbs nobody"
    assert asked("apply", 8).error is None
    assert asked("apply", 0).error is None, "the only daemon there is has none"
    assert asked("apply", 7).error is not None
    assert len(layer.applied) == 3


def test_a_request_that_was_cut_off_is_never_acted_upon(server: LayerServer, layer: Memory) -> None:
    for length in range(len(APPLY)):
        assert len(talk(server, APPLY[:length]).lines) == 1
    assert layer.applied == []
    talk(server, APPLY)
    assert layer.applied == ["shop-1/0/code"]


def test_nothing_is_done_for_somebody_who_left_before_the_hello(server: LayerServer, layer: Memory) -> None:
    talk(server, APPLY, lines=0)
    assert layer.applied == []


def test_what_was_asked_is_done_though_nobody_hears_the_answer(server: LayerServer, layer: Memory) -> None:
    talk(server, APPLY + APPLY, lines=1)
    assert layer.applied == ["shop-1/0/code"], "and what came after it is not"


def test_a_request_that_is_too_long_is_refused(server: LayerServer) -> None:
    sink = talk(server, b" " * (wire.LONGEST_REQUEST + 5) + APPLY)
    assert sink.lines[1]["error"]["message"] == "a request has at most 1048576 bytes"
    assert len(sink.lines) == 2


def test_another_protocol_is_refused_before_anything_is_done(server: LayerServer, layer: Memory) -> None:
    line = json.dumps({**json.loads(APPLY), "protocol": 2}).encode()
    refused = asyncio.run(server.answer(line)).error
    assert refused is not None
    assert refused.permanent
    assert refused.message == "this host speaks protocol 1, not 2; have the same rollbackd on both hosts"
    assert layer.applied == []


@pytest.mark.parametrize("name", ["__init__", "_fails", "traits", "export_to", "dwell"])
def test_only_the_contracts_methods_can_be_called(server: LayerServer, name: str) -> None:
    line = json.dumps({"id": 1, "protocol": 1, "method": name, "layer": "code", "params": {}}).encode()
    refused = asyncio.run(server.answer(line)).error
    assert refused is not None
    assert refused.message.startswith(f'unknown method "{name}"')


def test_only_the_layers_that_are_named_are_served(server: LayerServer) -> None:
    answer = asyncio.run(server.answer(wire.request(1, "cod", "current", {})))
    assert answer.error is not None
    assert answer.error.message == 'unknown layer "cod"; did you mean "code"?'


@pytest.mark.parametrize(
    ("error", "message", "permanent"),
    [
        (AdapterError("no room", permanent=True, evidence="df"), "no room", True),
        (AdapterError("busy", permanent=False), "busy", False),
        (ZeroDivisionError("oops"), "its adapter failed: ZeroDivisionError: oops", False),
        (OSError(28, "No space left on device"), "No space left on device; make room on this host, at ", False),
        (
            PermissionError(13, "Permission denied", "/srv/x"),
            "/srv/x: Permission denied; it is asked for as user",
            False,
        ),
    ],
)
def test_a_failure_is_an_answer(
    server: LayerServer, layer: Memory, error: Exception, message: str, permanent: bool
) -> None:
    layer.fails = error
    refused = ask(server, "current").error
    assert refused is not None
    assert refused.message.startswith(message)
    assert refused.permanent is permanent
    assert refused.evidence == getattr(error, "evidence", "")


def test_while_an_effect_is_in_hand_progress_says_so_in_another_process(file: Path, layer: Memory) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Memory):
        async def apply(self, change: Change) -> None:
            begun.set()
            await asyncio.to_thread(go_on.wait, 20)
            await super().apply(change)

    first, second = LayerServer(load(file)), LayerServer(load(file))
    slow = Slow()
    first._adapters["code"] = slow  # type: ignore[assignment]
    second._adapters["code"] = layer  # type: ignore[assignment]
    working = threading.Thread(target=lambda: asyncio.run(first.answer(APPLY)))
    working.start()
    assert begun.wait(20)
    try:
        assert ask(second, "progress", change=CHANGE).result == "running"
    finally:
        go_on.set()
        working.join()
    assert slow.applied == ["shop-1/0/code"]
    assert ask(second, "progress", change=CHANGE).result == "not_started", "as the layer itself says"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("layers: {code: {adapter: git, repo: /x}}\n", ['1:1: missing key "scratch"; add it']),
        ("scratch: /x\nlayers: {}\n", ["2:1: this is empty; give it a value"]),
        ("scratch: /x\nlayers:\n  code: {adapter: gti}\n", ['3:10: unknown adapter "gti"; did you mean "git"?']),
        (
            "scratch: x\nlayers:\n  code: {adapter: git, repo: /srv/x, brunch: main}\nservices: []\n",
            [
                '1:1: "x" depends on where the daemon is started; write a path that begins with "/"',
                '3:38: unknown key "brunch"; did you mean "branch"?',
                '4:1: unknown key "services"; did you mean "service"?',
            ],
        ),
        (
            "scratch: /x\nlayers:\n  a: {adapter: git, repo: /srv/x}\n  b: {adapter: git, repo: /srv/x}\n",
            ['4:3: layers "a" and "b" both move git:/srv/x; make it one layer'],
        ),
    ],
)
def test_every_fault_of_the_file_is_told_with_its_place(tmp_path: Path, text: str, faults: list[str]) -> None:
    path = tmp_path / "layers.yaml"
    path.write_text(text)
    with pytest.raises(ServedErrors) as wrong:
        load(path)
    assert str(wrong.value).splitlines() == [f"{path}:{fault}" for fault in faults]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServedErrors, match=r"there is no such file; write it as docs/adapters.md shows for `remote`"):
        load(tmp_path / "layers.yaml")
    (tmp_path / "file").touch()
    with pytest.raises(ServedErrors, match="it cannot be read"):
        load(tmp_path / "file" / "layers.yaml")


def test_a_full_disk_is_a_problem_before_anything_is_begun(
    server: LayerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(server, "ready").result == []
    monkeypatch.setattr(far_side, "_ROOM", 2**80)
    (problem,) = ask(server, "ready").result
    assert problem["text"].endswith("MiB free; make room there")
