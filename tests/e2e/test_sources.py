"""From a metric to a value of ours: Prometheus scrapes, its rule fires, Alertmanager sends the webhook, we read it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rollbackd.model import Alert
from rollbackd.signals.alertmanager_client import Alertmanager
from rollbackd.signals.alertmanager_webhook import fingerprint_of, parse_webhook
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import RangeAnswer
from rollbackd.system.clock import SystemClock
from tests.servers import Exporter, alertmanager, prometheus

pytestmark = pytest.mark.needs("prometheus", "prometheus-alertmanager")

RULES = {
    "groups": [
        {
            "name": "test",
            "rules": [
                {
                    "alert": "Sick",
                    "expr": "sickness > 0.5",
                    "labels": {"severity": "critical"},
                    "annotations": {"summary": "{{ $value }} at {{ $labels.service }}"},
                }
            ],
        }
    ]
}


async def until(condition: Callable[[], bool], limit: float = 60) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.05)


async def test_an_alert_comes_and_goes_the_whole_way(tmp_path: Path) -> None:
    received: list[Alert] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer sesame"
        received.extend(parse_webhook(await request.read()).alerts)
        return web.Response()

    app = web.Application()
    app.router.add_post("/api/v1/alerts", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1/alerts"
    before = datetime.now(UTC)
    with (
        Exporter() as exporter,
        alertmanager(tmp_path / "alertmanager", webhook=hook, token="sesame") as alerts,
        prometheus(tmp_path / "prometheus", targets=[exporter.address], rules=RULES, alertmanager=alerts.address) as it,
    ):
        exporter.set("sickness", 0.9, service="checkout")
        await until(lambda: bool(received))
        assert [(alert.labels["alertname"], alert.labels["service"]) for alert in received] == [("Sick", "checkout")]
        assert received[0].annotations["summary"] == "0.9 at checkout"
        assert received[0].fingerprint == fingerprint_of(received[0].labels)
        assert received[0].firing
        assert before < received[0].starts_at <= datetime.now(UTC)

        async with aiohttp.ClientSession() as session:
            client = Alertmanager(alerts.url, timedelta(seconds=5), lambda: session)
            assert [alert.episode for alert in (await client.firing(SystemClock().now())).alerts] == [
                received[0].episode
            ]
            group = await client.group("rollbackd", {"service": "checkout"})
            assert [alert.episode for alert in group] == [received[0].episode]

        asking = Prometheus(it.url, timedelta(seconds=5), SystemClock())
        answer = await asking.instant("sickness")
        assert [(series.labels["service"], series.value) for series in answer.series] == [("checkout", 0.9)]
        assert "bad_data" in (await asking.instant("sickness >")).problem
        async with asyncio.timeout(10):
            past = RangeAnswer()
            while not past.series and not past.problem:  # whole seconds: the first must be over
                now = datetime.now(UTC)
                past = await asking.range("sickness", now - timedelta(seconds=60), now, timedelta(seconds=1))
        assert {value for _, value in past.series[0].points} == {0.9}

        exporter.set("sickness", 0.0, service="checkout")
        await until(lambda: len(received) > 1)
        assert not received[-1].firing
        assert received[-1].episode == received[0].episode

        it.stop()
        assert "no answer" in (await asking.instant("sickness")).problem
        await asking.close()
    await runner.cleanup()
