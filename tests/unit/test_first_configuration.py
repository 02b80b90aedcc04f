"""`rollbackd init` in a directory that stands for a host: what it finds, asks, writes and prints."""

import io
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd.cli import init_command, local_commands
from rollbackd.cli.command_frame import Session, StopError, UsageError
from rollbackd.config.load import load
from rollbackd.setup import found
from rollbackd.setup.first_config import FirstAnswers, FirstService, alertmanager_part, prometheus_part, text_of
from rollbackd.setup.steps import TargetHost
from tests.unit.test_setup_host import Image, image

__all__ = ["image"]

pytestmark = pytest.mark.needs("root", "systemd-sysusers", "systemd-tmpfiles")

CONFIG = "etc/rollbackd/config.yaml"
HELLO = {"service": "hello", "repo": Path("/srv/hello"), "health": "http://127.0.0.1:8000/"}


@pytest.fixture
def host(image: Image, monkeypatch: pytest.MonkeyPatch) -> Image:
    """With the service installed, two repositories, and a unit of one of them; nothing listens where others would."""
    image.install()
    for name in ("hello", "web/My Shop"):
        (image.root / "srv" / name / ".git").mkdir(parents=True)
    image.write("etc/systemd/system/hello.service", "[Service]\nExecStart=/usr/bin/python3 /srv/hello/hello.py\n")
    image.write("etc/systemd/system/other.service", "[Service]\nWorkingDirectory=/srv/hello-again\n")
    for name in ("PROMETHEUS", "ALERTMANAGER"):
        monkeypatch.setattr(found, name, "http://127.0.0.1:1")
    return image


def init(host: Image, **given: Any) -> str:
    given = {"yes": True, **given}
    assert init_command.init(Session(config=Path("/etc/rollbackd/config.yaml")), root=host.root, **given) is None
    return host.said()


def test_what_it_writes_is_accepted_and_its_secrets_are_roots_alone(host: Image) -> None:
    said = init(host, **HELLO, mode="act")
    written = host.root / CONFIG
    config = load(written, look_for=None).config
    (service,) = config.services
    assert (service.name, service.match[0], config.mode(service)) == ("hello", {"service": "hello"}, "act")
    assert {name: layer.adapter for name, layer in service.layers.items()} == {"code": "git", "process": "systemd"}
    assert stat.S_IMODE(written.stat().st_mode) == 0o640
    assert written.stat().st_gid == TargetHost(host.root).group("rollbackd")
    for name in ("alertmanager-token", "metrics-token"):
        shown, given = (host.root / f"etc/rollbackd/{place}{name}" for place in ("", "credentials/"))
        assert shown.read_text() == given.read_text()
        assert len(shown.read_text()) > 40
        assert {stat.S_IMODE(path.stat().st_mode) for path in (shown, given)} == {0o600}
        assert shown.read_text() not in said
        assert f"LoadCredential={name}:/etc/rollbackd/credentials/{name}" in host.text(
            "etc/systemd/system/rollbackd.service.d/10-configuration.conf"
        )
    assert "ReadWritePaths=/srv/hello" in host.text("etc/systemd/system/rollbackd.service.d/10-configuration.conf")
    assert '"hello.service"' in host.text("etc/polkit-1/rules.d/50-rollbackd.rules")
    assert local_commands.check(Session(), written, without_secrets=True) is None
    assert "nothing is left to do" in host.install()


def test_what_is_there_stays_and_with_force_it_is_kept_beside(host: Image) -> None:
    init(host, **HELLO)
    before, token = host.text(CONFIG), host.text("etc/rollbackd/alertmanager-token")
    said = init(host, **HELLO, mode="act")
    assert "config.yaml is there already, and stays" in said
    assert host.text(CONFIG) == before
    init(host, **HELLO, mode="act", force=True)
    assert "  mode: act" in host.text(CONFIG)
    assert host.text(f"{CONFIG}.old") == before
    assert host.text("etc/rollbackd/alertmanager-token") == token, "Alertmanager has it already"


def test_before_the_service_is_installed_nothing_is_written(image: Image) -> None:
    with pytest.raises(StopError, match="has no group rollbackd; rollbackd install --root makes it"):
        init(image, **HELLO)
    assert not (image.root / CONFIG).exists()


def test_repositories_and_the_units_that_run_them_are_found(host: Image) -> None:
    assert [(str(one.path), one.name, one.units) for one in found.repositories(TargetHost(host.root))] == [
        ("/srv/hello", "hello", ("hello.service",)),
        ("/srv/web/My Shop", "my-shop", ()),
    ]
    said = init(host)
    assert "/srv/web/My Shop is left out: nothing says how it is known to be well" in said
    (service,) = load(host.root / CONFIG, look_for=None).config.services
    assert service.name == "hello"
    assert "is-active" in host.text(CONFIG)


def test_on_a_terminal_it_asks_and_enter_takes_what_it_found(host: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["", "http://127.0.0.1:8000/", "app=hello, env=prod", "-", "", "http://127.0.0.1:1/", "", "act", "y"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))
    for module in ("init_command", "command_frame"):
        monkeypatch.setattr(f"rollbackd.cli.{module}.is_asked", lambda *, yes: not yes)
    said = init(host, yes=False)
    assert "/srv/hello, run by hello.service: the service's name, or - to leave it out [hello] " in said
    assert "Do this? [y/N]" in said
    config = load(host.root / CONFIG, look_for=None).config
    (service,) = config.services
    assert service.match[0] == {"app": "hello", "env": "prod"}
    assert config.alertmanager is not None
    assert str(config.alertmanager.url) == "http://127.0.0.1:1/"
    assert config.prometheus is None


def test_a_secret_for_slack_is_taken_from_its_file(host: Image, tmp_path: Path) -> None:
    file = tmp_path / "webhook"
    file.write_text("https://hooks.slack.example/T0/B0/xyz\n")
    said = init(host, **HELLO, slack_webhook=file)
    assert "xyz" not in said + host.text(CONFIG)
    assert host.text("etc/rollbackd/credentials/slack-webhook") == file.read_text()
    (receiver,) = load(host.root / CONFIG, look_for=None).config.notify.receivers
    assert receiver.kind == "slack"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"service": "hello"}, UsageError, "name the work tree of its code, too: --repo DIR"),
        ({"health": "http://127.0.0.1:8000/"}, UsageError, "name it by --service and --repo"),
        ({"service": "x", "repo": Path("/srv/x")}, UsageError, "there is no service to watch"),
        ({**HELLO, "mode": "dry"}, StopError, ": mode: dry"),
        ({**HELLO, "alerts": "severity"}, StopError, ": when: {alert: severity}"),
        ({**HELLO, "match": "service"}, UsageError, "--match: "),
        ({**HELLO, "slack_webhook": Path("/nowhere")}, UsageError, "/nowhere: no such file"),
    ],
)
def test_what_makes_no_configuration_is_told_before_anything_is_written(
    host: Image, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = host.files()
    with pytest.raises(error) as caught:
        init(host, **given)
    assert said in str(caught.value)
    assert host.files() == before


WORDS = st.text(st.sampled_from("ab1 .:-#'\"{}[],&*!|>%@`~é\u2028\U0001f600\\"), min_size=1, max_size=20)


@settings(max_examples=20)
@given(
    st.lists(WORDS, min_size=4, max_size=4),
    st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), WORDS, min_size=1, max_size=3),
)
def test_whatever_is_answered_stays_text(words: list[str], match: dict[str, str]) -> None:
    name, health, alerts, prometheus = words
    service = FirstService(name, match, Path(f"/srv/{name.replace('/', '')}"), ("a.service",), health)
    answers = FirstAnswers([service], alerts=alerts, prometheus=prometheus, pack=True, slack=True)
    read = yaml.safe_load(text_of(answers))
    assert read["prometheus"] == {"url": prometheus}
    assert read["rules"][0]["when"] == {"alert": alerts}
    (back,) = read["services"]
    assert (back["name"], back["match"]) == (name, match)
    assert back["layers"]["code"]["repo"] == str(service.repo)
    assert back["checks"]["health"]["http"] == health
    routes = yaml.safe_load(alertmanager_part(answers, 9099))["route"]["routes"]
    assert routes[0]["matchers"] == [alerts]


@pytest.mark.needs("amtool", "promtool")
def test_the_parts_for_others_are_understood_by_their_own_tools(tmp_path: Path) -> None:
    answers = FirstAnswers([FirstService("hello", {"service": "hello", "env": "prod"}, Path("/srv/hello"))])
    alerts = yaml.safe_load(alertmanager_part(answers, 9099))
    alerts["route"]["receiver"] = "rollbackd"  # their own goes on
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(alerts))
    (tmp_path / "prometheus.yml").write_text(prometheus_part(9099))
    for argv in (
        ["amtool", "check-config", "alertmanager.yml"],
        ["promtool", "check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
