"""Events over HTTP and by the command line: what is taken, refused, and said."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd.api.intake import BIG
from tests.fakes.serving import Served, serving
from tests.unit.test_cli import ask

E2E = {"event": "e2e_failed", "service": "checkout", "labels": {"suite": "cart"}, "key": "job-7"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock", max_body=1024 * 1024) as served:
        yield served


async def post(served: Served, body: Any, role: str = "source") -> tuple[int, dict[str, Any]]:
    headers = {**(served.bearer(role) if role else {}), "Content-Type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with served.tcp.post(served.url + "/api/v1/signals", data=data, headers=headers) as answer:
        content: dict[str, Any] = await answer.json(content_type=None)
        assert answer.status == 200 or answer.content_type == "application/problem+json"
        return answer.status, content


async def test_it_says_what_became_of_each_event(served: Served) -> None:
    said = "no rule asks for the event e2e_faild"
    body = [E2E, E2E | {"key": "job-8"}, E2E, {"event": "e2e_faild"}, {"event": "e2e_faild"}]
    taken = {"accepted": 2, "duplicates": 1, "unmatched": 2, "why": [said]}
    assert await post(served, body) == (200, taken)
    assert await post(served, E2E) == (200, {"accepted": 0, "duplicates": 1, "unmatched": 0, "why": []})
    assert served.operations.orders[0] == ("report", 5, "token:alertmanager")
    assert [one.labels for one in served.operations.reported] == [{"suite": "cart"}] * 2


@pytest.mark.parametrize(("role", "status"), [("operator", 200), ("viewer", 403), ("", 401)])
async def test_who_may_send_alerts_may_send_events(served: Served, role: str, status: int) -> None:
    assert (await post(served, E2E, role))[0] == status
    assert bool(served.operations.reported) is (status == 200)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is no JSON"),
        ({"event": "e2e failed"}, "event: no name; write letters, digits and . _ : -"),
        ([E2E, E2E | {"at": "2020-01-01T00:00:00Z"}], "longer ago than any rule counts"),
    ],
)
async def test_a_body_that_will_never_be_right_is_a_400_and_nothing_of_it_is_taken(
    served: Served, body: Any, said: str
) -> None:
    status, answer = await post(served, body)
    assert status == 400
    assert said in answer["detail"]
    assert (served.operations.orders, served.operations.reported) == ([], [])


async def test_what_cannot_be_stored_is_a_503_that_may_be_sent_again(served: Served) -> None:
    served.operations.failing = True
    assert (await post(served, E2E))[0] == 503
    served.operations.failing = False
    assert (await post(served, E2E))[1]["accepted"] == 1


async def test_thousands_come_in_at_once(served: Served) -> None:
    body = json.dumps([E2E | {"key": f"job-{number}"} for number in range(5000)]).encode()
    assert len(body) > BIG
    assert (await post(served, body))[1]["accepted"] == 5000


# -- the command line -----------------------------------------------------------------------------
async def test_one_line_of_a_job_reports_an_event(served: Served) -> None:
    line = ["event", "e2e_failed", "--service", "checkout", "--label", "suite=cart", "--label", "shard=a=1"]
    line += ["--key", "job-7", "--text", "cart is empty", "--url", "https://ci.example/7"]
    ran = await ask(served, *line)
    assert (ran.code, ran.out, ran.error) == (0, "e2e_failed is reported\n", "")
    (one,) = served.operations.reported
    assert (one.service, one.labels, one.key) == ("checkout", {"suite": "cart", "shard": "a=1"}, "job-7")
    assert (one.text, one.url, one.firing) == ("cart is empty", "https://ci.example/7", True)
    assert served.operations.orders[0][2].startswith("unix:")
    assert (await ask(served, *line)).out == "e2e_failed was reported before under this key\n"


async def test_the_end_of_something_is_reported_the_same_way(served: Served) -> None:
    ran = await ask(served, "event", "e2e_failed", "--resolved", "--at", "2026-03-01T12:00:30+00:00", "--json")
    assert (ran.code, ran.json) == (0, {"accepted": 1, "duplicates": 0, "unmatched": 0, "why": []})
    assert not served.operations.reported[0].firing


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["e2e_faild"], 1, "rollbackd: no rule asks for the event e2e_faild\n"),
        (["e2e_failed", "--label", "suite"], 2, 'rollbackd: --label "suite": write each label once, as NAME=VALUE\n'),
        (["e2e_failed", "--label", "a=1", "--label", "a=2"], 2, "write each label once"),
        (["e2e failed"], 2, "rollbackd: event: no name; write letters, digits and . _ : -\n"),
        (["e2e_failed", "--at", "yesterday"], 2, "rollbackd: at: "),
    ],
)
async def test_what_is_not_reported_is_said(served: Served, line: list[str], code: int, said: str) -> None:
    ran = await ask(served, "event", *line)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error
    assert served.operations.reported == []
