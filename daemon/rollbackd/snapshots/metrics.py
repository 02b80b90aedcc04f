"""Metrics of snapshots, made at each scrape of what is known of them."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollbackd.snapshots.manager import SnapshotManager
from rollbackd.system.clock import Clock


class SnapshotMetrics(Collector):
    """`rollbackd_snapshot_*`."""

    def __init__(self, snapshot_manager: SnapshotManager, clock: Clock) -> None:
        self._snapshot_manager = snapshot_manager
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
        for layer_snapshots in self._snapshot_manager.all_layers():
            if (newest := layer_snapshots.past.newest) is not None:
                age.add_metric(
                    [layer_snapshots.service, layer_snapshots.layer],
                    max(0.0, (self._clock.now() - newest).total_seconds()),
                )
            if layer_snapshots.past.ended is not None:
                well.add_metric(
                    [layer_snapshots.service, layer_snapshots.layer],
                    float(not layer_snapshots.past.problems(layer_snapshots.schedules)),
                )
        yield from (age, well)
