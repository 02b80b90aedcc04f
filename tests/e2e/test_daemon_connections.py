"""The real daemon where it reaches others as a configuration says: by a proxy, with certificates, from replicas."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.authority import Authority
from tests.e2e.toy import Ear, Toy, listening, served, toy
from tests.fakes.proxy import Proxy, proxying
from tests.front import PASSWORD, TOKEN, USER, front
from tests.servers import Exporter, alertmanager, answers, prometheus, wait_until

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture
def ear() -> Iterator[Ear]:
    with listening() as one:
        yield one


def secret(one: Toy, name: str, text: str) -> dict[str, str]:
    path = one.root / name
    path.write_text(text)
    path.chmod(0o600)
    return {"file": str(path)}


def also(one: Toy, **sections: Any) -> None:
    """Put whole sections into the configuration."""
    path = one.root / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}, sort_keys=False))


def test_what_only_a_proxy_reaches_is_told_by_it_and_the_environments_proxy_is_nobodys(
    tmp_path: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names resolve nowhere else; the proxy of the environment would take whatever came."""
    port = int(ear.url.split(":")[2].partition("/")[0])
    hosts = {"bot.example": port, "dead-man.example": port}
    with (
        served(proxying(Proxy(hosts=hosts, password="squid:p4ss-w0rd"))) as proxy,
        served(proxying()) as stray,
        toy(tmp_path / "shop") as one,
    ):
        assert not answers(ear.url)  # from now on the test's own requests go there directly
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, stray.url)
        by_proxy = {"proxy": secret(one, "proxy", proxy.url)}
        path = ear.url.partition(str(port))[2]
        one.configure(
            daemon={"heartbeat": {"url": secret(one, "beat", "http://dead-man.example/hush"), **by_proxy}},
            notify={
                "receivers": [
                    {"name": "room", "webhook": {"url": f"http://bot.example{path}", **by_proxy}},
                    {"name": "near", "webhook": {"url": ear.url}},
                    {"name": "lost", "webhook": {"url": "http://nobody.invalid/hush", "proxy": stray.url}},
                ]
            },
        )
        one.start_with_two_states()
        one.alert()
        ear.until_heard("recovered")
        wait_until(lambda: "GET http://dead-man.example/hush" in proxy.got, "the heartbeat")
        assert f"POST http://bot.example{path}" in proxy.got
        assert {line for line in stray.got if "nobody.invalid" not in line} == set()
        assert stray.got != []
        assert "p4ss-w0rd" not in one.log
        assert "hush" not in one.log


@pytest.mark.needs("nginx", "prometheus", "prometheus-alertmanager")
def test_a_rule_is_asked_of_replicas_behind_doors_and_one_of_them_dies_while_it_is_pending(
    tmp_path: Path, ear: Ear
) -> None:
    """What one replica began to say, the other goes on saying: the rollback comes once, and in its time."""
    with (
        Exporter() as exporter,
        prometheus(tmp_path / "a", targets=[exporter.address]) as a,
        prometheus(tmp_path / "b", targets=[exporter.address]) as b,
        alertmanager(tmp_path / "am") as alerts,
        front(tmp_path / "front", {"/a": a.url, "/b": b.url, "/am": alerts.url}) as doors,
        toy(tmp_path / "shop", ear.url) as one,
    ):
        cert, key = map(str, doors.client)
        tls = {"ca": str(doors.authority.certificate), "cert": cert, "key": key}
        exporter.set("sickness", 0.0, service="shop")
        one.configure(
            rules=[{"name": "sick", "when": {"query": "max by (service) (sickness)", "above": 0.5, "for": "4s"}}],
            prometheus={
                "urls": [f"{doors.urls['all']}/a", f"{doors.urls['all']}/b"],
                "poll_every": "500ms",
                "timeout": "2s",
                "tls": tls,
                "authorization": {"credentials": secret(one, "bearer", TOKEN)},
            },
        )
        basic = {"username": USER, "password": secret(one, "basic", PASSWORD)}
        also(one, alertmanager={"url": f"{doors.urls['basic']}/am", "basic_auth": basic})
        one.start_with_two_states()
        exporter.set("sickness", 0.9, service="shop")

        def verdicts() -> set[str]:
            return {rule["verdict"] for rule in one.ask("GET", "services/shop")["rules"]}

        wait_until(lambda: verdicts() == {"pending"}, "the rule is pending")
        a.process.send_signal(signal.SIGKILL)
        wait_until(lambda: bool(one.incidents()), "the rollback begins")
        exporter.set("sickness", 0.0, service="shop")
        one.until_closed("shop-1")
        assert len(one.incidents()) == 1
        assert "another Prometheus is asked from now on" in one.log
        assert not ear.heard("backend_unreachable")
        assert not [hidden for hidden in (TOKEN, PASSWORD) if hidden in one.log]


def test_a_certificate_that_is_missing_is_told_by_check_at_a_start_and_at_a_reload(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    with toy(tmp_path / "shop") as one:
        one.configure()
        also(one, prometheus={"url": "https://127.0.0.1:1", "tls": {"ca": str(authority.certificate)}})
        one.start()
        authority.certificate.rename(tmp_path / "gone")
        said = f"{authority.certificate} cannot be read: no such file or directory; name a file that is there"
        checked = one.command("check")
        assert (checked.returncode, said in checked.stdout) == (1, True)
        assert one.daemon is not None
        os.kill(one.daemon.pid, signal.SIGHUP)
        wait_until(lambda: said in one.log, "the reload is refused")
        one.ask("GET", "services/shop")
        one.stop()
        ended = subprocess.run(one.argv("run"), capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 1
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
