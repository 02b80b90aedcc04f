"""Alertmanager's webhook bodies, of the length that real ones have. No I/O."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

ALERT = "HighErrorRate"


def service_name(number: int) -> str:
    return f"service-{number:05}"


def alert(number: int, service: int) -> dict[str, Any]:
    """A firing alert; the number makes it another one than all others."""
    name = service_name(service)
    labels = {
        "alertname": ALERT,
        "service": name,
        "env": "prod",
        "severity": "critical",
        "instance": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:8080",
        "job": "kubernetes-pods",
    }
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {
            "summary": f"34.2% of the answers of {name} are errors",
            "runbook_url": f"https://runbooks.example.com/{name}/high-error-rate",
        },
        "startsAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.com/graph?g0.expr=job%3Aerrors%3Aratio5m+%3E+0.1&g0.tab=1",
        "fingerprint": f"{number:016x}",
    }


def ended(one: dict[str, Any]) -> dict[str, Any]:
    """The same alert, once it has ended."""
    return {**one, "status": "resolved", "endsAt": datetime.now(UTC).isoformat()}


def body(alerts: Iterable[dict[str, Any]]) -> bytes:
    """A notification of version 4."""
    whole = {
        "receiver": "rollbackd",
        "status": "firing",
        "alerts": list(alerts),
        "groupLabels": {"alertname": ALERT},
        "commonLabels": {"alertname": ALERT, "env": "prod", "severity": "critical"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.com",
        "version": "4",
        "groupKey": f'{{}}:{{alertname="{ALERT}"}}',
        "truncatedAlerts": 0,
    }
    return json.dumps(whole, separators=(",", ":")).encode()
