"""The daemon's own metrics, made at each scrape of the ledgers and the rules' state: none is counted twice, or lost."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollbackd import __version__
from rollbackd.config.models import Config
from rollbackd.decision.bake_timer import BakeTimer
from rollbackd.incident.clocks import RECOVER, START
from rollbackd.policy.target import candidates
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock


class Metrics(Collector):
    """`rollbackd_*`."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        bake_timer: BakeTimer,
        waiting: Callable[[], Mapping[str, int]],
        held: Callable[[str], bool],
        lag: Callable[[], float],
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._bake_timer = bake_timer
        self._waiting = waiting
        self._held = held
        self._lag = lag

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: what there is depends on the configuration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily("rollbackd_build_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "rollbackd_journal_writable", "1 while the journal can be written.", value=not self._read_model.trouble
        )
        yield CounterMetricFamily(
            "rollbackd_log_lines_dropped", "Log lines that could not be written.", value=log.dropped()
        )
        yield GaugeMetricFamily(
            "rollbackd_event_loop_lag_seconds", "The longest delay of the event loop in a minute.", value=self._lag()
        )
        yield from self._services()
        yield from self._rollbacks()
        yield from self._times()
        outbox = GaugeMetricFamily("rollbackd_messages_waiting", "Messages not delivered yet.", labels=["receiver"])
        for receiver, count in self._waiting().items():
            outbox.add_metric([receiver], count)
        yield outbox

    def _services(self) -> Iterable[Metric]:
        labels = ["service"]
        ready = GaugeMetricFamily("rollbackd_service_has_target", "1 when there is a state to go to.", labels=labels)
        baked = GaugeMetricFamily("rollbackd_service_baked_ratio", "Share of the bake time behind it.", labels=labels)
        drilled = GaugeMetricFamily(
            "rollbackd_ready", "1 when the last drill said that a rollback would work.", labels=labels
        )
        held = GaugeMetricFamily("rollbackd_service_held", "1 while something holds it.", labels=labels)
        health = GaugeMetricFamily(
            "rollbackd_service_rules", "Rules at the service by what they say.", labels=["service", "standing"]
        )
        now = self._clock.now()
        for service in self._config.services:
            ledger = self._read_model.of(service.name)
            ready.add_metric([service.name], float(bool(candidates(ledger, ledger.present))))
            baked.add_metric([service.name], self._bake_timer.share(service))
            if ledger.ready is not None:
                drilled.add_metric([service.name], float(ledger.ready))
            held.add_metric([service.name], float(self._held(service.name)))
            counts = Counter(seen.standing for seen in self._rule_states.seen(service.name, now))
            for standing in Standing:
                health.add_metric([service.name, standing.value], counts[standing])
        yield from (ready, drilled, baked, held, health, self._scores())

    def _scores(self) -> Metric:
        highest: dict[tuple[str, str], float] = {}
        for rule, service, share in self._rule_states.scores():
            highest[service, rule] = max(share, highest.get((service, rule), 0.0))
        scores = GaugeMetricFamily(
            "rollbackd_rule_score_ratio",
            "Score of errors, as a share of the threshold that meets the rule.",
            labels=["service", "rule"],
        )
        for place, share in sorted(highest.items()):
            scores.add_metric(place, share)
        return scores

    def _rollbacks(self) -> Iterable[Metric]:
        opened = CounterMetricFamily("rollbackd_rollbacks", "Rollbacks opened, without drills.", labels=["service"])
        ended = CounterMetricFamily(
            "rollbackd_rollbacks_ended", "Rollbacks by how they ended.", labels=["service", "outcome"]
        )
        running = GaugeMetricFamily("rollbackd_rollbacks_open", "Rollbacks that are open now.", labels=["service"])
        asked = CounterMetricFamily("rollbackd_questions", "Questions that people were asked.", labels=["service"])
        waiting = GaugeMetricFamily("rollbackd_questions_open", "Questions that wait now.", labels=["service"])
        counts = self._read_model.counts
        for service in self._config.services:
            ledger = self._read_model.of(service.name)
            opened.add_metric([service.name], counts.began[service.name])
            asked.add_metric([service.name], counts.asked[service.name])
            running.add_metric([service.name], float(ledger.acting is not None))
            waiting.add_metric([service.name], float(ledger.open is not None and ledger.open.waits))
            for outcome, count in sorted(counts.ended(service.name).items()):
                ended.add_metric([service.name, outcome], count)
        yield from (opened, ended, running, asked, waiting)

    def _times(self) -> Iterable[Metric]:
        passed = CounterMetricFamily(
            "rollbackd_clocks_passed", "Clocks and targets of incidents that were passed.", labels=["clock"]
        )
        counts = self._read_model.counts
        for clock in sorted({START, RECOVER, *counts.passed}):
            passed.add_metric([clock], counts.passed[clock])
        told = CounterMetricFamily("rollbackd_escalations", "How often a tier of people was told.", labels=["tier"])
        for tier in sorted({*range(len(self._config.notify.escalation)), *counts.escalations}):
            told.add_metric([str(tier)], counts.escalations[tier])
        yield from (passed, told)
