"""The first configuration as text with comments, and what goes into the files of Alertmanager and Prometheus. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ALERTMANAGER_TOKEN, METRICS_TOKEN, SLACK = "alertmanager-token", "metrics-token", "slack-webhook"  # names
"""Names of credentials."""
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:@-]*")
ALERTS = 'severity="critical"'
"""The alerts that roll back, unless somebody says otherwise."""


@dataclass(frozen=True, slots=True)
class FirstService:
    """What is known of a service at the beginning."""

    name: str
    match: Mapping[str, str]
    repo: Path
    units: Sequence[str] = ()
    health: str = ""
    """A URL that answers 200 while it is well; empty: its units are asked."""


@dataclass(frozen=True, slots=True)
class FirstAnswers:
    """What was found, asked or given."""

    services: Sequence[FirstService]
    mode: str = "shadow"
    prometheus: str = ""
    alertmanager: str = ""
    alerts: str = ALERTS
    pack: bool = False
    """Whether Prometheus has what the pack `http` asks for."""
    slack: bool = False

    @property
    def labels(self) -> list[str]:
        """The names of all labels that place alerts and series at services."""
        return sorted({label for service in self.services for label in service.match})


def text_of(answers: FirstAnswers) -> str:
    """`config.yaml`."""
    return "\n".join(_lines(answers)) + "\n"


def alertmanager_part(answers: FirstAnswers, port: int) -> str:
    """What `alertmanager.yml` needs: a receiver, and a route to it that leaves all others as they are."""
    return f"""\
route:
  routes:                             # above the others; `continue` lets people hear as before
    - receiver: rollbackd
      matchers: [{_flow(answers.alerts)}]
      group_by: [{", ".join(["alertname", *answers.labels])}]
      group_wait: 0s
      group_interval: 30s
      continue: true
receivers:
  - name: rollbackd
    webhook_configs:
      - url: http://127.0.0.1:{port}/api/v1/alerts
        send_resolved: true
        http_config:
          authorization: {{credentials_file: /etc/prometheus/rollbackd-{ALERTMANAGER_TOKEN}}}
"""


def prometheus_part(port: int) -> str:
    """What `prometheus.yml` needs to see how rollbackd itself does."""
    return f"""\
scrape_configs:
  - job_name: rollbackd
    authorization: {{credentials_file: /etc/prometheus/rollbackd-{METRICS_TOKEN}}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def _lines(answers: FirstAnswers) -> Iterator[str]:
    yield """\
# rollbackd's configuration, begun by `rollbackd init`. Every key: config.example.yaml, docs/configuration.md
# After each change: rollbackd check --without-secrets && rollbackd install && systemctl reload rollbackd

daemon:
  # shadow: it decides, records, tells, and touches nothing. Read `rollbackd decisions` for a week, then write: act"""
    yield f"  mode: {answers.mode}"
    yield f"""\
  # Who may post and read over HTTP. The secrets are in /etc/rollbackd/credentials; systemd gives them to the service.
  tokens:
    - {{name: alertmanager, role: source, token: {{credential: {ALERTMANAGER_TOKEN}}}}}
    - {{name: prometheus, role: viewer, token: {{credential: {METRICS_TOKEN}}}}}
"""
    if answers.prometheus:
        yield f"# What rules and checks ask.\nprometheus: {{url: {_flow(answers.prometheus)}}}"
    if answers.alertmanager:
        yield "# What fires at a start, which alerts have ended; its silences hold rollbacks."
        yield f"alertmanager: {{url: {_flow(answers.alertmanager)}}}"
    yield from _rules(answers)
    yield from _notify(answers)
    yield "\nservices:"
    for service in answers.services:
        yield from _service(service)


def _rules(answers: FirstAnswers) -> Iterator[str]:
    yield "\nrules:\n  # Alerts like these, of a service by its `match`, that fire after a change of it."
    yield f"  - name: alerts\n    when: {{alert: {_flow(answers.alerts)}}}\n    priority: P1"
    if answers.pack:
        service = ", ".join(answers.labels)
        yield "  # Errors, latency and availability, as Prometheus sees them: rules/http.yaml says which metrics."
        yield f"  - {{pack: http, service: {_flow(service)}}}"


def _notify(answers: FirstAnswers) -> Iterator[str]:
    if answers.slack:
        yield f"""
# Whom it tells: email, PagerDuty, webhooks and others, routes and escalation are in docs/configuration.md.
notify:
  receivers:
    - {{name: room, slack: {{webhook_url: {{credential: {SLACK}}}}}}}"""
    else:
        yield """
# Nobody is told anything yet: Slack, email, PagerDuty, webhooks and others are in docs/configuration.md.
notify: {receivers: []}"""


def _service(service: FirstService) -> Iterator[str]:
    match = ", ".join(f"{name}: {_flow(value)}" for name, value in service.match.items())
    yield f"""\
  - name: {_flow(service.name)}
    # The labels that its alerts and series have.
    match: {{{match}}}
    # What goes back, in this order.
    layers:
      code: {{adapter: git, repo: {_flow(str(service.repo))}}}"""
    if service.units:
        yield f"      process: {{adapter: systemd, units: [{', '.join(map(_flow, service.units))}]}}"
    yield f"""\
    # So long without trouble makes a release one that can be gone back to.
    bake: 30m
    # How it is known to be well after a rollback: passes in a row, within the deadline.
    checks:
      health: {_check(service)}
    verify: {{every: 10s, passes: 3, deadline: 10m, checks: [health]}}"""


def _check(service: FirstService) -> str:
    if service.health:
        return f"{{http: {_flow(service.health)}, below: 1s}}"
    return f"{{command: [systemctl, is-active, --quiet, {', '.join(map(_flow, service.units))}]}}"


def _flow(text: str) -> str:
    """A text as YAML takes it inside brackets: plain where that means the same, else quoted."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return str(yaml.safe_dump(text, default_style='"', width=10_000)).rstrip("\n")
