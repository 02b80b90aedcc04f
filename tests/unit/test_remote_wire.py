"""What crosses the wire between two hosts: values come back as they went, and anything else means nothing."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from rollbackd.adapter import Adapter, Bracket, Rehearses, Snapshot, Snapshots
from rollbackd.model import Change, Problem, Progress, Release, Traits
from rollbackd.remote import wire
from rollbackd.remote.wire import Hello, Offer, Refusal, WireAnswer, WireError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
V2 = Release("v2", "two", NOON, good=True)
CHANGE = Change("code", Release("v3"), V2, key="shop-1/0/code", intended=NOON, reversible=False, risks=("a", "b"))
HELLO = Hello(1, "0.1.0", {"code": Offer("git", "git:/srv/x", Traits(data=True))})


@pytest.mark.parametrize(
    ("name", "params", "result"),
    [
        ("current", {}, V2),
        ("releases", {}, [V2, Release("v1")]),
        ("plan", {"target": V2}, CHANGE),
        ("apply", {"change": CHANGE}, None),
        ("progress", {"change": CHANGE}, Progress.SUPERSEDED),
        ("ready", {}, [Problem("code", "no room")]),
        ("inside", {"key": "shop-1"}, True),
        ("enter", {"key": "shop-1"}, None),
        ("leave", {"key": "shop-1"}, None),
        ("take", {"name": "x"}, Snapshot("x", "v2", NOON)),
        ("snapshots", {}, [Snapshot("x", "v2", NOON, size=7)]),
        ("restore", {"name": "x", "key": "k", "only": ["files"]}, Snapshot("x", "v2", NOON)),
        ("prune", {"spare": ["v1", "v2"]}, ["old"]),
    ],
)
def test_a_question_and_its_answer_arrive_as_they_were(name: str, params: dict[str, Any], result: Any) -> None:
    line = wire.request(7, "code", name, params)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    request = wire.read_request(line)
    assert (request.id, request.method, request.layer, request.protocol) == (7, name, "code", 1)
    method = wire.method(name)
    read = method.read(request.params)
    assert read == params
    for key, value in read.items():  # fields that equality leaves out
        assert method.params({key: value}) == method.params({key: params[key]})
    said = wire.hello(HELLO) + wire.answer(WireAnswer(7, method.result(result)))
    heard = wire.hear(said)
    assert heard.hello == HELLO
    back = method.read_result(heard.answers[7].result)
    assert back == result
    assert method.result(back) == method.result(result)


def test_every_method_of_the_contract_crosses_but_those_that_name_a_path() -> None:
    contracts = [
        name
        for contract in (Adapter, Bracket, Snapshots, Rehearses)
        for name, value in vars(contract).items()
        if not name.startswith("_") and callable(value)
    ]
    assert set(contracts) - set(wire.method_names()) == {"export_to", "import_from"}


def test_what_changes_the_world_is_an_effect() -> None:
    effects = {name for name in wire.method_names() if wire.method(name).effect}
    assert effects == {"apply", "enter", "leave", "take", "restore", "prune", "mark", "lost"}


def test_a_refusal_arrives_with_its_evidence() -> None:
    said = wire.hello(HELLO) + wire.answer(WireAnswer(1, error=Refusal("no", permanent=True, evidence="log")))
    assert wire.hear(said).answers[1] == WireAnswer(1, error=Refusal("no", permanent=True, evidence="log"))


def test_what_was_cut_off_at_any_byte_is_heard_as_less_and_never_as_something_else() -> None:
    whole = wire.hello(HELLO) + wire.answer(WireAnswer(1, "done")) + wire.answer(WireAnswer(2, None))
    hello, first, _ = whole.splitlines(keepends=True)
    for length in range(len(whole)):
        heard = wire.hear(whole[:length])
        assert (heard.hello is not None) == (length >= len(hello))
        assert (1 in heard.answers) == (length >= len(hello) + len(first))
        assert 2 not in heard.answers


def test_a_newer_side_may_say_more() -> None:
    line = json.loads(wire.request(1, "code", "plan", {"target": V2}))
    line["params"]["target"]["colour"] = "blue"
    line["trace"] = "x"
    request = wire.read_request(json.dumps(line).encode())
    assert wire.method("plan").read(request.params) == {"target": V2}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"hm\n", "this is not JSON"),
        (b"[" * 100_000, "this is not JSON"),
        (b"[1]\n", "not a JSON object"),
        (b"{}\n", "does not fit: id: Field required"),
        (b'{"id":"x","method":"plan","layer":"code","params":{}}\n', "does not fit: id"),
        (b'{"id":1,"method":"plan","layer":"code","params":[]}\n', "does not fit: params"),
    ],
)
def test_a_line_that_is_no_request_is_refused(line: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        wire.read_request(line)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("plan", {}, "takes these parameters: target; it got: none"),
        ("plan", {"target": {"id": "v1"}, "force": True}, "takes these parameters: target; it got: target, force"),
        ("plan", {"target": "v1"}, "target does not fit"),
        ("plan", {"target": {"id": 7}}, "target does not fit: id"),
        ("restore", {"name": "x"}, "takes these parameters: name, key, only; it got: name"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        wire.method(name).read(params)


@pytest.mark.parametrize("line", [b'{"id":9,"result":null}\n', b"{}\n", b"\n", b"x\n"])
def test_a_far_side_that_says_small_lines_without_end_is_refused_at_once(line: bytes) -> None:
    said = wire.hello(HELLO) + line * (16 * 2**20 // len(line))
    began = time.thread_time()
    with pytest.raises(WireError, match="more than 100 lines"):
        wire.hear(said)
    assert time.thread_time() - began < 0.25
