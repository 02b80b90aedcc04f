"""What a configuration becomes, and what is said of files that cannot be read."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rollbackd.config.files import matching
from rollbackd.config.load import ConfigErrors, Loaded, digest, dump_service, load, load_service
from rollbackd.config.models import Config, PrometheusSettings, listening
from rollbackd.config.positions import Document
from rollbackd.policy.spec import Limits
from rollbackd.rules.spec import QueryWhen
from tests.unit.stand_ins import STAND_INS, CommandSettings, GitSettings, HttpSettings, QuerySettings, SlackSettings

DAEMON = "daemon: {mode: act, open_on_loopback: true}\n"
SERVICE = """\
services:
  - name: checkout
    match: {service: checkout}
    layers: {code: {adapter: git, repo: /srv/checkout}}
    verify: {checks: [{http: http://127.0.0.1:3000/health}]}
"""


def _load(tmp_path: Path, text: str, **more: Any) -> Loaded:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(path, STAND_INS, **more)


def _refused(path: Path) -> str:
    with pytest.raises(ConfigErrors) as caught:
        load(path, STAND_INS)
    return str(caught.value)


# -- files -------------------------------------------------------------------------------------------
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    assert _refused(path) == f"{path}:1:1: there is no such file; write one from config.example.yaml, or name another"


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    assert _refused(tmp_path) == f"{tmp_path}:1:1: this is a directory; name the file in it"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert _refused(path) == f"{path}:1:1: this is not a regular file; write the configuration into one"


def test_an_empty_file_says_where_to_start(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.touch()
    assert _refused(path) == f"{path}:1:1: the file is empty; start from config.example.yaml"


def test_what_is_not_utf8_is_shown_at_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"daemon: {}\nservices: [caf\xe9]\n")
    assert _refused(path) == f"{path}:2:15: this is not UTF-8; save the file as UTF-8"


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("\ufeff" + DAEMON + SERVICE)
    assert load(path, STAND_INS).config.services[0].name == "checkout"


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(33 * 2**20)
    assert _refused(path) == f"{path}:1:1: it is longer than 32 MiB; a configuration is not"


def test_a_name_that_no_file_can_have_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    assert _refused(path) == f"{path}:1:1: it cannot be read: file name too long; let the daemon's user read it"


# -- values ------------------------------------------------------------------------------------------
def test_defaults_are_filled_in(tmp_path: Path) -> None:
    loaded = _load(tmp_path, DAEMON + SERVICE)
    assert loaded.config.limits == Limits()
    assert loaded.config.services[0].bake == timedelta(minutes=30)
    assert loaded.notes == (
        "nobody is told anything: there are no receivers under `notify`",
        "nothing makes a rollback by itself: there are no rules",
    )


def test_a_share_that_cannot_be_is_noted(tmp_path: Path) -> None:
    rules = "prometheus: {url: 'http://127.0.0.1:9'}\nrules:\n"
    for name, above in (("never", "150%"), ("hardly", "100%"), ("often", "99%"), ("factor", "1.5")):
        rules += f"  - {{name: {name}, when: {{query: 'errors / requests', above: {above}}}}}\n"
    notes = [note for note in _load(tmp_path, DAEMON + rules + SERVICE).notes if "share" in note]
    assert notes == [
        "rule never: `above: 150%` is never met where the query is a share; write 1.5 where it is none",
        "rule hardly: `above: 100%` is never met where the query is a share; write 1 where it is none",
    ]


def test_plugins_settings_have_their_own_types(tmp_path: Path) -> None:
    config = _load(tmp_path, DAEMON + SERVICE).config
    (service,) = config.services
    assert isinstance(service.layers["code"], GitSettings)
    assert isinstance(service.verify.checks[0], HttpSettings)
    assert type(config) is Config


def test_a_receiver_is_known_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "x")
    text = DAEMON + "notify: {receivers: [{name: room, slack: {webhook_url: {env: HOOK}}}]}\n" + SERVICE
    (receiver,) = _load(tmp_path, text).config.notify.receivers
    assert (receiver.name, receiver.kind) == ("room", "slack")
    assert isinstance(receiver.settings, SlackSettings)


def test_without_plans_the_default_has_all_steps_in_order_and_no_data(tmp_path: Path) -> None:
    layers = (
        "{page: {adapter: command, enter: [a]}, config: {adapter: command, apply: [b], current: [v]},"
        " db: {adapter: command, apply: [c], data: true}, code: {adapter: git, repo: /srv/x}}"
    )
    text = DAEMON + SERVICE.replace("{code: {adapter: git, repo: /srv/checkout}}", layers)
    (service,) = _load(tmp_path, text).config.services
    assert service.plans["default"].layers == ("config", "code")
    assert service.plan == ("default",)


def test_what_may_be_one_or_many_may_be_written_as_one(tmp_path: Path) -> None:
    text = DAEMON + "policy: [{when: {service: checkout, priority: P1}, action: observe, plan: default}]\n" + SERVICE
    config = _load(tmp_path, text).config
    assert config.policy[0].when.service == ("checkout",)
    assert config.policy[0].plan == ("default",)
    assert config.services[0].match == ({"service": "checkout"},)


def test_off_switches_the_guard_against_common_causes_off(tmp_path: Path) -> None:
    assert _load(tmp_path, DAEMON + "limits: {common_cause: off}\n" + SERVICE).config.limits.common_cause is False


def test_times_of_day_and_dates_are_text_without_quotes(tmp_path: Path) -> None:
    text = (
        DAEMON
        + "windows: [{from: 08:00, to: 20:00}]\n"
        + SERVICE.replace("{service: checkout}", "{service: checkout, on: 2024-01-31, at: 10:30}")
    )
    config = _load(tmp_path, text).config
    assert (config.windows[0].from_, config.windows[0].to) == ("08:00", "20:00")
    assert config.services[0].match == ({"service": "checkout", "on": "2024-01-31", "at": "10:30"},)


def test_a_mapping_can_take_in_another(tmp_path: Path) -> None:
    text = DAEMON + SERVICE.replace(
        "    verify:",
        "    checks:\n      a: &base {http: http://x/, below: 1s}\n      b: {<<: *base, below: 2s}\n    verify:",
    )
    checks = _load(tmp_path, text).config.services[0].checks
    first, second = checks["a"], checks["b"]
    assert isinstance(first, HttpSettings)
    assert isinstance(second, HttpSettings)
    assert (second.http, first.below, second.below) == ("http://x/", timedelta(seconds=1), timedelta(seconds=2))


def test_a_service_may_have_its_own_mode(tmp_path: Path) -> None:
    text = "daemon: {open_on_loopback: true}\n" + SERVICE + "    mode: shadow\n"
    config = _load(tmp_path, text).config
    assert config.mode(config.services[0]) == "shadow"
    assert config.service("checkout") is config.services[0]
    assert config.service("basket") is None


def test_a_mode_that_is_nowhere_cannot_be_asked_for(tmp_path: Path) -> None:
    config = _load(tmp_path, DAEMON + SERVICE).config
    without = config.model_copy(update={"daemon": config.daemon.model_copy(update={"mode": None})})
    with pytest.raises(ValueError, match="checkout: no mode"):
        without.mode(config.services[0])


def test_a_check_with_a_key_named_like_another_kind_is_what_knows_both(tmp_path: Path) -> None:
    text = (
        DAEMON
        + "prometheus: {url: http://127.0.0.1:9090}\n"
        + SERVICE.replace("{http: http://127.0.0.1:3000/health}", "{http: https, query: up, below: 1}")
    )
    (check,) = _load(tmp_path, text).config.services[0].verify.checks
    assert isinstance(check, QuerySettings)


def test_layers_may_share_a_resource_that_they_name(tmp_path: Path) -> None:
    """What they must not share is what an adapter finds out: the same repository."""
    text = (
        DAEMON
        + SERVICE.replace("name: checkout", "name: a")
        + SERVICE.replace("services:\n", "").replace("service: checkout", "service: b")
    )
    with pytest.raises(ConfigErrors, match='layer "a/code" has /srv/checkout already'):
        _load(tmp_path, text)


def test_matches_of_different_size_do_not_tie(tmp_path: Path) -> None:
    other = (
        SERVICE.replace("services:\n", "").replace("name: checkout", "name: canary").replace("/srv/checkout", "/srv/c")
    )
    text = DAEMON + SERVICE + other.replace("{service: checkout}", "{service: checkout, track: canary}")
    assert len(_load(tmp_path, text).config.services) == 2


def test_different_values_of_a_shared_label_do_not_tie(tmp_path: Path) -> None:
    other = (
        SERVICE.replace("services:\n", "").replace("name: checkout", "name: canary").replace("/srv/checkout", "/srv/c")
    )
    text = DAEMON + SERVICE.replace("{service: checkout}", "{service: checkout, env: prod}")
    text += other.replace("{service: checkout}", "{service: canary, track: prod}")
    assert len(_load(tmp_path, text).config.services) == 2


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9099", "127.0.0.1", 9099),
        ("[::1]:0", "::1", 0),
        ("localhost:1", "localhost", 1),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert listening(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":9099", "9099", "::1:9099", "host:", "host:x", "host:65536", "host:९", "[]:1"])
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        listening(text)


@pytest.mark.parametrize(
    "url", ["", "prometheus:9090", "ftp://x/", "http://", "http://[::1", "http://h:99999", "http://a b/"]
)
def test_an_address_of_prometheus_is_a_url(url: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a URL; write it like http://127\.0\.0\.1:9090"):
        PrometheusSettings.model_validate({"url": url})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9090", "https://prometheus.example/base/", "http://[::1]:9090"])
def test_these_are_urls(url: str) -> None:
    assert PrometheusSettings(url=url).url == url


# -- several files -----------------------------------------------------------------------------------
def test_rules_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "rules.d").mkdir()
    for name in ("b", "a"):
        (tmp_path / f"rules.d/{name}.yaml").write_text(
            "settings: {limit: 5, word: up}\n"
            f"rules: [{{name: {name}, when: {{query: 'x{{a=~\"b.*$\"}} > $limit $word', below: $limit}}}}]\n"
        )
    text = (
        DAEMON
        + "prometheus: {url: http://127.0.0.1:9090}\n"
        + "rules: [{name: z, when: {alert: a=b}}, rules.d/*.yaml, {pack: smoke, as: my, failures: 5}]\n"
        + SERVICE
        + "    checks: {smoke: {command: [/opt/test]}}\n"
    )
    loaded = _load(tmp_path, text)
    assert [rule.name for rule in loaded.config.rules] == ["z", "a", "b", "my-smoke-failed"]
    when = loaded.config.rules[1].when
    assert isinstance(when, QueryWhen)
    assert (when.query, when.below) == ('x{a=~"b.*$"} > 5 up', 5.0)
    assert [path.name for path in loaded.files] == ["config.yaml", "a.yaml", "b.yaml", "smoke.yaml"]


def test_the_hash_covers_every_file(tmp_path: Path) -> None:
    text = DAEMON + "rules: [more.yaml]\n" + SERVICE
    (tmp_path / "more.yaml").write_text("rules: [{name: a, when: {alert: a=b}}]\n")
    before = _load(tmp_path, text).text_hash
    assert _load(tmp_path, text).text_hash == before
    (tmp_path / "more.yaml").write_text("rules: [{name: a, when: {alert: a=c}}]\n")
    assert _load(tmp_path, text).text_hash != before


def test_a_pattern_may_be_absolute(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    assert matching(f"{tmp_path}/*.yaml", Path("/nonexistent")) == [tmp_path / "a.yaml"]


# -- secrets -----------------------------------------------------------------------------------------
def test_secrets_are_looked_for_or_left_alone(tmp_path: Path) -> None:
    text = DAEMON + SERVICE.replace("/srv/checkout}", "/srv/checkout, token: {env: ROLLBACKD_TEST_NOT_SET}}")
    found: list[str] = []
    _load(tmp_path, text, look_for=lambda secret: found.append(secret.env))
    assert found == ["ROLLBACKD_TEST_NOT_SET"]
    settings = _load(tmp_path, text, look_for=None).config.services[0].layers["code"]
    assert isinstance(settings, GitSettings)
    assert settings.token is not None


# -- the journal -------------------------------------------------------------------------------------
def test_a_service_survives_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "the secret itself")
    text = (
        DAEMON
        + "prometheus: {url: http://127.0.0.1:9090}\n"
        + """\
services:
  - name: checkout
    match: [{service: checkout}, {job: checkout, env: prod}]
    priority: P0
    layers:
      page: {adapter: command, enter: [/opt/page], leave: acknowledged}
      code: {adapter: git, repo: /srv/checkout, then: [[npm, ci]], token: {env: TOKEN}, done_when: health}
      queue: {adapter: command, apply: [/opt/q], current: [/opt/v], environment: {A: b, C: {env: TOKEN}}}
    plans:
      default: {within: [page], steps: [code, {queue: v1}], irreversible: [queue]}
      quick: {steps: [code], verify: {deadline: 20m, checks: [{query: up, below: 1%, http: x}, health]}}
    plan: [quick, default]
    bake: 90s
    checks: {health: {http: http://x/, below: 250ms, warn: true}, run: {command: [/opt/test]}}
    verify: {gate: [health], settle: 0s, checks: [run, {http: http://y/}]}
"""
    )
    (service,) = _load(tmp_path, text).config.services
    body = json.dumps(dump_service(service))
    assert "the secret itself" not in body
    again = load_service(json.loads(body), STAND_INS)
    assert again == service
    assert isinstance(again.layers["queue"], CommandSettings)
    assert dump_service(again) == json.loads(body)


# -- YAML --------------------------------------------------------------------------------------------
Text = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=6)
Plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | Text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Text, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(Text, Plain, min_size=1, max_size=4))
def test_json_is_read_as_what_it_says(data: dict[str, Any]) -> None:
    document = Document(json.dumps(data), "f")
    assert document.faults == []
    assert document.data == data


@given(st.text(max_size=40))
def test_no_text_makes_it_stumble(text: str) -> None:
    document = Document(text, "f")
    assert (document.root is not None) or document.faults


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("10", 10),
        ("-3", -3),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("9e999", "9e999"),
        ("9" * 30, "9" * 30),
        ("yes", True),
        ("Off", False),
        ("y", "y"),
        ("~", None),
        ("20:00", "20:00"),
        ("1:30:00", "1:30:00"),
        ("2024-01-31", "2024-01-31"),
        ('"yes"', "yes"),
        ("!!str 10", "10"),
        ("=", "="),
    ],
)
def test_a_scalar_means_this(written: str, read: object) -> None:
    document = Document(f"key: {written}\n", "f")
    assert document.faults == []
    assert document.data == {"key": read}
    assert type(document.data["key"]) is type(read)


def test_what_only_the_fast_parser_refuses_is_a_fault_too() -> None:
    document = Document('a: "\\ud800"', "f")
    (fault,) = document.faults
    assert str(fault) == (
        "f:1:7: this is not YAML: found invalid Unicode character escape code while parsing a quoted scalar; "
        "check the indentation and the quotes up to here"
    )


def test_deep_nesting_neither_kills_nor_confuses_it() -> None:
    document = Document("a: " + "[" * 100_000, "f")
    assert [str(fault) for fault in document.faults] == ["f:1:64: nested deeper than 60 levels; make it flatter"]


# -- what hosts have in common -----------------------------------------------------------------------
def test_hosts_of_one_configuration_have_the_same_digest_whatever_is_their_own(tmp_path: Path) -> None:
    def of(daemon: str, rest: str = SERVICE) -> str:
        return digest(
            _load(tmp_path, f"daemon: {{mode: act, open_on_loopback: true, name: desk, {daemon}}}\n{rest}").config
        )

    one = of("host: ops-1, listen: 127.0.0.1:9099")
    assert of("host: ops-2, listen: 127.0.0.1:9100, socket: /run/other.sock") == one
    assert of("host: ops-1", f"limits: {{cooldown: 10m}}\n{SERVICE}") == one, "a default that is written out"
    assert of("host: ops-1", SERVICE.replace("/srv/checkout", "/srv/other")) != one
    assert of("host: ops-1", f"limits: {{cooldown: 11m}}\n{SERVICE}") != one
