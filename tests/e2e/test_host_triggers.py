"""Each rule of the shipped hosts is met once, by what it is about, on the real component; nothing goes back meanwhile."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from examples.demo.world import Traffic
from tests.dockerd import PROGRAMS, Dockerd
from tests.e2e.everybody import reachable
from tests.e2e.ops_host import Host, Units, body, ending
from tests.e2e.telling import told
from tests.e2e.test_ops_host import Career, smartalk
from tests.e2e.test_platform import platform
from tests.e2e.toy import Ear, listening, webhook
from tests.e2e.workstation import workstation
from tests.servers import free_port, prometheus, wait_until

TOGETHER = 2
pytestmark = [pytest.mark.timeout(240)]


def watched(config: dict[str, Any]) -> None:
    """Seconds for minutes, and what would go back is only said."""
    config["daemon"] |= {"mode": "shadow", "look_every": "500ms"}
    if "prometheus" in config:
        config["prometheus"]["poll_every"] = "500ms"
    for rule in config["rules"]:
        when = rule["when"]
        if "query" in when:
            when["query"] = re.sub(r"\[\w+\]", "[4s]", when["query"])
            when["for"] = "1s"
        if "check" in when:
            when["every"] = "500ms"


def met(host: Host) -> set[str]:
    """The rules that were decided on so far."""
    return {one["rule"] for one in host.decisions()}


def until_met(host: Host, *rules: str, by: Callable[[], object] = lambda: None) -> None:
    """Wait until rules are, while something is done again and again."""

    def all_are() -> bool:
        by()
        return set(rules) <= met(host)

    wait_until(all_are, f"{', '.join(rules)}", 60)


# -- career-hero --------------------------------------------------------------------------------------
@contextmanager
def career(root: Path, ear: Ear) -> Iterator[Career]:
    host = Career(root, told=ear.url, example="career-hero")
    host.prepare()
    port = free_port()
    with prometheus(root / "prometheus", targets=[f"127.0.0.1:{port}"], labels={"service": "career-hero"}) as metrics:
        host.lay_out(port, metrics.url)
        host.restart()
        units = Units(root / "units", {"career-hero": host.restart})
        config = host.loaded()
        config["services"][0]["layers"]["process"] = units.layer("career-hero")
        watched(config)
        host.secret("ci")
        host.write(config)
        visitors = Traffic(host.url.replace("/health", "/advice"), visitors=2)
        visitors.start()
        try:
            with ending(host, units):
                host.start()
                yield host
        finally:
            visitors.stop()


def released(host: Career, tag: str, **changes: Any) -> None:
    """CI deploys a back end."""
    path = host.backend / "release.json"
    good = {"release": "v1", "contract": 3, "digest": "sha256", "matches": ["engineer", "gardener"]}
    path.write_text(json.dumps({**good, "release": tag, **changes}))
    host.commit(host.backend, tag)
    host.restart()


@pytest.mark.needs("git", "prometheus")
@told
def test_each_trigger_of_career_hero(root: Path) -> None:
    """D1, D8: what visitors, CI and people run into, one after the other."""
    with listening() as ear, career(root, ear) as host:
        wait_until(lambda: len(host.present("career-hero")) == 4, "its layers are seen")
        host.said("good", "career-hero")
        host.e2e_fails("night")
        host.said("event", "data_deleted", "--service", "career-hero")
        until_met(host, "e2e-failing", "data-deleted")
        host.publish("20240502", 4)
        until_met(host, "contract-broken")
        stranger = host.url.replace("/health", "/session")
        until_met(host, "refused", by=lambda: [body(stranger) for _ in range(20)])
        released(host, "v2", refresh="broken")
        until_met(host, "refresh-failing")
        released(host, "v3", pause=3)
        until_met(host, "retrieval-slow")
        released(host, "v4", matches=[])
        until_met(host, "server-errors", "main-flow-gone", "retrieval-failing")
        assert met(host) == {rule["name"] for rule in host.loaded()["rules"]}
        assert host.incidents() == []


@pytest.mark.needs("git")
@told
def test_what_career_hero_switches_off_is_off(root: Path) -> None:
    """D4, D7, D11, D12: sessions, the knowledge base, who may write to it, and how often."""
    host = Career(root, example="career-hero")
    host.root.mkdir(exist_ok=True)
    host.lay_out(free_port())
    host.restart()
    base = host.url.removesuffix("/health")
    guest = {"Authorization": "Bearer guest"}
    try:
        assert body(f"{base}/session", **guest)[0] == 401
        assert set(json.loads(body(f"{base}/kb")[1])["documents"]) == {"engineer"}
        host.index("2024-04", '{"gardener": []}')
        for old, new, auth in (("session", "hybrid", 200), ("hybrid", "legacy", 200)):
            host.switch(f"AUTH_MODE={old}", f"AUTH_MODE={new}")
            assert body(f"{base}/session", **guest)[0] == auth
        host.switch("KB_INDEX_VERSION=2024-05", "KB_INDEX_VERSION=2024-04")
        assert set(json.loads(body(f"{base}/kb")[1])["documents"]) == {"gardener"}
        host.switch("RATE_LIMIT=120", "RATE_LIMIT=1")
        assert [host.writes(base), host.writes(base)] == [200, 429]
        host.switch("KB_WRITE_MODE=open", "KB_WRITE_MODE=readonly")
        assert host.writes(base) == 403
        host.switch("KB_ENABLED=true", "KB_ENABLED=false")
        assert json.loads(body(f"{base}/kb")[1]) == {"documents": {}, "notes": [], "degraded": True}
        said = json.loads(body(host.url)[1])
        assert (said["auth"], said["kb"], said["writes"], said["retrieval"]) == ("legacy", "off", "readonly", "2024-05")
    finally:
        host.kill()


# -- smartalk -----------------------------------------------------------------------------------------
def yesterday(name: str, each: float) -> str:
    """An hour of a counter, a day ago, that rose so much a second."""
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    lines = [
        f'{name}_total{{service="smartalk"}} {each * number} {(now + timedelta(seconds=number)).timestamp()}'
        for number in range(-1800, 1800)
    ]
    return "\n".join([f"# TYPE {name} counter", *lines]) + "\n"


@pytest.mark.needs("git", "nginx", "redis-server", "prometheus")
@told
def test_each_trigger_of_smartalk(root: Path) -> None:
    """C1: a business figure against its own past, errors, the key function, data security, complaints."""
    with listening() as ear, smartalk(root, ear, watched, yesterday("activations", 1000)) as host:
        wait_until(lambda: set(host.present("smartalk")) == {"config", "code", "db"}, "its layers are seen")
        until_met(host, "activation-drop")
        host.ask("POST", "signals", {"event": "data_security", "service": "smartalk"}, token="the token support")
        for n in range(10):
            assert "complaints" not in met(host), "nine are none"
            complaint = {"event": "complaint", "service": "smartalk", "key": f"ticket-{n}"}
            host.ask("POST", "signals", complaint, token="the token support")
        until_met(host, "data-security", "complaints")
        host.settings.write_text(host.settings.read_text().replace("friendly", "whimsical"))
        host.restart()
        until_met(host, "errors", "key-function-gone")
        assert met(host) == {rule["name"] for rule in host.loaded()["rules"]}
        assert host.incidents() == []


# -- layered-recovery -----------------------------------------------------------------------------------
@pytest.mark.needs("git")
@told
def test_each_trigger_of_layered_recovery(root: Path) -> None:
    """A1, A7, A8: what alerts say, a change that its own check does not take, and one that nobody confirms."""
    with reachable() as people, platform(root, people, watched) as host:
        host.trouble("config", "high")
        host.trouble("api,config", "critical")
        alert = webhook("DataAtRisk", "platform", datetime.now(UTC))
        host.ask("POST", "alerts", alert, token="the token alertmanager")
        until_met(host, "platform-trouble", "platform-critical", "data-at-risk")
        (host.place / ".limits/api/max").write_text("0\n")
        host.restart()
        until_met(host, "api-failing")
        assert met(host) == {rule["name"] for rule in host.loaded()["rules"]}
        assert host.incidents() == []


# -- ai-workstation -------------------------------------------------------------------------------------
@pytest.mark.needs(*PROGRAMS, "git", "prometheus", "rsync")
def test_each_trigger_of_the_workstation(tmp_path_factory: pytest.TempPathFactory, docker: Dockerd) -> None:
    """E1: what CI reports, corrupted data, sessions that do not start, a configuration that cannot be read."""

    def shadowed(config: dict[str, Any], units: Units) -> None:
        watched(config)
        config["services"][0]["layers"]["process"] = units.layer("workstation")

    root = tmp_path_factory.mktemp("w")
    with listening() as ear, workstation(root, docker, ear.url, shadowed) as host:
        host.said("event", "e2e_failed", "--service", "workstation", "--key", "run/1")
        alert = webhook("DataCorruption", "workstation", datetime.now(UTC))
        alert["alerts"][0]["labels"]["severity"] = "critical"
        host.ask("POST", "alerts", alert, token="the token alertmanager")
        until_met(host, "e2e-failed", "data-corruption")
        host.settings.write_text(json.dumps({"language": "en", "start": ["false"]}))
        until_met(host, "errors", by=host.begin)
        host.sick()
        until_met(host, "smoke-failed")
        assert met(host) == {rule["name"] for rule in host.loaded()["rules"]}
        assert host.incidents() == []
