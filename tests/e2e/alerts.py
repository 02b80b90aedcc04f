"""What the stories say to rollbackd and to Alertmanager: rules, limits, alerts, notifications."""

import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.shop import Shop
from tests.e2e.town import send
from tests.servers import wait_until

ALERT: Mapping[str, Any] = {"name": "shop-alert", "when": {"alert": 'alertname="ShopErrors"'}}


def query_rule(window: str = "3s", lasting: str = "1s") -> dict[str, Any]:
    """More than 10 % of the answers are errors."""
    total = f"sum by (service) (rate(http_requests_total[{window}]))"
    errors = f'sum by (service) (rate(http_requests_total{{code="500"}}[{window}]))'
    return {"name": "errors", "when": {"query": f"{errors} / {total}", "above": "10%", "for": lasting}}


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def alert(service: str, starts: datetime, ends: datetime | None = None, **labels: str) -> dict[str, Any]:
    """An alert as Alertmanager's webhook carries it."""
    return {
        "status": "firing" if ends is None else "resolved",
        "labels": {"alertname": "ShopErrors", "service": service, "severity": "critical", **labels},
        "annotations": {"summary": "30% of the answers are errors"},
        "startsAt": stamp(starts),
        "endsAt": stamp(ends) if ends is not None else "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph",
    }


def webhook(*alerts: Mapping[str, Any], group: str = '{}:{service="shop"}') -> dict[str, Any]:
    """A notification, as Alertmanager posts it."""
    return {
        "version": "4",
        "groupKey": group,
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "rollbackd",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example",
        "alerts": list(alerts),
    }


def fire(
    alertmanager: str, service: str, starts: datetime, ends: datetime, name: str = "ShopErrors", **labels: str
) -> None:
    """What Prometheus does: tell Alertmanager of an alert, and until when it is to be believed."""
    every = {"alertname": name, "service": service, "severity": "critical", **labels}
    body = [{"labels": every, "annotations": {}, "startsAt": stamp(starts), "endsAt": stamp(ends)}]
    send(f"{alertmanager}/api/v2/alerts", body)


def posting(url: str, **changes: Any) -> dict[str, Any]:
    """An Alertmanager's configuration: everything to one webhook at once; `changes` are of its route."""
    route = {"receiver": "rollbackd", "group_by": ["service"], "group_wait": "100ms", "group_interval": "1s"}
    hook = {"url": url, "send_resolved": True}
    return {
        "route": {**route, "repeat_interval": "1h", **changes},
        "receivers": [{"name": "rollbackd", "webhook_configs": [hook]}],
    }


def fires_while(alertmanager: str, shop: Shop, releases: Collection[str], starts: datetime) -> None:
    """The alert of a shop ends once none of these runs there, as Prometheus tells Alertmanager."""

    def end() -> None:
        with suppress(AssertionError, OSError):
            wait_until(lambda: shop.running() not in {*releases, "none"}, "another release runs", 200)
            fire(alertmanager, shop.name, starts, datetime.now(UTC) - timedelta(milliseconds=1))

    threading.Thread(target=end, daemon=True).start()
