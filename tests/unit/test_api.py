"""The HTTP side's routes, roles and errors, on a desk in memory."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from rollbackd.api import CannotListenError, build_app
from rollbackd.api.long_poll import MOST_WAITS, Waits
from rollbackd.api.problems import ProblemError
from rollbackd.api.routes import ROUTES
from rollbackd.model import Priority, Request
from rollbackd.operations import Operations
from rollbackd.operations.parameters import ChangeBody
from tests.fakes.operations import FakeOperations
from tests.fakes.serving import Served, daemon, reveal, serving

ALERTS = b'{"version":"4","alerts":[]}'
READS = (
    ("GET", "/api/v1/services"), ("GET", "/api/v1/services/checkout"), ("GET", "/api/v1/incidents"),
    ("GET", "/api/v1/decisions"), ("GET", "/api/v1/states?service=checkout"), ("GET", "/api/v1/holds"),
    ("GET", "/api/v1/holds/*"), ("POST", "/api/v1/services/checkout/plan"), ("GET", "/readyz"), ("GET", "/metrics"),
    ("GET", "/openapi.json"), ("GET", "/api/v1/changes?service=checkout"),
)  # fmt: skip
ORDERS = (
    ("POST", "/api/v1/services/checkout/rollback", b"{}"),
    ("POST", "/api/v1/services/checkout/good", b"{}"),
    ("POST", "/api/v1/services/checkout/quarantine", b'{"releases":{"code":"v41"}}'),
    ("POST", "/api/v1/incidents/checkout-1/acknowledge", b""),
    ("POST", "/api/v1/incidents/checkout-1/escalate", b'{"reason": "why"}'),
    ("POST", "/api/v1/services/checkout/mending", b'{"length": "8m"}'),
    ("POST", "/api/v1/incidents/checkout-1/abort", b""),
    ("POST", "/api/v1/incidents/checkout-2/approve", b""),
    ("POST", "/api/v1/incidents/checkout/deny", b'{"reason":"mended"}'),
    ("POST", "/api/v1/changes/build-17/confirm", b""),
    ("PUT", "/api/v1/holds/checkout", b'{"reason":"release day"}'),
    ("DELETE", "/api/v1/holds/checkout", b""),
    ("POST", "/api/v1/resume", b"{}"),
)  # fmt: skip
SENDS = (
    ("/api/v1/alerts", ALERTS),
    ("/api/v1/signals", b'{"event":"e2e_failed","service":"checkout"}'),
    ("/api/v1/changes", b'{"service":"checkout","key":"build-18"}'),
)
PROBLEM = "application/problem+json"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock") as served:
        yield served


async def ask(
    served: Served,
    method: str,
    path: str,
    role: str = "operator",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, Any, aiohttp.ClientResponse]:
    given = {"Content-Type": "application/json", **(served.bearer(role) if role else {}), **(headers or {})}
    async with served.tcp.request(method, served.url + path, data=body or None, headers=given) as answer:
        content = await answer.read()
        is_json = "json" in answer.content_type
        return answer.status, json.loads(content) if is_json else content, answer


@pytest.mark.parametrize("role", ["source", "viewer", "operator", "", "wrong"])
async def test_each_role_may_do_what_it_is_for_and_nothing_else(served: Served, role: str) -> None:
    served.operations.ask()
    await served.operations.changed(ChangeBody(service="checkout", key="build-17"), "unix:dave")
    headers = {"Authorization": "Bearer wrong"} if role == "wrong" else {}
    given = "" if role == "wrong" else role
    sent = {(await ask(served, "POST", path, given, body, headers=headers))[0] for path, body in SENDS}
    reads = {(await ask(served, method, path, given, headers=headers))[0] for method, path in READS}
    orders = [(await ask(served, method, path, given, body, headers=headers))[0] for method, path, body in ORDERS]
    expected = {
        "source": ({200}, {403}, [403] * 13),
        "viewer": ({403}, {200}, [403] * 13),
        "operator": ({200}, {200}, [202, *[200] * 12]),
        "": ({401}, {401}, [401] * 13),
        "wrong": ({401}, {401}, [401] * 13),
    }
    assert (sent, reads, orders) == expected[role]


async def test_orders_carry_the_actor_and_what_was_asked(served: Served) -> None:
    body = {"to": "v40", "plan": "config", "reason": "bad", "irreversible": ["db"], "over_hold": True}
    status, answer, _ = await ask(served, "POST", "/api/v1/services/checkout/rollback", body=json.dumps(body).encode())
    assert (status, answer) == (202, {"incident": "checkout-1"})
    hold = {"reason": "release day", "until": "2026-03-02T08:00:00+01:00"}
    await ask(served, "PUT", "/api/v1/holds/*", body=json.dumps(hold).encode())
    await ask(served, "POST", "/api/v1/services/checkout/quarantine", body=b'{"releases":{"":"v41"},"lift":true}')
    actor = "token:release-desk"
    assert served.operations.orders == [
        ("rollback", Request("checkout", actor, "bad", "v40", "config", ("db",), True)),
        ("hold", "*", actor, "release day", datetime(2026, 3, 2, 7, tzinfo=UTC)),
        ("quarantine", "checkout", {"": "v41"}, actor, True),
    ]


async def test_what_is_asked_is_answered_by_whom_the_token_says(served: Served) -> None:
    served.operations.ask()
    path, actor = "/api/v1/incidents/checkout", "token:release-desk"
    status, answer, _ = await ask(served, "POST", f"{path}/approve", body=b'{"reason":"yes, back"}')
    done = "checkout-2 is approved; it is looked at once more, then goes back"
    assert (status, answer) == (200, {"done": done, "actor": actor, "incident": "checkout-2", "missing": ""})
    _, answer, _ = await ask(served, "POST", f"{path}-2/deny", body=b'{"reason":"a fix comes"}')
    assert answer["done"] == "checkout-2 is denied: nothing goes back, and the same trouble is not asked about again"
    assert served.operations.orders == [
        ("approve", "checkout", actor, "yes, back", None), ("deny", "checkout-2", actor, "a fix comes", None),
    ]  # fmt: skip
    async with served.unix.post(f"{path}/approve", json={}) as response:
        answer = await response.json()
    assert answer["done"] == "checkout-2 is approved; still missing: one of product"
    assert answer["missing"] == "one of product"
    del served.operations.incidents_["checkout-2"]
    status, answer, _ = await ask(served, "POST", f"{path}/approve")
    assert (status, answer["detail"]) == (
        409,
        "checkout-1 does not ask, it acts; `rollbackd abort checkout-1` stops it",
    )


async def test_a_change_is_announced_listed_and_confirmed(served: Served) -> None:
    body = {
        "service": "checkout", "releases": {"code": "v41"}, "kind": "hotfix", "priority": "P0", "confirm_within": "20m",
        "key": "ci/build 17", "text": "login",
    }  # fmt: skip
    status, answer, _ = await ask(served, "POST", "/api/v1/changes", "source", json.dumps(body).encode())
    assert (status, answer["id"], answer["by"], answer["status"]) == (
        200,
        "ci/build 17",
        "token:alertmanager",
        "waiting",
    )
    _, listed, _ = await ask(served, "GET", "/api/v1/changes?service=checkout", "viewer")
    assert [one["id"] for one in listed["changes"]] == ["ci/build 17"]
    status, answer, _ = await ask(served, "POST", "/api/v1/changes/ci%2Fbuild%2017/confirm")
    assert (status, answer["confirmed"]) == (200, "token:release-desk")
    announced = ChangeBody(
        service="checkout", releases={"code": "v41"}, kind="hotfix", priority=Priority.P0,
        confirm_within=timedelta(minutes=20), key="ci/build 17", text="login",
    )  # fmt: skip
    assert served.operations.orders == [
        ("changed", announced, "token:alertmanager"), ("confirm", "ci/build 17", "token:release-desk"),
    ]  # fmt: skip


async def test_a_printed_plan_is_ordered_by_its_id(served: Served) -> None:
    path = "/api/v1/services/checkout/rollback"
    status, _, _ = await ask(served, "POST", path, body=b'{"plan_id":"1a2b3c","irreversible":["db"]}')
    assert status == 202
    order = Request("checkout", "token:release-desk", irreversible=("db",), plan_id="1a2b3c")
    assert served.operations.orders == [("rollback", order)]
    status, answer, _ = await ask(served, "POST", path, body=b'{"plan_id":"1a2b3c","to":"v40"}')
    assert (status, answer["detail"]) == (400, "plan_id says all of a plan; leave out to and plan")


async def test_health_is_open_and_says_nothing_else(served: Served) -> None:
    status, answer, _ = await ask(served, "GET", "/healthz", role="")
    assert (status, answer) == (200, {"status": "alive"})
    async with served.tcp.head(served.url + "/healthz") as head:
        assert head.status == 200


async def test_readiness_is_503_with_its_reasons(served: Served) -> None:
    served.operations.ready = False
    status, answer, _ = await ask(served, "GET", "/readyz", "viewer")
    assert status == 503
    assert answer == {"ready": False, "problems": ["the journal cannot be written"], "notes": ["search: no good state"]}


async def test_metrics_are_of_the_desks_own_registry(served: Served) -> None:
    _, text, answer = await ask(served, "GET", "/metrics", "viewer")
    assert b"rollbackd_fake_total 1.0" in text
    assert answer.content_type == "text/plain"
    _, text, answer = await ask(
        served, "GET", "/metrics", "viewer", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert answer.content_type == "application/openmetrics-text"
    assert text.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("GET", "/nothing", b"", 404, 'there is nothing at "/nothing"; /openapi.json lists what there is'),
        ("PATCH", "/api/v1/services", b"", 405, '"/api/v1/services" does not take "PATCH", only GET'),
        ("GET", "/api/v1/services/chekout", b"", 404, 'no service "chekout"; there are checkout and search'),
        ("GET", "/api/v1/incidents?limit=0", b"", 400, "limit: Input should be greater than or equal to 1"),
        ("GET", "/api/v1/incidents?wat=1", b"", 400, 'unknown key "wat"'),
        ("GET", "/api/v1/states", b"", 400, "service: Field required"),
        ("GET", "/api/v1/incidents/checkout-1?wait=2m", b"", 400, "wait: at most 1m; ask again for more"),
        ("GET", "/api/v1/incidents/checkout-1?wait=soon", b"", 400, 'wait: "soon" is not a duration; write it like 250ms, 30s, 5m, 1h30m or 1d'),
        ("POST", "/api/v1/services/checkout/plan", b'{"to":"nowhere"}', 400, 'no release "nowhere"; name one of v40, v41'),
        ("POST", "/api/v1/services/checkout/rollback", b'{"too":1,"reason":2}', 400, 'reason: Input should be a valid string; unknown key "too"'),
        ("PUT", "/api/v1/holds/checkout", b'{"until":"2026-03-02T08:00:00"}', 400, "until: Input should have timezone info"),
        ("POST", "/api/v1/changes", b'{"service":"checkout","priority":"high"}', 400, "priority: Input should be 'P0', 'P1', 'P2' or 'P3'"),
        ("POST", "/api/v1/changes", b'{"service":"chekout"}', 404, 'no service "chekout"; there are checkout and search'),
        ("POST", "/api/v1/changes/build-99/confirm", b"", 404, 'nobody announced a change "build-99"'),
        ("GET", "/api/v1/changes", b"", 400, "service: Field required"),
        ("POST", "/api/v1/services/checkout/rollback", b"[" * 60_000, 400, None),
        ("POST", "/api/v1/services/checkout/rollback", b" " * 70_000, 413, None),
        ("POST", "/api/v1/services/checkout/quarantine", b'{"releases":{}}', 400, None),
        ("DELETE", "/api/v1/holds/checkout", b"", 409, "checkout is held by a file; remove /var/lib/rollbackd/signals/HOLD.checkout"),
    ],
)  # fmt: skip
async def test_every_error_is_a_problem_with_a_sentence(
    served: Served, method: str, path: str, body: bytes, status: int, detail: str | None
) -> None:
    got, answer, response = await ask(served, method, path, body=body)
    assert (got, response.content_type) == (status, PROBLEM)
    assert answer["status"] == status
    assert answer["title"]
    assert answer["detail"] == (detail or answer["detail"])


def test_every_number_of_a_request_is_one_that_a_journal_can_have() -> None:
    models = {model for route in ROUTES for model in (route.query, route.body)}
    numbers = [(model, name) for model in models for name, one in model.model_fields.items() if one.annotation is int]
    assert numbers
    for model, name in numbers:
        with pytest.raises(ValidationError) as refused:
            model.model_validate({name: 2**63})
        assert (name,) in [one["loc"] for one in refused.value.errors() if one["type"] == "less_than_equal"], model


async def test_a_refusal_lists_its_findings(served: Served) -> None:
    status, answer, _ = await ask(served, "POST", "/api/v1/services/search/rollback", body=b"{}")
    assert status == 409
    assert answer["detail"] == "search is not rolled back"
    assert answer["findings"] == [{"guard": "target", "against": "ask", "reason": "no good state", "escalate": True}]


async def test_an_order_that_cannot_be_stored_may_be_sent_again(served: Served) -> None:
    served.operations.failing = True
    status, answer, response = await ask(served, "POST", "/api/v1/resume", body=b"{}")
    assert status == 503
    assert response.headers["Retry-After"] == "5"
    assert "disk full" in answer["detail"]


async def test_a_fault_of_our_own_is_told_without_its_inside(served: Served) -> None:
    served.operations.services_ = cast("Any", None)
    status, answer, response = await ask(served, "GET", "/api/v1/services")
    assert (status, response.content_type) == (500, PROBLEM)
    assert "NoneType" not in json.dumps(answer)


async def test_unknown_comers_are_told_how_to_come_in(served: Served) -> None:
    _, answer, response = await ask(served, "GET", "/api/v1/services", role="")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="rollbackd"'
    assert answer["detail"] == "send `Authorization: Bearer TOKEN`, or use the command line on the daemon's host"
    _, _, response = await ask(served, "GET", "/api/v1/services", role="", headers={"Authorization": "Basic c2VjcmV0"})
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    _, _, response = await ask(served, "POST", "/api/v1/resume", role="viewer")
    assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]


async def test_other_schemes_do_not_carry_a_token(served: Served) -> None:
    token = served.bearer("operator")["Authorization"].split()[1]
    status, _, _ = await ask(served, "GET", "/api/v1/services", role="", headers={"Authorization": f"Basic {token}"})
    assert status == 401


async def test_loopback_without_tokens_posts_and_reads_but_never_orders(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock", tokens=[], open_on_loopback=True) as served:
        assert (await ask(served, "POST", "/api/v1/alerts", "", ALERTS))[0] == 200
        assert served.operations.orders == [("receive", 0, "open:loopback")]
        assert {(await ask(served, method, path, ""))[0] for method, path in READS} == {200}
        assert {(await ask(served, method, path, "", body))[0] for method, path, body in ORDERS} == {403}
        assert (await ask(served, "GET", "/api/v1/services", "", headers={"Authorization": "Bearer x"}))[0] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9099"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.example:9099"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[evil"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:9099", "Origin": "http://localhost:9099"}, 200),
        ({"Host": "localhost:9099", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:9099", "Origin": "null"}, 403),
        ({"Host": "localhost:9099", "Origin": "http://[::1"}, 403),
        ({"X-Forwarded-For": "203.0.113.7"}, 401),
        ({"Forwarded": "for=203.0.113.7"}, 401),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
async def test_a_web_page_in_a_browser_here_cannot_use_the_open_loopback(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with serving(tmp_path / "s.sock", tokens=[], open_on_loopback=True) as served:
        got, _, _ = await ask(served, "POST", "/api/v1/alerts", "", ALERTS, headers=headers)
        assert got == status


async def test_without_tokens_tcp_is_closed_and_says_how_to_open_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock", tokens=[]) as served:
        status, answer, _ = await ask(served, "GET", "/api/v1/services", "")
        assert status == 401
        assert "no token is configured: add one to daemon.tokens" in answer["detail"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": [{"name": "a", "role": "viewer", "token": {"env": "empty"}}]}, "the secret of a is empty"),
        (
            {"tokens": [{"name": name, "role": "viewer", "token": {"env": "same"}} for name in ("a", "b")]},
            "b and a have the same secret",
        ),
        ({"listen": "0.0.0.0:9099", "open_on_loopback": True}, "is no loopback address"),
    ],
)
async def test_settings_that_let_the_wrong_people_in_are_errors(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(CannotListenError, match=said):
        build_app(
            cast("Operations", FakeOperations()),
            daemon(tmp_path / "s", **settings),
            lambda secret: {"empty": " \n", "same": "x"}.get(secret.env) or reveal(secret),
        )


async def test_news_of_an_incident_arrive_while_one_waits(served: Served) -> None:
    await ask(served, "POST", "/api/v1/services/checkout/rollback", body=b"{}")
    path = "/api/v1/incidents/checkout-1"
    _, seen, _ = await ask(served, "GET", path)
    assert [record["n"] for record in seen["records"]] == [1]
    waiting = asyncio.ensure_future(ask(served, "GET", f"{path}?after=1&wait=30s"))
    await served.operations.note("checkout-1", "Applied", "code is at v40")
    _, news, _ = await asyncio.wait_for(waiting, 10)
    assert [record["text"] for record in news["records"]] == ["code is at v40"]


async def test_who_waits_is_bounded_and_let_go_when_the_server_stops(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock") as served:
        await ask(served, "POST", "/api/v1/services/checkout/rollback", body=b"{}")
        path = "/api/v1/incidents/checkout-1?after=1&wait=1m"
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=served.bearer("viewer")) as many:
            waiting = [asyncio.ensure_future(many.get(served.url + path)) for _ in range(MOST_WAITS + 1)]
            done, still = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert [(await one).status for one in done] == [429]
            await asyncio.wait_for(served.server.stop(), 5)
            assert {(await one).status for one in still} == {503}


async def test_the_description_is_openapi_and_lists_every_route(served: Served) -> None:
    _, document, _ = await ask(served, "GET", "/openapi.json", "viewer")
    assert document["openapi"] == "3.1.0"
    app = build_app(cast("Operations", FakeOperations()), daemon(served.socket), reveal)
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    operations = {(method, path): one for path, item in document["paths"].items() for method, one in item.items()}
    assert set(operations) == routes
    assert len({one["operationId"] for one in operations.values()}) == len(operations)
    for (_, path), operation in operations.items():
        assert operation["summary"]
        assert all(answer["description"] for answer in operation["responses"].values())
        in_path = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        for one in operation.get("parameters", ()):
            if "default" in one["schema"]:
                Draft202012Validator(one["schema"]).validate(one["schema"]["default"])
    refs = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert refs == set(document["components"]["schemas"])


async def test_answers_are_as_the_description_says(served: Served) -> None:
    """The members that the description requires are there."""
    _, document, _ = await ask(served, "GET", "/openapi.json", "viewer")
    await ask(served, "POST", "/api/v1/services/checkout/rollback", body=b"{}")
    paths = {
        "/api/v1/services/{name}": "/api/v1/services/checkout",
        "/api/v1/changes": "/api/v1/changes?service=checkout",
        "/api/v1/incidents/{name}": "/api/v1/incidents/checkout-1",
    }
    for template in (
        "/api/v1/services",
        "/api/v1/services/{name}",
        "/api/v1/incidents",
        "/api/v1/incidents/{name}",
        "/api/v1/decisions",
        "/api/v1/changes",
    ):
        _, answer, _ = await ask(served, "GET", paths.get(template, template), "viewer")
        schema = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        described = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert set(described["required"]) <= set(answer) <= set(described["properties"])


async def test_who_comes_to_wait_while_the_server_stops_is_let_go_at_once() -> None:
    async def news() -> str:
        await asyncio.Event().wait()
        return "never"

    waits = Waits()
    waits.end()
    with pytest.raises(ProblemError, match="rollbackd stops now"):
        await asyncio.wait_for(waits.run(news()), 5)
