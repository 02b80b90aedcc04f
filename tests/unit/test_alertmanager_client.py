"""The Alertmanager client: a real one where there is one, and fakes for what a real one does not do."""

import asyncio
import json
import random
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from rollbackd.signals import alertmanager_client as module
from rollbackd.signals.alertmanager_client import Alertmanager, FiringAlerts, Unreachable
from rollbackd.signals.silences import Patience, Silence
from tests.servers import Server, alertmanager, free_port, wait_until

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = "2026-01-01T00:00:00.000Z"
LATER = "2036-01-01T00:00:00.000Z"


@asynccontextmanager
async def client(url: str, timeout: timedelta = timedelta(seconds=5)) -> AsyncIterator[Alertmanager]:
    async with aiohttp.ClientSession() as session:
        yield Alertmanager(url, timeout, lambda: session)


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def saying(body: Any) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return handler


def silence(*matchers: dict[str, Any], state: str = "active") -> dict[str, Any]:
    return {
        "id": "s1",
        "status": {"state": state},
        "matchers": list(matchers),
        "startsAt": NOW,
        "endsAt": LATER,
        "updatedAt": NOW,
        "createdBy": "ann",
        "comment": "deploying",
    }


def matcher(name: str, value: str, **more: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "isRegex": False, **more}


async def the_silence(*matchers: dict[str, Any]) -> Silence:
    async with answering(saying([silence(*matchers)])) as url, client(url) as it:
        (found,) = await it.silences()
        return found


async def test_only_silences_in_force_count() -> None:
    every = [silence(matcher("a", "b"), state=state) for state in ("active", "pending", "expired")]
    async with answering(saying(every)) as url, client(url) as it:
        found = await it.silences()
    assert [(each.id, each.created_by, each.comment) for each in found] == [("s1", "ann", "deploying")]
    assert found[0].ends_at == datetime(2036, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("matchers", "labels", "matches"),
    [
        ([matcher("service", "check.ut")], {"service": "check.ut"}, True),
        ([matcher("service", "check.ut")], {"service": "checkout"}, False),
        ([matcher("service", "check.*", isRegex=True)], {"service": "checkout"}, True),
        ([matcher("service", "check", isRegex=True)], {"service": "checkout"}, False),
        ([matcher("service", "checkout", isEqual=False)], {"service": "search"}, True),
        ([matcher("service", "checkout", isEqual=False)], {"service": "checkout"}, False),
        ([matcher("service", "c.*", isRegex=True, isEqual=False)], {"service": "checkout"}, False),
        ([matcher("service", "checkout"), matcher("env", "prod")], {"service": "checkout"}, False),
        ([matcher("service", "checkout"), matcher("env", "")], {"service": "checkout"}, True),
    ],
)
async def test_a_silence_matches_as_in_alertmanager(
    matchers: list[dict[str, Any]], labels: dict[str, str], matches: bool
) -> None:
    assert (await the_silence(*matchers)).matches(labels, Patience()) is matches


@pytest.mark.parametrize("expression", ["a**", "(?P<x", "(?=a)", "(a{1000}){1000}", "a" * 70_000])
@pytest.mark.parametrize("equal", [True, False])
async def test_an_expression_that_cannot_be_read_holds_rather_than_lets_go(expression: str, equal: bool) -> None:
    found = await the_silence(matcher("a", expression, isRegex=True, isEqual=equal), matcher("service", "checkout"))
    assert found.matches({"service": "checkout", "a": "anything\n"}, Patience())
    assert not found.matches({"service": "search"}, Patience())


async def test_an_expression_of_others_holds_nothing_up() -> None:
    """A thousand silences, each of which would take hours on an engine that goes back; and a value too long for them."""
    every = [silence(matcher("instance", f"(.|.)*!{n}", isRegex=True)) for n in range(1000)]
    async with answering(saying(every)) as url, client(url) as it:
        found = await it.silences()
    begun, name = time.process_time(), {"instance": "web-prod-01.example.internal:9100" * 3}
    assert not any(each.matches(name, Patience()) for each in found)
    assert time.process_time() - begun < 0.25
    assert all(each.matches({"instance": "x" * 2000}, Patience()) for each in found[:3])


_HEAVY = f"({'|'.join(f'.*a.{{{n}}}' for n in range(1, 60))})z"
"""A match of it takes RE2 some ten milliseconds: too many states at once."""


@pytest.mark.parametrize("many", [(50, 1), (1, 50), (7, 7)])
async def test_expressions_that_are_heavy_all_together_hold_rather_than_hold_the_loop(many: tuple[int, int]) -> None:
    silences, matchers = many
    heavy = [
        [matcher(f"n{n}", f"{_HEAVY}{one}", isRegex=True, isEqual=False) for n in range(matchers)]
        for one in range(silences)
    ]
    async with answering(saying([silence(*each) for each in heavy])) as url, client(url) as it:
        found = await it.silences()
    dice = random.Random(1)
    labels = {f"n{n}": "".join(dice.choices("ab", k=1024)) for n in range(matchers)}
    patience, begun = Patience(), time.process_time()
    answers = [one.matches(labels, patience) for one in found]
    assert time.process_time() - begun < 0.2
    assert patience.over
    assert answers[-1]


async def test_what_was_compared_once_takes_no_more_patience() -> None:
    found = await the_silence(matcher("n", _HEAVY, isRegex=True))
    labels, known = {"n": "ab" * 500}, dict[Any, bool]()
    assert not found.matches(labels, Patience(known))
    assert not found.matches(labels, Patience(known, seconds=0.0))
    assert found.matches({"n": "another"}, Patience(known, seconds=0.0))


DAMAGED_SILENCES: list[Any] = [
    1, {}, silence(), silence({"name": "a"}), {**silence(matcher("a", "b")), "endsAt": "later"},
    {**silence(matcher("a", "b")), "status": None},
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED_SILENCES)
async def test_a_silence_that_cannot_be_read_holds_and_costs_no_other(damage: Any) -> None:
    async with answering(saying([silence(matcher("a", "b")), damage])) as url, client(url) as it:
        found = await it.silences()
    unread, read = sorted(found, key=lambda one: bool(one.matchers))
    assert (read.id, read.unread) == ("s1", "")
    assert unread.unread
    assert unread.matches({"service": "checkout"}, Patience())
    assert str(unread).startswith("a silence that cannot be read (counts as matching more than it may mean: ")


@pytest.mark.parametrize("state", ["pending", "expired"])
async def test_a_silence_that_is_not_in_force_and_cannot_be_read_holds_nothing(state: str) -> None:
    async with answering(saying([silence(matcher("a", "b")), silence(state=state)])) as url, client(url) as it:
        assert [one.id for one in await it.silences()] == ["s1"]


async def test_one_damaged_group_costs_no_other_nor_does_an_alert_of_the_same() -> None:
    group = {"labels": {"a": "b"}, "receiver": {"name": "r"}, "alerts": [listed("A"), {"labels": 1}, listed("B")]}
    async with answering(saying([1, {"labels": 2}, group])) as url, client(url) as it:
        assert [alert.labels["alertname"] for alert in await it.group("r", {"a": "b"})] == ["A", "B"]


async def test_what_could_not_be_read_is_said() -> None:
    found = await the_silence(matcher("a", "(?=b)", isRegex=True))
    assert str(found) == (
        'deploying (counts as matching more than it may mean: a: "(?=b)": invalid perl operator: (?=)'
    )
    assert str(await the_silence(matcher("a", "b.*", isRegex=True))) == "deploying"


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def redirect(_: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "/elsewhere"})


async def broken(_: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text="starting")


async def cached(_: web.Request) -> web.StreamResponse:
    return web.json_response([], headers={"Age": "60"})


async def html(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>", content_type="text/html")


async def cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"[")
    assert request.transport is not None
    request.transport.close()
    return response


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (hang, "no answer within 300ms"),
        (drip, "no answer within 300ms"),
        (redirect, "answered 302 to /api/v2/silences"),
        (broken, "answered 503 to /api/v2/silences"),
        (cached, "answered /api/v2/silences from a cache that has had it for 60s; give its own address"),
        (html, "none of Alertmanager's"),
        (cut_short, "Alertmanager at http://127.0.0.1"),
        (saying({}), "none of Alertmanager's"),
        (saying([{"id": 1}]), "none of Alertmanager's"),
        (saying([silence()]), "none of Alertmanager's"),
    ],
)
async def test_what_is_no_whole_answer_in_time_is_unreachable(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], said: str
) -> None:
    async with answering(handler) as url, client(url, timedelta(milliseconds=300)) as it:
        with pytest.raises(Unreachable) as error:
            await it.silences()
    assert said in str(error.value)


async def test_nobody_there_is_unreachable() -> None:
    async with client(f"http://127.0.0.1:{free_port()}") as it:
        with pytest.raises(Unreachable, match="Alertmanager at http"):
            await it.firing(AT)


async def test_a_body_beyond_the_bound_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER", 1000)
    async with answering(saying(["x" * 2000])) as url, client(url) as it:
        with pytest.raises(Unreachable, match="larger than"):
            await it.silences()


async def test_inhibited_alerts_are_asked_for_and_nobody_is_notified_of_them() -> None:
    asked: list[Mapping[str, str]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(dict(request.query))
        return web.json_response({} if request.path.endswith("/status") else [])

    async with answering(handler) as url, client(url + "/") as it:
        assert await it.firing(AT) == FiringAlerts()
        assert await it.group("rollbackd", {}) == []
    assert asked == [
        {},
        {"active": "true", "silenced": "true", "inhibited": "true", "unprocessed": "true"},
        {"active": "true", "silenced": "false", "inhibited": "false", "unprocessed": "false"},
    ]


def listed(name: str, **more: Any) -> dict[str, Any]:
    return {"labels": {"alertname": name}, "annotations": {}, "startsAt": NOW, "endsAt": LATER, **more}


def telling(alerts: list[Any], uptime: str | None) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/status"):
            return web.json_response({"uptime": uptime} if uptime else {"status": 404}, status=200 if uptime else 404)
        return web.json_response(alerts)

    return handler


@pytest.mark.parametrize(
    ("uptime", "whole"),
    [
        ("2025-12-01T00:00:00.000Z", True), ("2026-01-01T11:54:00Z", True), ("2026-01-01T11:58:00Z", False),
        ("2026-01-01T12:30:00Z", False), (None, True), ("soon", False),
    ],
)  # fmt: skip
async def test_right_after_its_start_it_does_not_know_what_has_ended(uptime: str | None, whole: bool) -> None:
    async with answering(telling([], uptime)) as url, client(url) as it:
        assert await it.firing(AT) == FiringAlerts(whole=whole)


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (web.Response(status=404), True), (web.json_response({"uptime": None}), True),
        (web.Response(status=403), False), (web.Response(status=401), False), (web.Response(status=502), False),
        (web.Response(text="<html>"), False), (None, False),
        (web.json_response({"uptime": "2026-01-01T00:00:00Z"}, headers={"Age": "60"}), False),
    ],
)  # fmt: skip
async def test_a_status_that_cannot_be_had_lets_no_alert_end(answer: web.Response | None, whole: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/status"):
            return web.json_response([])
        if answer is None:
            await asyncio.sleep(60)
        return cast("web.Response", answer)

    async with (
        answering(handler) as url,
        client(url, timeout=timedelta(milliseconds=300 if answer is None else 20_000)) as it,
    ):
        assert await it.firing(AT) == FiringAlerts(whole=whole)


async def test_what_is_inhibited_or_not_looked_at_yet_is_known_and_no_news() -> None:
    every = [
        listed("A", status={"state": "active", "inhibitedBy": [], "silencedBy": []}),
        listed("B", status={"state": "suppressed", "inhibitedBy": ["x"], "silencedBy": []}),
        listed("C", status={"state": "suppressed", "inhibitedBy": [], "silencedBy": ["y"]}),
        listed("D", status={"state": "unprocessed", "inhibitedBy": [], "silencedBy": []}),
        listed("E"),
        listed("F", status={"state": None, "inhibitedBy": None}),
        listed("G", status=None, annotations=[1], generatorURL={}, endsAt=0, fingerprint=1),
    ]
    async with answering(telling(every, NOW)) as url, client(url) as it:
        found = await it.firing(AT)
    assert [alert.labels["alertname"] for alert in found.alerts] == ["A", "C", "E", "F", "G"]
    assert len(found.known) == 7
    assert found.whole


@pytest.mark.parametrize("damage", [1, {}, {"labels": {"a": 1}, "startsAt": NOW}, listed("X", startsAt="later")])
async def test_one_damaged_alert_costs_no_other_and_lets_none_end(damage: Any) -> None:
    async with answering(telling([listed("A"), damage, listed("B")], NOW)) as url, client(url) as it:
        found = await it.firing(AT)
    assert [alert.labels["alertname"] for alert in found.alerts] == ["A", "B"]
    assert not found.whole


async def test_no_password_of_its_address_is_said() -> None:
    async with client(f"http://ann:s3cr3t%40x@127.0.0.1:{free_port()}") as it:
        with pytest.raises(Unreachable) as error:
            await it.firing(AT)
    assert "s3cr3t" not in str(error.value)
    assert str(error.value).startswith("Alertmanager at http://127.0.0.1:")


# -- against a real one -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = {
        "route": {"receiver": "some.hook", "group_by": ["alertname"], "group_wait": "1s"},
        "receivers": [{"name": "some.hook"}],
        "inhibit_rules": [
            {"source_matchers": ['alertname="Root"'], "target_matchers": ['alertname="Symptom"'], "equal": ["env"]}
        ],
    }
    with alertmanager(tmp_path_factory.mktemp("alertmanager"), config) as server:
        post(
            server.url + "/api/v2/alerts",
            [
                {"labels": {"alertname": "Errors", "service": service, "env": "prod"}, "startsAt": NOW, "endsAt": LATER}
                for service in ("checkout", "search", "quiet")
            ]
            + [{"labels": {"alertname": name, "env": "prod"}, "endsAt": LATER} for name in ("Root", "Symptom")],
        )
        post(
            server.url + "/api/v2/silences",
            {
                "matchers": [{"name": "service", "value": "qui.t", "isRegex": True, "isEqual": True}],
                "startsAt": NOW,
                "endsAt": LATER,
                "createdBy": "ann",
                "comment": "deploying",
            },
        )
        wait_until(lambda: len(symptoms(server)) == 1, "the inhibition counts")
        yield server


def symptoms(server: Server) -> list[Any]:
    with urllib.request.urlopen(server.url + "/api/v2/alerts?active=false&silenced=false") as response:
        found: list[Any] = json.load(response)
        return found


def post(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as response:
        assert response.status == 200


@pytest.mark.needs("prometheus-alertmanager")
async def test_what_fires_is_read_from_a_real_one(real: Server) -> None:
    async with client(real.url) as it:
        found = await it.firing(AT)
    alerts = {alert.labels.get("service", alert.labels["alertname"]): alert for alert in found.alerts}
    assert set(alerts) == {"checkout", "search", "quiet", "Root"}
    assert len(found.known) == 5
    assert not found.whole  # it has just begun
    assert all(alert.firing for alert in alerts.values())
    assert alerts["checkout"].starts_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert len(alerts["checkout"].fingerprint) == 16


@pytest.mark.needs("prometheus-alertmanager")
async def test_silences_are_read_from_a_real_one(real: Server) -> None:
    async with client(real.url) as it:
        (found,) = await it.silences()
    assert found.matches({"service": "quiet"}, Patience())
    assert not found.matches({"service": "checkout"}, Patience())
    assert (found.created_by, found.comment) == ("ann", "deploying")


@pytest.mark.needs("prometheus-alertmanager")
async def test_a_group_is_completed_from_a_real_one(real: Server) -> None:
    async with client(real.url) as it:
        found = await it.group("some.hook", {"alertname": "Errors"})
        assert sorted(alert.labels["service"] for alert in found) == ["checkout", "search"]
        assert await it.group("another", {"alertname": "Errors"}) == []
        assert await it.group("some.hook", {"alertname": "Nothing"}) == []


def test_the_recorded_truncated_group_names_what_the_api_is_asked_for() -> None:
    from rollbackd.signals.alertmanager_webhook import parse_webhook

    body = (Path(__file__).parent.parent / "data" / "alertmanager" / "group-truncated-0.33.json").read_bytes()
    webhook = parse_webhook(body)
    assert (webhook.receiver, webhook.group_labels) == ("truncated.hook", {"alertname": "HighErrorRate"})
