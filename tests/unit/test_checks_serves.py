"""Whether what answers is the release that the layer has: real answers, releases as a test says."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from rollbackd.adapter import Adapter, AdapterError, Check, CheckPlace
from rollbackd.checks.log import LogSettings
from rollbackd.checks.serves import ServesCheck, ServesSettings
from rollbackd.config.load import ConfigErrors, load
from rollbackd.config.models import Service
from rollbackd.core import _releases
from rollbackd.execution.check_runner import CheckRunner, CheckSurroundings
from rollbackd.execution.layers import LayerFactory, Layers
from rollbackd.model import CheckResult, Release, Traits, Verdict
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.fakes.pages import saying, serving
from tests.servers import free_port
from tests.unit.house import configured

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
NOW = Release("3f2a9c1d4e5b", "v41")
OLD = Release("8b7c6d5e4f3a", "v40", names=("v40", "1111111aaaa"))
NOW_NAMED = Release("3f2a9c1d4e5b", "v41", names=("v41", "stable", "2222222bbbb"))
ALIKE = Release("3f2a9c1ffff0", "v39")


def layers(*releases: Release) -> Any:
    async def told(layer: str) -> Sequence[Release]:
        if layer != "code":
            raise AdapterError(f"{layer}: no such layer", permanent=True)
        return releases

    return told


SECRET = "s3cret-that-comes-back"


async def ask(url: str, *releases: Release, **settings: Any) -> CheckResult:
    where = {} if {"json", "header", "text"} & settings.keys() else {"text": True}
    written = {"serves": url, "layer": "code"} | where | settings
    async with aiohttp.ClientSession() as session:
        place = CheckPlace(
            "version", "shop", {}, Spawner(secrets=[SECRET]), SystemClock(), lambda: session, None, lambda secret: secret.env,
            releases=layers(*(releases or (NOW, OLD))),
        )  # fmt: skip
        return await ServesCheck(ServesSettings(**written), place).run()


def test_it_follows_the_contract() -> None:
    place = CheckPlace("version", "shop", {}, None, SystemClock(), lambda: None, None)
    assert isinstance(ServesCheck(ServesSettings(serves="http://x", layer="code", text=True), place), Check)


async def test_what_comes_back_is_shown_without_our_secrets() -> None:
    async with serving(saying(text=f"you sent {SECRET}")) as url:
        result = await ask(url)
    assert (result.verdict, result.reason) == (BAD, 'serves "you sent [secret]", and code has v41 (3f2a9c1d4e5b)')


@pytest.mark.parametrize(
    ("served", "verdict", "reason"),
    [
        ("3f2a9c1d4e5b", GOOD, 'serves "3f2a9c1d4e5b", as code has'),
        ("v41", GOOD, 'serves "v41", as code has'),
        (" v41\n", GOOD, 'serves "v41", as code has'),
        ("3f2a9c1", GOOD, 'serves "3f2a9c1", as code has'),
        ("3f2a9c", BAD, 'serves "3f2a9c", and code has v41 (3f2a9c1d4e5b)'),
        ("v40", BAD, 'serves "v40", and code has v41 (3f2a9c1d4e5b)'),
        ("v4", BAD, 'serves "v4", and code has v41 (3f2a9c1d4e5b)'),
        ("3f2a9c1d4e5b6", BAD, 'serves "3f2a9c1d4e5b6", and code has v41 (3f2a9c1d4e5b)'),
        ("", UNKNOWN, "answered 200 and names no release in its body"),
    ],
)
async def test_what_answers_is_compared_with_what_the_layer_has(served: str, verdict: Verdict, reason: str) -> None:
    async with serving(saying(text=served)) as url:
        result = await ask(url)
    assert (result.verdict, result.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("served", "verdict"), [("stable", GOOD), ("2222222bbbb", GOOD), ("2222222", GOOD), ("1111111", BAD), ("v40", BAD)]
)
async def test_a_release_may_go_by_other_names(served: str, verdict: Verdict) -> None:
    async with serving(saying(text=served)) as url:
        assert (await ask(url, NOW, NOW_NAMED, OLD)).verdict is verdict


async def test_a_beginning_that_several_releases_have_says_nothing() -> None:
    async with serving(saying(text="3f2a9c1")) as url:
        result = await ask(url, NOW, NOW, OLD, ALIKE)
    assert result.verdict is UNKNOWN
    assert result.reason == 'serves "3f2a9c1", and 2 releases of code are called so; have it say the whole id'
    async with serving(saying(text="3f2a9c1d")) as url:
        assert (await ask(url, NOW, OLD, ALIKE)).verdict is GOOD


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"json": "build.version"}, GOOD),
        ({"json": "builds[0]"}, GOOD),
        ({"json": "number"}, BAD),
        ({"json": "build"}, UNKNOWN),
        ({"json": "nothing"}, UNKNOWN),
        ({"json": "ready"}, UNKNOWN),
        ({"header": "x-version"}, GOOD),
        ({"header": "X-Other"}, UNKNOWN),
    ],
)
async def test_the_release_is_where_the_settings_say(settings: dict[str, Any], verdict: Verdict) -> None:
    text = '{"build": {"version": "v41"}, "builds": ["v41"], "number": 41, "ready": true}'
    async with serving(saying(text=text, X_Version="v41")) as url:
        result = await ask(url, **settings)
    assert result.verdict is verdict, result.reason


async def test_headers_are_sent_with_their_secrets() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="v41" if request.headers.get("Authorization") == "TOKEN" else "who are you")

    async with serving(handler) as url:
        result = await ask(url, headers={"Authorization": {"env": "TOKEN"}})
    assert result.verdict is GOOD


async def test_a_service_that_does_not_answer_is_bad_as_for_any_request() -> None:
    gone = await ask(f"http://127.0.0.1:{free_port()}")
    assert (gone.verdict, gone.reason) == (BAD, "connection refused")
    async with serving(saying(503)) as url:
        assert (await ask(url)).reason == "answered 503, wants 2xx"
    async with serving(saying(text="<html>")) as url:
        assert (await ask(url, json="version")).verdict is BAD


async def test_a_layer_that_does_not_say_what_it_has_says_nothing() -> None:
    async with serving(saying(text="v41")) as url:
        result = await ask(url, layer="config")
    said = 'serves "v41"; what config has is not known: config: no such layer'
    assert (result.verdict, result.reason) == (UNKNOWN, said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"serves": "x", "text": True}, "is not a URL that can be asked"),
        ({"serves": "http://x"}, "give one of json: PATH, header: NAME or text: true"),
        ({"serves": "http://x", "text": True, "json": "v"}, "give one of json: PATH"),
        ({"serves": "http://x", "json": "a..b"}, "is not a path in JSON"),
        ({"serves": "http://x", "text": True, "layer": ""}, "layer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        ServesSettings(**({"layer": "code"} | settings))
    assert said in str(error.value)


# -- through the examiner -----------------------------------------------------------------------
class Code:
    """A layer that has a release."""

    traits = Traits()

    async def current(self) -> Release:
        return NOW

    async def releases(self) -> Sequence[Release]:
        return (NOW_NAMED, OLD)


class Process:
    """A layer that has none."""

    traits = Traits(releases=False)


class Factory:
    """Builds layers, and counts how often."""

    def __init__(self) -> None:
        self.built = 0

    def build(self, service: Service) -> Layers:
        self.built += 1
        return Layers(service, {"code": cast("Adapter", Code()), "process": cast("Adapter", Process())})


def service(directory: Path) -> Service:
    return configured(directory).services[0]


async def test_the_examiner_shows_what_a_check_says_without_secrets(tmp_path: Path) -> None:
    async def releases(*_: Any) -> Any:
        raise AdapterError(f"it answered {SECRET}", permanent=False)

    async with aiohttp.ClientSession() as session, serving(saying(text="v1")) as url:
        check_runner = CheckRunner(
            CheckSurroundings(Spawner(secrets=[SECRET]), SystemClock(), lambda: session, None, releases)
        )
        result = await check_runner.ask(service(tmp_path), ServesSettings(serves=url, layer="code", text=True))
    assert result.reason.endswith("what code has is not known: it answered [secret]")


async def test_the_examiner_asks_the_layer_of_the_service(tmp_path: Path) -> None:
    shop, factory = service(tmp_path), Factory()
    releases = _releases({"shop": factory.build(shop)}, cast("LayerFactory", factory))
    async with aiohttp.ClientSession() as session, serving(saying(text="stable")) as url:
        check_runner = CheckRunner(CheckSurroundings(Spawner(), SystemClock(), lambda: session, None, releases))
        right = await check_runner.ask(shop, ServesSettings(serves=url, layer="code", text=True))
        wrong = await check_runner.ask(shop, ServesSettings(serves=url, layer="process", text=True))
        assert factory.built == 1
        older = shop.model_copy(update={"bake": timedelta(minutes=1)})
        under_an_older_configuration = await check_runner.ask(
            older, ServesSettings(serves=url, layer="code", text=True)
        )
        assert factory.built == 2
        without_layers = CheckRunner(CheckSurroundings(Spawner(), SystemClock(), lambda: session, None))
        alone = await without_layers.ask(shop, ServesSettings(serves=url, layer="code", text=True))
    assert (right.verdict, right.reason) == (GOOD, 'serves "stable", as code has')
    assert under_an_older_configuration.verdict is GOOD
    assert (wrong.verdict, alone.verdict) == (UNKNOWN, UNKNOWN)
    assert "shop has no such layer with releases" in wrong.reason
    assert "layers cannot be asked here" in alone.reason


async def test_a_check_remembers_from_one_look_to_the_next(tmp_path: Path) -> None:
    log = tmp_path / "shop.log"
    log.write_text("begin\n")
    shop, check_runner = service(tmp_path), CheckRunner(CheckSurroundings(Spawner(), SystemClock(), lambda: None, None))
    check = LogSettings.model_validate({"log": {"file": log}, "matching": "ERROR"})
    assert (await check_runner.ask(shop, check)).verdict is UNKNOWN
    log.write_text("begin\nERROR\n")
    assert (await check_runner.ask(shop, check)).verdict is BAD


# -- in a configuration -------------------------------------------------------------------------
def configuration(directory: Path, check: str) -> Path:
    path = directory / "config.yaml"
    path.write_text(
        f"""\
daemon: {{mode: act, open_on_loopback: true}}
services:
  - name: shop
    match: {{service: shop}}
    layers:
      code: {{adapter: git, repo: /srv/shop}}
      process: {{adapter: command, apply: [restart], progress: [restarted]}}
    checks:
      version: {check}
    verify: {{checks: [version]}}
"""
    )
    return path


def test_the_layer_it_names_must_be_one_of_the_service_and_have_releases(tmp_path: Path) -> None:
    check = "{serves: http://127.0.0.1:3000/version, json: version, layer: %s}"
    loaded = load(configuration(tmp_path, check % "code"), look_for=None)
    assert loaded.config.services[0].checks["version"] == ServesSettings(
        serves="http://127.0.0.1:3000/version", json_="version", layer="code"
    )
    with pytest.raises(ConfigErrors, match=r'config.yaml:9:\d+: unknown layer "cod"; did you mean "code"\?'):
        load(configuration(tmp_path, check % "cod"), look_for=None)
    with pytest.raises(ConfigErrors, match='layer "process" has no releases to compare with'):
        load(configuration(tmp_path, check % "process"), look_for=None)
