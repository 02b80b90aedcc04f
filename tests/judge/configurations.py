"""The configurations that are judged: shipped rules, with nothing set but names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.judge.incident import Incident
from tests.judge.stage import AlertingFile

_PACK = Path(__file__).parents[2] / "rules" / "http.yaml"
_NAMES = {"version_label": "version"}
"""Settings that name a label; a pack that has one is told it."""


def _pack() -> dict[str, Any]:
    known = yaml.safe_load(_PACK.read_text())["settings"]
    return {"pack": "http", **{name: text for name, text in _NAMES.items() if name in known}}


RATIO = (
    'sum by (service) (rate(http_requests_total{code=~"5.."}[5m])) / sum by (service) (rate(http_requests_total[5m]))'
)
P95 = "histogram_quantile(0.95, sum by (service, le) (rate(http_request_duration_seconds_bucket[5m])))"
_CRITICAL = {"severity": "critical"}
ALERTS = (
    AlertingFile("HighErrorRate", f"{RATIO} > 0.05", 300.0, _CRITICAL),
    AlertingFile("SlowAnswers", f"{P95} > 2", 300.0, _CRITICAL),
    AlertingFile("InstancesDown", "avg by (service) (up) < 0.5", 120.0, _CRITICAL),
)
"""As they stand in many a rule file."""


def _asked(rule: AlertingFile) -> dict[str, Any]:
    """Our rule for the alert, which says how long that waits, as docs/rules.md has it."""
    return {"name": rule.name.lower(), "when": {"alert": f'alertname="{rule.name}"', "for": f"{rule.waits:.0f}s"}}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the daemon judges by."""

    name: str
    rules: tuple[Mapping[str, Any], ...]
    alerts: tuple[AlertingFile, ...] = ()

    def parts(self, incident: Incident) -> str:
        """Parts of the configuration, as JSON."""
        own = {host.name: {"verify": {"checks": ["health"]}} for host in incident.hosts}
        return json.dumps({"prometheus": {"url": "http://127.0.0.1:9090"}, "rules": self.rules, **own})


CONFIGURATIONS = (
    Configuration("pack http", (_pack(),)),
    Configuration("alert rules", tuple(map(_asked, ALERTS)), ALERTS),
)
