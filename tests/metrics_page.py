"""`docs/metrics.md`, made of the metrics themselves and of the alerts that are shipped: `python -m tests.metrics_page`."""

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, Metric

from rollbackd.api import build_app
from rollbackd.config.secrets import reveal
from rollbackd.page import add_page
from tests.unit.judgement.stage import Stage

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/metrics.md"
ALERTS = ROOT / "examples/monitoring/alerts.yaml"
DASHBOARD = ROOT / "examples/monitoring/dashboard.json"
_HEAD = """\
# Metrics

Written by `python -m tests.metrics_page`, not by hand. `GET /metrics` has them, for the role `viewer`; a token of that
role goes into `authorization` of the scrape:

```yaml
# prometheus.yml
scrape_configs:
  - job_name: rollbackd
    authorization: {credentials_file: /etc/prometheus/rollbackd-token}
    static_configs: [{targets: ["ops-1:9099"]}]
```

[examples/monitoring](../examples/monitoring) has alert rules, their tests for `promtool test rules`, and a dashboard of
Grafana that asks for its datasource.

| metric | type | labels | what it is |
|-|-|-|-|
"""
_ALERTS = """
## Alerts

| alert | severity | after | what it says |
|-|-|-|-|
"""


async def registry(place: Path) -> CollectorRegistry:
    """That of a daemon with a service and a room in Slack, as it is right after the start."""
    (place / "secret").touch(mode=0o600)
    (place / "secret").write_text("xoxb-1")
    secret = {"file": str(place / "secret")}
    room = {"name": "room", "slack": {"token": secret, "channel": "C0123ABCD", "signing_secret": secret}}
    rules = [{"name": "sick", "when": {"alert": 'a="b"'}}]
    stage = Stage(place, {"shop": ["code"]}, {"rules": rules, "notify": {"receivers": [room]}}, 0)
    await stage.up()
    try:
        made = stage.daemon
        add_page(
            build_app(made.operations, made.config.daemon, reveal), made.operations, made.config.daemon, made.clock
        )
        return made.operations.registry
    finally:
        await stage.down()


def metrics(found: CollectorRegistry) -> dict[str, Metric]:
    """All of them, by the name that a query has."""
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found.collect()}


def alerts() -> list[Mapping[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def page(found: CollectorRegistry) -> str:
    return "".join([_HEAD, *_metric_rows(found), _ALERTS, *_alert_rows()])


def _metric_rows(found: CollectorRegistry) -> Iterator[str]:
    for name, one in sorted(metrics(found).items()):
        labels = ", ".join(f"`{label}`" for label in getattr(one, "_labelnames", ()))
        yield f"| `{name}` | {one.type} | {labels} | {one.documentation} |\n"


def _alert_rows() -> Iterator[str]:
    for one in alerts():
        summary = one["annotations"]["summary"].replace("|", "\\|")
        yield f"| `{one['alert']}` | {one['labels']['severity']} | {one.get('for', '')} | {summary} |\n"


async def _main() -> None:
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(page(await registry(Path(place))))


if __name__ == "__main__":
    asyncio.run(_main())
