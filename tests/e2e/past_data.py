"""A day of three services, with a bad release, a weak one and an alert, in the OpenMetrics format with times."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from tests.servers import sample

DAY = datetime(2025, 6, 3, tzinfo=UTC)
HOURS = 14
SCRAPE = timedelta(seconds=15)


def at(hours: int, minutes: int = 0) -> datetime:
    return DAY + timedelta(hours=hours, minutes=minutes)


CHANGES = f"""\
# what the deployment system wrote
{at(0):%Y-%m-%dT%H:%M:%SZ} shop  v1
{at(0):%Y-%m-%dT%H:%M:%SZ} bank  b1
{at(0):%Y-%m-%dT%H:%M:%SZ} till  t1
{at(6):%Y-%m-%dT%H:%M:%SZ} shop  v2
{at(6, 40):%Y-%m-%dT%H:%M:%SZ} shop v1 rollback
{at(9):%Y-%m-%dT%H:%M:%SZ} bank  b2
{at(11):%Y-%m-%dT%H:%M:%SZ} till  t2
"""
"""v2 of the shop fails 4 in 10 from 06:04 on, until people go back; b2 of the bank fails 6 in 100 for two hours."""
RELEASES = {
    "shop": ((at(0), "v1"), (at(6), "v2"), (at(6, 40), "v1")),
    "bank": ((at(0), "b1"), (at(9), "b2")),
    "till": ((at(0), "t1"), (at(11), "t2")),
}


def errors(service: str, when: datetime) -> float:
    """The share of answers that fail."""
    if service == "shop" and at(6, 4) <= when < at(6, 40):
        return 0.4
    return 0.06 if service == "bank" and at(9, 5) <= when < at(11, 5) else 0.002


def metrics() -> str:
    return "\n".join([*_counters(), *_gauges()]) + "\n# EOF\n"


def _times() -> Iterator[datetime]:
    return (DAY - timedelta(minutes=10) + SCRAPE * n for n in range(int(timedelta(hours=HOURS) / SCRAPE) + 41))


def _counters() -> Iterator[str]:
    yield "# TYPE http_requests counter"
    shares: dict[str, Callable[[str, datetime], float]] = {
        "200": lambda service, when: 1 - errors(service, when),
        "500": errors,
    }
    for service in RELEASES:
        for code, share in shares.items():
            total, name = 0.0, sample("http_requests_total", {"service": service, "code": code})
            for when in _times():
                total += 20 * SCRAPE.total_seconds() * share(service, when)
                yield f"{name} {total:.6g} {when.timestamp():.0f}"


def _gauges() -> Iterator[str]:
    yield "# TYPE up gauge"
    for service in RELEASES:
        name = sample("up", {"service": service, "instance": "h1"})
        yield from (f"{name} 1 {when.timestamp():.0f}" for when in _times())
    yield "# TYPE generation gauge"
    for service, releases in RELEASES.items():
        name = sample("generation", {"service": service})
        for when in _times():
            yield f"{name} {sum(since <= when for since, _ in releases) or 1} {when.timestamp():.0f}"
    yield "# TYPE build gauge"
    for service, releases in RELEASES.items():
        for number, (since, release) in enumerate(releases):
            until = releases[number + 1][0] if number + 1 < len(releases) else at(HOURS + 1)
            if number and release in [name for _, name in releases[:number]]:
                continue
            spans = [(begin, releases[n + 1][0] if n + 1 < len(releases) else at(HOURS + 1))
                     for n, (begin, name) in enumerate(releases) if name == release]  # fmt: skip
            name = sample("build", {"service": service, "version": release})
            first = [(DAY - timedelta(minutes=10), spans[0][1]), *spans[1:]] if since == at(0) else spans
            del until
            yield from (f"{name} 1 {when.timestamp():.0f}" for when in _times() if any(a <= when < b for a, b in first))
    yield "# TYPE ALERTS gauge"
    name = sample("ALERTS", {"alertname": "Broken", "alertstate": "firing", "service": "till", "severity": "page"})
    yield from (f"{name} 1 {when.timestamp():.0f}" for when in _times() if at(11, 10) <= when < at(11, 50))
