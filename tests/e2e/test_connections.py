"""Real servers behind a real nginx whose doors are closed as people close theirs, and every client that we have."""

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError, CheckPlace, DeliveryError, Message, Place
from rollbackd.checks.http import HttpCheck, HttpSettings
from rollbackd.checks.serves import ServesCheck, ServesSettings
from rollbackd.config.models import AlertmanagerSettings, PrometheusSettings
from rollbackd.model import Release, Verdict
from rollbackd.notify.receivers.pagerduty import PagerDutySettings
from rollbackd.notify.receivers.slack import SlackSettings
from rollbackd.notify.receivers.webhook import WebhookSettings
from rollbackd.plugins import build_notifier
from rollbackd.signals.alertmanager_client import Alertmanager, Unreachable
from rollbackd.signals.prometheus import Prometheus, PrometheusReplicas
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock
from rollbackd.system.http_client import HttpSession, http_answer
from rollbackd.system.http_connection import connection_of, connection_to
from rollbackd.system.spawner import Spawner
from rollbackd_adapters import web
from tests.authority import Authority
from tests.fakes.clock import START
from tests.fakes.proxy import Proxy, proxying
from tests.front import NAME, PAIR, PASSWORD, TENANT, TOKEN, USER, Front, front
from tests.servers import Exporter, alertmanager, free_port, prometheus

pytestmark = pytest.mark.needs("nginx", "openssl", "prometheus", "prometheus-alertmanager")

LIMIT = timedelta(seconds=5)
SECRETS = {"PASSWORD": PASSWORD, "TOKEN": TOKEN, "WRONG": "wr0ng-entirely-123", "TENANT": TENANT}
PLACE = Place("shop", "flags", Path("/nowhere"), Spawner(), SystemClock(), lambda secret: SECRETS[secret.env])
Settings = dict[str, Any]


def reveal(secret: Secret) -> str:
    return SECRETS[secret.env]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    root = tmp_path_factory.mktemp("house")
    with prometheus(root / "prometheus") as asked, alertmanager(root / "alertmanager") as alerts:
        behind = {"/prometheus": asked.url, "/alertmanager": alerts.url}
        with front(root / "front", behind) as doors:
            yield doors


# -- every client, each as `(settings, address) -> what went wrong` ----------------------------------
async def _prometheus(given: Settings, url: str) -> str:
    settings = PrometheusSettings.model_validate({"url": f"{url}/prometheus", **given})
    client = Prometheus(
        settings.addresses[0], LIMIT, SystemClock(), partial(connection_to, settings=settings, reveal=reveal)
    )
    now = datetime.now(UTC)
    try:
        answer = await client.instant("vector(1)")
        past = await client.range("vector(1)", now - LIMIT, now, timedelta(seconds=1))
    finally:
        await client.close()
    assert bool(answer.series) is not bool(answer.problem)
    assert bool(past.problem) is bool(answer.problem)
    return answer.problem


async def _alertmanager(given: Settings, url: str) -> str:
    settings = AlertmanagerSettings.model_validate({"url": f"{url}/alertmanager", **given})
    async with HttpSession()() as session:
        client = Alertmanager(
            settings.url, LIMIT, lambda: session, partial(connection_to, settings=settings, reveal=reveal)
        )
        try:
            assert await client.silences() == []
            assert (await client.firing(datetime.now(UTC))).alerts == ()
        except Unreachable as error:
            return str(error)
    return ""


async def _releases(*_: Any) -> list[Release]:
    return [Release("v1")]


async def _checked(check: Any, settings: Any) -> str:
    async with HttpSession()() as session:
        around = CheckPlace("health", "checkout", {}, Spawner(), SystemClock(), lambda: session, None, reveal)
        result = await check(settings, replace(around, releases=_releases)).run()
    return "" if result.verdict is Verdict.GOOD else result.reason


async def _check(given: Settings, url: str) -> str:
    return await _checked(HttpCheck, HttpSettings.model_validate({"http": f"{url}/", "json": {"ok": True}, **given}))


async def _serves(given: Settings, url: str) -> str:
    settings = {"serves": f"{url}/", "layer": "code", "json": "version", **given}
    return await _checked(ServesCheck, ServesSettings.model_validate(settings))


async def _question(given: Settings, url: str) -> str:
    around = PLACE
    try:
        answer = await web.ask(web.Question.model_validate({"url": f"{url}/", **given}), around, {}, LIMIT)
        return str(web.accepted(answer, around).at("version")).replace("v1", "")
    except AdapterError as error:
        return f"{error} {error.evidence}"


async def _call(given: Settings, url: str) -> str:
    around = PLACE
    try:
        call = web.Call.model_validate({"url": f"{url}/", "body": {"to": "v1"}, **given})
        web.accepted(await web.call(call, around, {}, LIMIT), around)
    except AdapterError as error:
        return f"{error} {error.evidence}"
    return ""


MESSAGE = Message(
    key="incident:checkout-3/1/room", event="opened", title="checkout-3: rolling back checkout", lines=(),
    severity="critical", thread="checkout-3", at=START, service="checkout", incident="checkout-3", priority=None,
)  # fmt: skip


async def _secret_address(given: Settings, url: str) -> str:
    """An address that is a secret itself leads there too, and no message shows it."""
    SECRETS["ADDRESS"] = f"{url}/prometheus"
    problem = await _prometheus({**given, "url": {"env": "ADDRESS"}}, url)
    SECRETS["ADDRESS"] = f"{url}/alertmanager"
    problem += await _alertmanager({**given, "url": {"env": "ADDRESS"}}, url)
    del SECRETS["ADDRESS"]
    assert url not in problem
    assert not problem or problem.startswith("Prometheus at {env: ADDRESS}: ")
    return problem


async def _told(kind: str, settings: Any, urls: Mapping[str, str]) -> str:
    async with HttpSession()() as session:
        notifier = build_notifier(
            kind, settings, lambda secret: urls.get(secret.env) or reveal(secret), lambda: session
        )
        try:
            await notifier.send(MESSAGE)
        except DeliveryError as error:
            return str(error)
    return ""


async def _webhook(given: Settings, url: str) -> str:
    return await _told("webhook", WebhookSettings.model_validate({"url": f"{url}/", **given}), {})


async def _slack(given: Settings, url: str) -> str:
    return await _told("slack", SlackSettings.model_validate({"webhook_url": {"env": "URL"}, **given}), {"URL": url})


async def _pagerduty(given: Settings, url: str) -> str:
    settings = {"routing_key": {"env": "KEY"}, "url": f"{url}/", **given}
    return await _told("pagerduty", PagerDutySettings.model_validate(settings), {"KEY": "a" * 32})


Client = Callable[[Settings, str], Awaitable[str]]
CLIENTS: tuple[Client, ...] = (
    *(_prometheus, _alertmanager, _check, _serves, _question, _call),
    *(_webhook, _slack, _pagerduty, _secret_address),
)


async def all_of_them(given: Settings, url: str) -> dict[str, str]:
    """What went wrong, by client."""
    return {client.__name__: await client(given, url) for client in CLIENTS}


# -- every way in -------------------------------------------------------------------------------------
def keys(doors: Front) -> dict[str, Settings]:
    """What opens each door."""
    ca = str(doors.authority.certificate)
    cert, key = map(str, doors.client)
    basic = {"username": USER, "password": {"env": "PASSWORD"}}
    bearer = {"credentials": {"env": "TOKEN"}}
    return {
        "plain": {},
        "tls": {"tls": {"ca": ca}},
        "named": {"tls": {"ca": ca, "server_name": NAME}},
        "mutual": {"tls": {"ca": ca, "cert": cert, "key": key}},
        "basic": {"basic_auth": basic},
        "bearer": {"authorization": bearer},
        "tenant": {"headers": {"X-Scope-OrgID": {"env": "TENANT"}}},
        "all": {"tls": {"ca": ca, "cert": cert, "key": key}, "authorization": bearer, "headers": {"X-Any": "thing"}},
    }


DOORS = ("plain", "tls", "named", "mutual", "basic", "bearer", "tenant", "all")


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("door", DOORS)
async def test_every_client_comes_in_by_every_door_also_through_a_proxy(
    house: Front, door: str, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nobody asks the environment
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    given, url = keys(house)[door], house.urls[door]
    async with proxying() as proxy:
        more = {"proxy": proxy.url} if proxied else {}
        for client in CLIENTS:
            before = len(proxy.got)
            assert await client({**given, **more}, url) == "", client.__name__
            assert (len(proxy.got) > before) is proxied, client.__name__
    asked = [line.partition(" ")[0] for line in proxy.got]
    if not proxied:
        assert asked == []
    elif url.startswith("https"):
        assert set(asked) == {"CONNECT"}
    else:
        assert {"GET", "POST"} == set(asked)


@pytest.mark.parametrize(
    ("door", "given", "said"),
    [
        ("tls", {}, "certificate"),
        ("named", {"tls": {"ca": "CA"}}, "certificate"),
        ("mutual", {"tls": {"ca": "CA"}}, "No required SSL certificate was sent"),
        ("basic", {}, "401 Authorization Required"),
        ("basic", {"basic_auth": {"username": USER, "password": {"env": "WRONG"}}}, "401 Authorization Required"),
        ("bearer", {"authorization": {"credentials": {"env": "WRONG"}}}, "no entry for Bearer ***"),
        ("bearer", {"authorization": {"type": "Token", "credentials": {"env": "TOKEN"}}}, "no entry for Token ***"),
        ("bearer", {"headers": {"Authorization": {"env": "WRONG"}}}, "no entry for ***"),
        ("bearer", {"basic_auth": {"username": USER, "password": {"env": "PASSWORD"}}}, "no entry for Basic ***"),
        ("tenant", {"headers": {"X-Scope-OrgID": "team-b"}}, "no org id"),
    ],
)
async def test_who_is_refused_hears_why_in_the_servers_words_and_no_secret(
    house: Front, door: str, given: Settings, said: str
) -> None:
    text = json.dumps(given).replace("CA", str(house.authority.certificate))
    found = await all_of_them(json.loads(text), house.urls[door])
    for client, problem in found.items():
        assert said.lower().replace("***", "") in problem.lower().replace("***", "").replace("[secret]", ""), client
        assert not [secret for secret in (*SECRETS.values(), PAIR) if secret != TENANT and secret in problem], client


@pytest.mark.skipif(not _has_ipv6(), reason="missing: IPv6 (a kernel with it)")
async def test_addresses_of_ipv6_are_reached_too(tmp_path: Path) -> None:
    with (
        prometheus(tmp_path / "prometheus") as asked,
        alertmanager(tmp_path / "alertmanager") as alerts,
        front(tmp_path / "front", {"/prometheus": asked.url, "/alertmanager": alerts.url}, host="[::1]") as doors,
    ):
        for door in ("plain", "all"):
            assert set((await all_of_them(keys(doors)[door], doors.urls[door])).values()) == {""}
        async with proxying() as proxy:
            given = {**keys(doors)["all"], "proxy": proxy.url}
            assert set((await all_of_them(given, doors.urls["all"])).values()) == {""}
        assert all(line.startswith("CONNECT [::1]:") for line in proxy.got)


@pytest.mark.parametrize("door", ["plain", "tls"])
async def test_a_proxy_with_a_password_takes_it_from_a_secret(house: Front, door: str) -> None:
    async with proxying(Proxy(password="squid:p@ss-w0rd")) as proxy:
        SECRETS["PROXY"] = f"http://squid:p%40ss-w0rd@127.0.0.1:{proxy.port}"
        given = {**keys(house)[door], "proxy": {"env": "PROXY"}}
        assert set((await all_of_them(given, house.urls[door])).values()) == {""}
        SECRETS["PROXY"] = f"http://squid:wr0ng-w0rd@127.0.0.1:{proxy.port}"
        for client, problem in (await all_of_them(given, house.urls[door])).items():
            assert "407" in problem or "Proxy Authentication Required" in problem, client
            assert "wr0ng-w0rd" not in problem, client


@pytest.mark.parametrize(
    ("door", "how"), [("plain", "gone"), ("tls", "gone"), ("tls", "refuses"), ("tls", "hangs"), ("plain", "wants")]
)
async def test_what_fails_at_the_proxy_says_nothing_of_the_service(house: Front, door: str, how: str) -> None:
    proxy = Proxy(
        refuses="403 Forbidden" if how == "refuses" else "", hangs=how == "hangs", password="a:b" * (how == "wants")
    )
    async with proxying(proxy):
        url = f"http://127.0.0.1:{free_port() if how == 'gone' else proxy.port}"
        settings = {"http": f"{house.urls[door]}/", **keys(house)[door], "proxy": url, "timeout": "500ms"}
        async with HttpSession()() as session:
            around = CheckPlace("health", "checkout", {}, Spawner(), SystemClock(), lambda: session, None, reveal)
            result = await HttpCheck(HttpSettings.model_validate(settings), around).run()
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "proxy" in result.reason


# -- replicas -----------------------------------------------------------------------------------------
async def test_replicas_stand_in_for_each_other_and_a_series_of_two_is_one(tmp_path: Path) -> None:
    with (
        Exporter() as exporter,
        prometheus(tmp_path / "a", targets=[exporter.address]) as a,
        prometheus(tmp_path / "b", targets=[exporter.address]) as b,
    ):
        exporter.set("sickness", 0.9, service="checkout")
        limit = timedelta(seconds=3)
        client = PrometheusReplicas([a.url, b.url], limit, SystemClock())
        single = [Prometheus(one.url, timedelta(seconds=1), SystemClock()) for one in (a, b)]

        async def seen() -> list[tuple[Mapping[str, str], float]]:
            answer = await client.instant("sickness")
            assert answer.problem == ""
            return [(one.labels, one.value) for one in answer.series]

        async with asyncio.timeout(30):
            while not all([(await one.instant("sickness")).series for one in single]):
                await asyncio.sleep(0.05)
        before = await seen()
        assert [value for _, value in before] == [0.9]
        a.process.send_signal(signal.SIGSTOP)  # it hangs: the next one is asked, and first from then on
        assert await seen() == before
        began = time.monotonic()
        assert await seen() == before
        assert time.monotonic() - began < limit.total_seconds()
        a.process.send_signal(signal.SIGCONT)
        b.stop()
        assert await seen() == before
        async with asyncio.timeout(30):
            while True:  # it scrapes again soon; of what it could not ask it says that it is gone
                now = datetime.now(UTC)
                past = await client.range("sickness", now - timedelta(seconds=5), now, timedelta(seconds=1))
                if past.series:
                    break
                await asyncio.sleep(0.2)
        assert [one.labels for one in past.series] == [labels for labels, _ in before]
        a.stop()
        problem = (await client.instant("sickness")).problem
        assert f"Prometheus at {a.url}" in problem
        assert f"Prometheus at {b.url}" in problem
        for one in (client, *single):
            await one.close()


# -- others that speak Prometheus's language ------------------------------------------------------------
@pytest.mark.needs("victoria-metrics")
async def test_victoria_metrics_answers_behind_its_own_tls_and_password_and_below_a_path(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    certificate, key = authority.signed("metrics", "IP:127.0.0.1")
    address = f"127.0.0.1:{free_port()}"
    argv = [
        *("victoria-metrics", f"-storageDataPath={tmp_path / 'data'}", "-search.latencyOffset=1s"),
        *(f"-httpListenAddr={address}", "-http.pathPrefix=/victoria", "-tls"),
        *(f"-tlsCertFile={certificate}", f"-tlsKeyFile={key}"),
        *(f"-httpAuth.username={USER}", f"-httpAuth.password={PASSWORD}"),
    ]
    basic = {"username": USER, "password": {"env": "PASSWORD"}}
    given: Settings = {"url": f"https://{address}/victoria", "tls": {"ca": str(authority.certificate)}}

    def client(**more: Any) -> Prometheus:
        settings = PrometheusSettings.model_validate(given | more)
        return Prometheus(
            settings.addresses[0], LIMIT, SystemClock(), partial(connection_to, settings=settings, reveal=reveal)
        )

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    let_in, refused = client(basic_auth=basic), client()
    try:
        async with asyncio.timeout(60), HttpSession()() as session:
            while (await let_in.instant("vector(1)")).problem:
                assert process.poll() is None, (tmp_path / "log").read_text()
                await asyncio.sleep(0.1)
            settings = AlertmanagerSettings.model_validate(given | {"basic_auth": basic})
            async with http_answer(
                session,
                "POST",
                f"{settings.url}/api/v1/import/prometheus",
                body=b'sickness{service="checkout"} 0.9\n',
                connection=connection_of(settings, reveal),
            ) as answer:
                assert answer.status == 204
            while not (found := await let_in.instant("sickness")).series:
                assert found.problem == ""
                await asyncio.sleep(0.1)
        assert [(one.labels["service"], one.value) for one in found.series] == [("checkout", 0.9)]
        now = datetime.now(UTC)
        past = await let_in.range("sickness", now - timedelta(seconds=60), now, timedelta(seconds=1))
        assert {value for _, value in past.series[0].points} == {0.9}
        assert "answered 422" in (await let_in.instant("sickness >")).problem
        assert "answered 401" in (await refused.instant("sickness")).problem
    finally:
        await let_in.close()
        await refused.close()
        process.kill()
        process.wait(timeout=10)
