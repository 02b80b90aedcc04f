"""What goes along with a request: each way of saying who asks, bodies, masks, and faults of all of them."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import aiohttp
import pytest
import yaml
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rollbackd.adapter import AdapterError, CheckPlace, Message, Place
from rollbackd.checks.http import HttpCheck, HttpSettings
from rollbackd.config.load import ConfigErrors, dump_service, load, load_service
from rollbackd.model import Change, Release, Verdict
from rollbackd.notify.receivers.webhook import WebhookSettings
from rollbackd.plugins import adapters, build_notifier
from rollbackd.signals.alertmanager_client import Alertmanager, Unreachable
from rollbackd.signals.prometheus import Prometheus
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock
from rollbackd.system.http_client import HttpSession, http_answer
from rollbackd.system.http_connection import DIRECT, MASK, connection_of, connection_to, in_short, masked, shown
from rollbackd.system.spawner import Spawner
from rollbackd_adapters import web as layers_web
from tests.fakes.pages import serving
from tests.servers import free_port

SECRETS = {"P": "p4ss:w0rd", "T": "t0ken-0123456789", "H": "h1dden-header", "X": "http://u:p%40x@proxy.example:3128"}
LIMIT = timedelta(seconds=5)


def reveal(secret: Secret) -> str:
    if secret.env not in SECRETS:
        raise ValueError(f"environment variable {secret.env} is not set; set it where the daemon is started")
    return SECRETS[secret.env]


def connected(**given: Any) -> Any:
    return connection_of(ConnectionSettings.model_validate(given), reveal)


# -- who asks ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ({}, {}),
        (
            {"basic_auth": {"username": "ann", "password": {"env": "P"}}},
            {"Authorization": "Basic YW5uOnA0c3M6dzByZA=="},
        ),
        ({"authorization": {"credentials": {"env": "T"}}}, {"Authorization": "Bearer t0ken-0123456789"}),
        (
            {"authorization": {"type": "GenieKey", "credentials": {"env": "T"}}, "headers": {"X-Tenant": "a"}},
            {"Authorization": "GenieKey t0ken-0123456789", "X-Tenant": "a"},
        ),
        ({"headers": {"X-Scope-OrgID": {"env": "H"}, "a": "b"}}, {"X-Scope-OrgID": "h1dden-header", "a": "b"}),
    ],
)
def test_each_way_of_saying_who_asks_is_a_header(given: dict[str, Any], headers: dict[str, str]) -> None:
    found = connected(**given)
    assert found.headers == headers
    assert not [secret for secret in SECRETS.values() if secret in repr(found)]
    assert found.confidential is bool(given)
    for text in headers.values():
        value = text.rpartition(" ")[2]
        assert (value in found.secrets) or value in {"a", "b"}


def test_an_address_and_a_proxy_may_be_secrets_and_are_not_shown() -> None:
    found = connected(proxy={"env": "X"})
    assert found.proxy == SECRETS["X"]
    assert {"p%40x", "p@x", SECRETS["X"]} <= set(found.secrets)
    assert not found.confidential
    to = connection_to(Secret(env="X"), ConnectionSettings(), reveal)
    assert (to.url, SECRETS["X"] in to.secrets) == (SECRETS["X"], True)
    assert [shown(Secret(file="/a")), shown("http://u:p@h/x")] == ["{file: /a}", "http://h/x"]
    assert connection_to("http://h", ConnectionSettings(), reveal) == DIRECT


@pytest.mark.parametrize("text", ["no url", "https://proxy:1", "http://[", "http://p/with/path", "socks5://p:1", ""])
def test_a_secret_that_is_no_proxy_is_not_quoted(text: str) -> None:
    SECRETS["BAD"] = text
    with pytest.raises(ValueError, match="this is no proxy; write it like") as error:
        connected(proxy={"env": "BAD"})
    assert not text or text not in str(error.value)


@pytest.mark.parametrize("text", ["a\nb", "a\r\nX-More: b", "a\0", "a\x1b[31m", "a\x7f"])
def test_no_value_ends_its_header(text: str) -> None:
    SECRETS["BAD"] = text
    for one in ({"headers": {"X-Any": {"env": "BAD"}}}, {"authorization": {"credentials": {"env": "BAD"}}}):
        with pytest.raises(ValueError, match=r"has a (line break|control character) in it") as error:
            connected(**one)
        assert text not in str(error.value)
    with pytest.raises(ValidationError):
        connected(headers={"X-Any": text})


# -- masks ---------------------------------------------------------------------------------------------
@given(
    st.lists(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=40), min_size=1, max_size=3
    ),
    st.lists(st.one_of(st.integers(0, 2), st.text("<p>/ .:,;-_", max_size=30)), max_size=12),
    st.integers(0, 400),
)
def test_no_secret_is_shown_wherever_the_words_are_cut(secrets: list[str], parts: list[int | str], cut: int) -> None:
    """Nor four characters or more of one that the cut went through."""
    text = "".join(part if isinstance(part, str) else secrets[part % len(secrets)] for part in parts)[:cut]
    found = masked(text, secrets)
    shown_words = in_short(found)
    for secret in secrets:
        assert secret not in found
        assert not [n for n in range(4, len(secret)) if found.endswith(secret[:n]) and secret[:n].strip("*")]
    assert "\n" not in shown_words
    assert len(shown_words) < 300


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        (" \n\t ", ""),
        ("no org id\n", ": no org id"),
        ("<html>\r\n<head><title>401 Authorization Required</title></head>\r\n</html>", ": 401 Authorization Required"),
        ("a < b and c > d", ": a < b and c > d"),
        ("\x1b[31mred\x1b[0m \u202egnp.exe", ": red ?gnp.exe"),
        ("x" * 500, f": {'x' * 200}… (500 characters)"),
    ],
)
def test_words_are_shown_on_one_line_and_cut(said: str, told: str) -> None:
    assert in_short(said) == told


@pytest.mark.parametrize("status", [401, 500])
@pytest.mark.parametrize("before", [0, 150, 190, 195, 199, 290, 297, 2040, 4090])
async def test_a_cut_through_a_secret_shows_no_part_of_it(
    before: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the server's words it stands; as text and as Prometheus's own error."""
    secret = "t0ken-0123456789-" * 20
    monkeypatch.setitem(SECRETS, "T", secret)

    async def echo(request: web.Request) -> web.StreamResponse:
        words = f"{'x' * before}{request.headers['Authorization']} is refused"
        if "json" in request.path:
            return web.json_response({"status": "error", "errorType": words, "error": words}, status=status)
        return web.Response(text=words, status=status)

    given: dict[str, Any] = {"authorization": {"type": "B", "credentials": {"env": "T"}}}
    with_it = partial(connection_to, settings=_settings(given), reveal=reveal)
    async with serving(echo) as url, HttpSession()() as session:
        for place in ("text", "json"):
            client = Prometheus(f"{url}/{place}", LIMIT, SystemClock(), with_it)
            said = [(await client.instant("up")).problem, (await _checked(f"{url}/{place}", **given)).reason]
            await client.close()
            with pytest.raises(Unreachable) as error:
                await Alertmanager(f"{url}/{place}", LIMIT, lambda: session, with_it).silences()
            said.append(str(error.value))
            assert [one for one in said if secret[:4] in one] == []
            assert all(f"answered {status}" in one for one in said)


# -- redirects -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "follows"),
    [
        ({}, True),
        ({"headers": {"X-Any": "plain"}}, True),
        ({"headers": {"X-Any": {"env": "H"}}}, False),
        ({"basic_auth": {"username": "ann", "password": {"env": "P"}}}, False),
        ({"authorization": {"credentials": {"env": "T"}}}, False),
        ({"tls": {"server_name": "x"}}, False),
    ],
)
async def test_what_is_for_one_server_is_led_to_no_other(given: dict[str, Any], follows: bool) -> None:
    came: list[Mapping[str, str]] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        came.append(dict(request.headers))
        return web.Response()

    session = HttpSession()
    async with serving(elsewhere) as there:

        async def away(_: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(there)

        async with (
            serving(away) as url,
            http_answer(
                session(), "GET", url, redirects=5, connection=connection_of(_settings(given), reveal)
            ) as answer,
        ):
            assert answer.status == (200 if follows else 302)
    assert bool(came) is follows
    await session.close()


def _settings(given: dict[str, Any]) -> ConnectionSettings:
    return ConnectionSettings.model_validate(given)


async def test_headers_of_the_request_win_whatever_their_case() -> None:
    came: list[list[tuple[str, str]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        came.append([(name.lower(), value) for name, value in request.headers.items()])
        return web.Response()

    session = HttpSession()
    connection = connected(headers={"content-TYPE": "text/csv", "x-any": "a"})
    async with (
        serving(handler) as url,
        http_answer(session(), "GET", url, headers={"X-Any": "b"}, connection=connection),
    ):
        pass
    assert [value for name, value in came[0] if name == "x-any"] == ["b"]
    await session.close()


# -- bodies --------------------------------------------------------------------------------------------
BODIES: list[tuple[dict[str, Any], str, Callable[[bytes], Any], Any]] = [
    ({"json": {"query": "shoe", "n": [1, None, True]}}, "application/json", json.loads, {"query": "shoe", "n": [1, None, True]}),
    ({"json": False}, "application/json", json.loads, False),
    ({"form": {"user": "ä b&c", "password": {"env": "P"}}}, "application/x-www-form-urlencoded",
     lambda body: dict(parse_qsl(body.decode())), {"user": "ä b&c", "password": SECRETS["P"]}),
    ({"body": "a,b\nä"}, "text/plain; charset=utf-8", bytes.decode, "a,b\nä"),
    ({"body": ""}, "text/plain; charset=utf-8", bytes.decode, ""),
    ({"body": {"env": "H"}}, "text/plain; charset=utf-8", bytes.decode, SECRETS["H"]),
]  # fmt: skip


class Desk:
    """Remembers what it was sent, and says it again with a refusal when it is told to."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.got: list[tuple[str, str, bytes]] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.got.append((request.method, request.headers.get("Content-Type", ""), body))
        return web.Response(status=self.status, body=body or b'"nothing"', content_type="application/json")


async def _checked(url: str, **given: Any) -> Any:
    async with aiohttp.ClientSession() as session:
        around = CheckPlace("a", "shop", {}, Spawner(), SystemClock(), lambda: session, None, reveal)
        return await HttpCheck(HttpSettings.model_validate({"http": url, **given}), around).run()


@pytest.mark.parametrize(("send", "kind", "read", "expected"), BODIES)
async def test_a_check_and_a_layer_post_what_they_are_told_to(
    send: dict[str, Any], kind: str, read: Callable[[bytes], Any], expected: Any
) -> None:
    desk = Desk()
    around = Place("shop", "flags", Path("/nowhere"), Spawner(), SystemClock(), reveal)
    async with serving(desk.serve) as url:
        assert (await _checked(url, send=send)).verdict is Verdict.GOOD
        await _checked(url, send=send, headers={"content-type": "text/csv"})
        question = layers_web.Question.model_validate({"url": url, "send": send})
        assert (await layers_web.ask(question, around, {}, LIMIT)).ok
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            call = layers_web.Call.model_validate({"url": url, "method": method, "send": send})
            assert (await layers_web.call(call, around, {}, LIMIT)).ok
    assert [method for method, _, _ in desk.got] == ["POST", "POST", "POST", "POST", "PUT", "PATCH", "DELETE"]
    assert {read(body) if not isinstance(expected, dict) else str(read(body)) for _, _, body in desk.got} == {
        expected if not isinstance(expected, dict) else str(expected)
    }
    assert [sent for _, sent, _ in desk.got] == [kind, "text/csv", *[kind] * 5]


async def test_a_refusal_that_repeats_a_secret_of_the_body_does_not_show_it() -> None:
    desk = Desk(status=422)
    around = Place("shop", "flags", Path("/nowhere"), Spawner(), SystemClock(), reveal)
    async with serving(desk.serve) as url:
        for send in ({"form": {"key": {"env": "T"}}}, {"body": {"env": "T"}}):
            reason = (await _checked(url, send=send)).reason
            assert reason.startswith("answered 422, wants 2xx: ")
            assert SECRETS["T"] not in reason
            call = layers_web.Call.model_validate({"url": url, "send": send})
            with pytest.raises(AdapterError) as error:
                layers_web.accepted(await layers_web.call(call, around, {}, LIMIT), around)
            assert MASK in error.value.evidence
            assert SECRETS["T"] not in error.value.evidence


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=30)
def test_a_release_is_a_value_of_a_body_and_never_its_structure(release: str) -> None:
    change = Change("flags", Release("r1"), Release(release), key="shop-1/flags")
    around = Place("shop", "flags", Path("/nowhere"), Spawner(), SystemClock(), reveal)
    words = layers_web.words_of(around, change=change)
    for send, read in (
        ({"json": {"to": "{after}", "{service}": 1}}, json.loads),
        ({"form": {"to": "{after}", "x": "1"}}, lambda body: dict(parse_qsl(body.decode(), keep_blank_values=True))),
    ):
        call = layers_web.Call.model_validate({"url": "http://h/", "send": send})
        _, _, data, _ = layers_web._prepared(call, around, words, "POST http://h/")
        assert data is not None
        assert read(data)["to"] == release
        assert len(read(data)) == 2
    text = layers_web.Call.model_validate({"url": "http://h/", "send": {"body": "{after} {anything}"}})
    assert layers_web._prepared(text, around, words, "")[2] == b"{after} {anything}"


class Prepared(NamedTuple):
    """A layer that asks by HTTP, and the places of its requests."""

    settings: dict[str, Any]
    requests: tuple[str, ...]


PREPARED = {
    "http": Prepared(
        {
            "apply": {"url": "URL/{after}"},
            "progress": {"url": "URL", "json": "state", "done": "ok", "failed": "no"},
        },
        ("apply", "progress"),
    ),
    "freeze": Prepared({"http": {"enter": {"url": "URL"}, "leave": {"url": "URL"}}}, ("http/enter", "http/leave")),
    "drain": Prepared(
        {"http": {"enter": {"url": "URL"}, "leave": {"url": "URL"}, "sessions": {"url": "URL", "json": "n"}}},
        ("http/enter", "http/leave", "http/sessions"),
    ),
}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"authorization": {"credentials": {"env": "NONE"}}}, "environment variable NONE is not set"),
        ({"headers": {"X-Key": {"env": "NONE"}}}, "header X-Key: environment variable NONE is not set"),
        ({"tls": {"ca": "/nowhere/ca.pem"}}, "/nowhere/ca.pem cannot be read: no such file or directory"),
        ({"proxy": {"env": "NONE"}}, "proxy: environment variable NONE is not set"),
    ],
)
@pytest.mark.parametrize("adapter", PREPARED)
async def test_ready_knows_what_no_request_could_do_without(
    adapter: str, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    async with serving(Desk().serve) as url:
        around = Place("shop", "flags", tmp_path, Spawner(tmp_path / "locks"), SystemClock(), reveal)
        for place in PREPARED[adapter].requests:
            written = json.loads(json.dumps(PREPARED[adapter].settings).replace("URL", url))
            found = written
            for step in place.split("/"):
                found = found[step]
            layer = adapters()[adapter]
            sound = layer.settings_model.model_validate({"adapter": adapter, **written})
            assert await layer(sound, around).ready() == []
            found |= more
            spoilt = layer.settings_model.model_validate({"adapter": adapter, **written})
            (problem,) = await layer(spoilt, around).ready()
            assert said in problem.text


async def test_ready_looks_for_the_proxy_where_there_is_one(tmp_path: Path) -> None:
    """Nobody needs to know the service's name but the proxy."""
    around = Place("shop", "flags", tmp_path, Spawner(tmp_path / "locks"), SystemClock(), reveal)

    def layer(proxy: str) -> Any:
        apply = {"url": "http://flags.invalid/{after}", "proxy": proxy}
        progress = {"url": "http://flags.invalid/", "json": "state", "done": "ok", "failed": "no"}
        made = adapters()["http"]
        return made(
            made.settings_model.model_validate({"adapter": "http", "apply": apply, "progress": progress}), around
        )

    async with serving(Desk().serve) as url:
        assert await layer(url).ready() == []
    port = free_port()
    (problem,) = await layer(f"http://[::1]:{port}").ready()
    assert problem.text.startswith(f"[::1]:{port}, the proxy of `apply`, cannot be reached: ")


async def test_a_receivers_own_type_wins_and_its_key_does_not_lose(tmp_path: Path) -> None:
    desk, came = Desk(), list[Mapping[str, str]]()

    async def handler(request: web.Request) -> web.StreamResponse:
        came.append({name.lower(): value for name, value in request.headers.items()})
        return await desk.serve(request)

    async with serving(handler) as url, HttpSession()() as session:
        headers = {"content-type": "application/vnd.bot+json", "idempotency-key": "mine", "X-Any": "thing"}
        receiver = WebhookSettings.model_validate({"url": url, "headers": headers})
        message = Message("the-key", "opened", "title", (), "info", "shop-1", datetime.now(UTC))
        await build_notifier("webhook", receiver, reveal, lambda: session).send(message)
    assert (came[0]["content-type"], came[0]["idempotency-key"]) == ("application/vnd.bot+json", "the-key")
    assert came[0]["x-any"] == "thing"


# -- the configuration ---------------------------------------------------------------------------------
REST: dict[str, Any] = {
    "daemon": {"mode": "shadow", "open_on_loopback": True},
    "services": [
        {
            "name": "shop",
            "match": {"service": "shop"},
            "layers": {
                "code": {"adapter": "git", "repo": "/srv/shop"},
                "flags": {
                    "adapter": "http",
                    "apply": {"url": "http://h/{after}"},
                    "progress": {"url": "http://h/", "json": "state", "done": "ok", "failed": "no"},
                },
                "page": {"adapter": "freeze", "http": {"enter": {"url": "http://h/"}, "leave": {"url": "http://h/"}}},
                "calls": {
                    "adapter": "drain",
                    "http": {
                        "enter": {"url": "http://h/"},
                        "leave": {"url": "http://h/"},
                        "sessions": {"url": "http://h/", "json": "n"},
                    },
                },
            },
            "checks": {
                "health": {"http": "http://h/"},
                "version": {"serves": "http://h/", "layer": "code", "text": True},
            },
            "verify": {"checks": ["health"]},
        }
    ],
    "prometheus": {"url": "http://h"},
    "alertmanager": {"url": "http://h"},
    "notify": {
        "receivers": [
            {"name": "a", "slack": {"webhook_url": {"env": "HOOK"}}},
            {"name": "b", "pagerduty": {"routing_key": {"env": "HOOK"}}},
            {"name": "c", "webhook": {"url": "http://h/"}},
        ]
    },
}
PLACES: dict[str, tuple[str | int, ...]] = {
    "prometheus": ("prometheus",),
    "alertmanager": ("alertmanager",),
    "check": ("services", 0, "checks", "health"),
    "serves": ("services", 0, "checks", "version"),
    "apply": ("services", 0, "layers", "flags", "apply"),
    "progress": ("services", 0, "layers", "flags", "progress"),
    "freeze": ("services", 0, "layers", "page", "http", "enter"),
    "drain": ("services", 0, "layers", "calls", "http", "leave"),
    "slack": ("notify", "receivers", 0, "slack"),
    "pagerduty": ("notify", "receivers", 1, "pagerduty"),
    "webhook": ("notify", "receivers", 2, "webhook"),
    "heartbeat": ("daemon", "heartbeat"),
}
FINE: list[dict[str, Any]] = [
    {"headers": {"X-Scope-OrgID": "team-a"}},
    {"headers": {"Authorization": {"env": "HOOK"}}},
    {"basic_auth": {"username": "u", "password": {"env": "HOOK"}}},
    {"authorization": {"credentials": {"env": "HOOK"}}, "proxy": "http://proxy.example:3128"},
    {"tls": {"server_name": "prometheus.internal"}},
    {"proxy": {"env": "PROXY"}},
    {"proxy": "http://[::1]:3128/"},
]
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"basic_auth": {"username": "u", "password": "hunter2"}}, "a secret is never written here"),
    ({"basic_auth": {"username": "u"}}, 'missing key "password"'),
    ({"basic_auth": {"username": "u:v", "password": {"env": "HOOK"}}}, "a user's name has no colon"),
    ({"basic_auth": {"username": "u", "password": {"env": "NONE"}}}, "environment variable NONE is not set"),
    ({"authorization": {"credentials": "hunter2"}}, "a secret is never written here"),
    ({"authorization": {"type": "Basic", "credentials": {"env": "HOOK"}}}, "give `basic_auth:"),
    ({"authorization": {"type": "Bearer x", "credentials": {"env": "HOOK"}}}, "is no kind of authorization"),
    (
        {
            "authorization": {"credentials": {"env": "HOOK"}},
            "basic_auth": {"username": "u", "password": {"env": "HOOK"}},
        },
        "both say who asks; give one of them",
    ),
    (
        {"authorization": {"credentials": {"env": "HOOK"}}, "headers": {"AUTHORIZATION": "x"}},
        "`authorization` and header AUTHORIZATION both say who asks; give one of them",
    ),
    ({"headers": {"X Y": "a"}}, "is not the name of a header; "),
    ({"headers": {"X-Y": "a\nb"}}, "has a line break in it; "),
    ({"proxy": "http://u:hunter2@p:1"}, "a user or password in it would be shown; "),
    ({"proxy": "socks5://p:1"}, "this is no proxy; "),
    ({"proxy": {"env": "HOOK"}}, "this is no proxy; "),
    ({"tls": {"ca": "relative.pem"}}, "depends on where the daemon is started; "),
    ({"tls": {"ca": "/nowhere/ca.pem"}}, "/nowhere/ca.pem cannot be read: no such file or directory; "),
    ({"tls": {"key": "/nowhere/key.pem"}}, "`key` belongs to a certificate; give `cert` as well"),
    ({"tls": {"insecure_skip_verify": True}}, "it is always verified"),
    ({"tls_config": {"ca_file": "/x"}}, 'unknown key "tls_config"; here it is tls'),
    ({"tls": {"ca_file": "/x"}}, 'unknown key "ca_file"; here it is ca'),
    ({"proxy_url": "http://p"}, 'unknown key "proxy_url"; here it is proxy'),
    ({"bearer_token": "hunter2"}, 'unknown key "bearer_token"; here it is authorization: '),
]


def _written(place: str, given: dict[str, Any], path: Path) -> Path:
    config = json.loads(json.dumps(REST))
    config["daemon"]["heartbeat"] = {"url": "http://h/"}
    found = config
    for step in PLACES[place]:
        found = found[step]
    found |= given
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return path / "config.yaml"


@pytest.fixture
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "hunter2-entirely")
    monkeypatch.setenv("PROXY", "http://u:hunter2@proxy.example:3128")
    monkeypatch.delenv("NONE", raising=False)


@pytest.mark.usefixtures("_surroundings")
@pytest.mark.parametrize("place", PLACES)
def test_the_same_keys_fit_wherever_a_url_stands_and_the_same_faults_are_told(place: str, tmp_path: Path) -> None:
    for fine in FINE:
        load(_written(place, fine, tmp_path))
    for fault, said in FAULTS:
        with pytest.raises(ConfigErrors) as errors:
            load(_written(place, fault, tmp_path))
        assert said in str(errors.value), fault
        assert "hunter2" not in str(errors.value)
        assert re.fullmatch(r"\S+config\.yaml:\d+:\d+: .+; .+", str(errors.value)), str(errors.value)
    load(_written(place, {"tls": {"ca": "/nowhere/ca.pem"}, "proxy": {"env": "NONE"}}, tmp_path), look_for=None)


@pytest.mark.usefixtures("_surroundings")
@pytest.mark.parametrize(
    "heartbeat", ["", "https://dead-man.example/x", {"url": "https://dead-man.example/x"}, {"url": {"env": "PROXY"}}]
)
def test_a_heartbeat_is_a_url_or_one_with_more(heartbeat: Any, tmp_path: Path) -> None:
    path = _written("prometheus", {}, tmp_path)
    text = path.read_text().replace("heartbeat:\n    url: http://h/", f"heartbeat: {json.dumps(heartbeat)}")
    assert json.dumps(heartbeat) in text
    path.write_text(text)
    load(path)


@pytest.mark.usefixtures("_surroundings")
@pytest.mark.parametrize("place", ["prometheus", "alertmanager"])
def test_an_address_holds_no_password_and_may_be_a_secret(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADDRESS", "https://u:hunter2@prom.example/prometheus")
    for url in ("https://[::1]:9090", "https://prom.example/a/b/", {"env": "ADDRESS"}):
        load(_written(place, {"url": url}, tmp_path))
    for url, said in (
        ("https://u:hunter2@prom.example/prometheus", "a user or password in it is shown; "),
        ("https://prom.example/?a=b", "goes on after its path; "),
        ("https://prom.example/#x", "goes on after its path; "),
        ({"env": "HOOK"}, "this secret is no URL; "),
        ("prom.example", "is not a URL; "),
    ):
        with pytest.raises(ConfigErrors) as errors:
            load(_written(place, {"url": url}, tmp_path))
        assert said in str(errors.value)
        assert "hunter2" not in str(errors.value)


@pytest.mark.usefixtures("_surroundings")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "http://a", "urls": ["http://b", "http://c"]}, ""),
        ({"url": "http://a", "urls": ["http://b", "http://a/"]}, "one server stands here twice; "),
        ({"url": "http://a", "urls": ["http://u:hunter2@b"]}, "a user or password in it is shown; "),
    ],
)
def test_replicas_are_named_once_each(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = _written("prometheus", given, tmp_path)
    if not said:
        found = load(path).config.prometheus
        assert found is not None
        assert found.addresses == ("http://a", "http://b", "http://c")
        return
    with pytest.raises(ConfigErrors, match=re.escape(said)):
        load(path)


@pytest.mark.usefixtures("_surroundings")
def test_what_was_written_before_there_were_such_keys_is_read(tmp_path: Path) -> None:
    service = load(_written("check", {"headers": {"X-Any": {"env": "HOOK"}}}, tmp_path)).config.services[0]
    dumped = dump_service(service)
    assert load_service(json.loads(json.dumps(dumped))) == service
    assert load_service(_without(dumped, {"basic_auth", "authorization", "tls", "proxy", "send"})) == service


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, names) for key, each in value.items() if key not in names}
    return [_without(each, names) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"send": {}}, "give one of json, form and body"),
        ({"send": {"json": 1, "body": "x"}}, "give one of json, form and body"),
        ({"send": {"form": {"a": ["b"]}}}, "does not fit"),
        ({"send": {"json": 1}, "method": "GET"}, "what is sent goes to one URL by POST"),
        ({"send": {"json": 1}, "follow": True}, "what is sent goes to one URL by POST"),
        ({"follow": True, "authorization": {"credentials": {"env": "HOOK"}}}, "to another host"),
        ({"body": "x"}, 'unknown key "body"; here it is send: {body: TEXT}'),
        ({"form": {"a": "b"}}, 'unknown key "form"; here it is send: {form: '),
    ],
)
@pytest.mark.usefixtures("_surroundings")
def test_what_a_check_sends_is_one_thing_and_goes_to_one_place(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigErrors) as errors:
        load(_written("check", given, tmp_path))
    assert said in str(errors.value)
