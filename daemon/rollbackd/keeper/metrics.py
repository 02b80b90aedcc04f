"""Metrics of snapshots, read off what is known of them at each scrape."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollbackd.clock import Clock
from rollbackd.keeper.keeper import Keeper


class SnapshotMetrics(Collector):
    """`rollbackd_snapshot_*`."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: what there is depends on the configuration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        labels = ["service", "layer"]
        age = GaugeMetricFamily(
            "rollbackd_snapshot_verified_age_seconds",
            "Since the newest snapshot that was found whole was taken.",
            labels=labels,
        )
        well = GaugeMetricFamily(
            "rollbackd_snapshot_ok", "1 when the calendar's last runs had no problem.", labels=labels
        )
        for shelf in self._keeper.shelves():
            if (newest := shelf.past.newest) is not None:
                age.add_metric([shelf.service, shelf.layer], max(0.0, (self._clock.now() - newest).total_seconds()))
            if shelf.past.ended is not None:
                well.add_metric([shelf.service, shelf.layer], float(not shelf.past.problems(shelf.schedules)))
        yield from (age, well)
