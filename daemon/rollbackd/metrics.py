"""Its own metrics, read off the ledger and the live rules at each scrape; nothing is counted twice, or forgotten."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollbackd import __version__
from rollbackd.book import Book
from rollbackd.clock import Clock
from rollbackd.config.models import Config
from rollbackd.judge.bake import Bakery
from rollbackd.judge.live import Live
from rollbackd.policy.target import candidates
from rollbackd.rules.tracks import Standing


class Metrics(Collector):
    """`rollbackd_*`."""

    def __init__(
        self,
        config: Config,
        book: Book,
        live: Live,
        clock: Clock,
        bakery: Bakery,
        waiting: Callable[[], Mapping[str, int]],
        held: Callable[[str], bool],
    ) -> None:
        self._config = config
        self._book = book
        self._live = live
        self._clock = clock
        self._bakery = bakery
        self._waiting = waiting
        self._held = held

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: what there is depends on the configuration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily("rollbackd_build_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "rollbackd_journal_writable", "1 while the journal can be written.", value=not self._book.trouble
        )
        yield from self._services()
        yield from self._rollbacks()
        outbox = GaugeMetricFamily("rollbackd_messages_waiting", "Messages not delivered yet.", labels=["receiver"])
        for receiver, count in self._waiting().items():
            outbox.add_metric([receiver], count)
        yield outbox

    def _services(self) -> Iterable[Metric]:
        labels = ["service"]
        ready = GaugeMetricFamily("rollbackd_service_has_target", "1 when there is a state to go to.", labels=labels)
        baked = GaugeMetricFamily("rollbackd_service_baked_ratio", "Share of the bake time behind it.", labels=labels)
        held = GaugeMetricFamily("rollbackd_service_held", "1 while something holds it.", labels=labels)
        health = GaugeMetricFamily(
            "rollbackd_service_rules", "Rules at the service by what they say.", labels=["service", "standing"]
        )
        now = self._clock.now()
        for service in self._config.services:
            ledger = self._book.of(service.name)
            ready.add_metric([service.name], float(bool(candidates(ledger, ledger.present))))
            baked.add_metric([service.name], self._bakery.share(service))
            held.add_metric([service.name], float(self._held(service.name)))
            counts = Counter(seen.standing for seen in self._live.seen(service.name, now))
            for standing in Standing:
                health.add_metric([service.name, standing.value], counts[standing])
        yield from (ready, baked, held, health)

    def _rollbacks(self) -> Iterable[Metric]:
        opened = CounterMetricFamily("rollbackd_rollbacks", "Rollbacks that were opened.", labels=["service"])
        ended = CounterMetricFamily(
            "rollbackd_rollbacks_ended", "Rollbacks by how they ended.", labels=["service", "outcome"]
        )
        running = GaugeMetricFamily("rollbackd_rollbacks_open", "Rollbacks that are open now.", labels=["service"])
        for service in self._config.services:
            rollbacks = self._book.of(service.name).rollbacks
            newest = int(rollbacks[-1].incident.rpartition("-")[2]) if rollbacks else 0
            opened.add_metric([service.name], newest)
            running.add_metric([service.name], float(self._book.of(service.name).open is not None))
            for outcome, count in sorted(self._book.ended(service.name).items()):
                ended.add_metric([service.name, outcome], count)
        yield from (opened, ended, running)
