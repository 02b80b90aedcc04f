"""The daemon's own metrics, made at each scrape of the ledgers and the rules' state: none is counted twice, or lost."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollbackd import __version__
from rollbackd.config.models import Config
from rollbackd.decision.bake_timer import BakeTimer
from rollbackd.decision.holds import ActiveHolds
from rollbackd.incident.clocks import RECOVER, START
from rollbackd.incident.outcomes import BAD_ENDS
from rollbackd.model import Action, Outcome
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.receiver_queue import DELIVERIES
from rollbackd.policy.guards import failures_in_a_row
from rollbackd.policy.target import candidates
from rollbackd.rules.tracks import Standing
from rollbackd.signals.intake import SignalIntake
from rollbackd.signals.polls import PrometheusPolls
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.loop_lag import LoopLag

_ENDS = dict.fromkeys((Outcome.RECOVERED.value, *sorted(BAD_ENDS)), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsParts:
    """What is asked at a scrape."""

    config: Config
    read_model: ReadModel
    rule_states: RuleStates
    clock: Clock
    bake_timer: BakeTimer
    holds: ActiveHolds
    dispatcher: NotificationDispatcher
    intake: SignalIntake
    polls: PrometheusPolls | None
    lag: LoopLag


class Metrics(Collector):
    """`rollbackd_*`."""

    def __init__(self, parts: MetricsParts) -> None:
        self._parts = parts
        self._config = parts.config
        self._read_model = parts.read_model

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
            "rollbackd_event_loop_lag_seconds",
            "The longest delay of the event loop in a minute.",
            value=self._parts.lag.worst,
        )
        yield from self._fleet()
        yield from self._backends()
        yield from self._services()
        yield from self._rollbacks()
        yield from self._times()
        yield from self._messages()

    def _fleet(self) -> Iterable[Metric]:
        held = bool(self._parts.holds.of_all())
        yield GaugeMetricFamily("rollbackd_held", "1 while all services are held.", value=held)
        stopped = failures_in_a_row(self._read_model.fleet) >= self._config.limits.breaker.failures
        yield GaugeMetricFamily(
            "rollbackd_breaker_open", "1 while no rollback begins by itself, since several did not help.", value=stopped
        )
        decisions = CounterMetricFamily("rollbackd_decisions", "Decisions on triggers.", labels=["action"])
        for action in Action:
            decisions.add_metric([action.value], self._read_model.counts.decided[action.value])
        yield decisions

    def _backends(self) -> Iterable[Metric]:
        polls, intake = self._parts.polls, self._parts.intake
        up = GaugeMetricFamily(
            "rollbackd_backend_up", "1 when it answered the last time that it was asked.", labels=["backend"]
        )
        if polls is not None:
            up.add_metric(["prometheus"], not polls.problem)
        if self._config.alertmanager is not None:
            up.add_metric(["alertmanager"], not intake.unreachable)
        yield up
        polled = polls.polled if polls is not None else None
        for name, text, at in (
            ("rollbackd_last_poll_timestamp_seconds", "When Prometheus was asked last.", polled),
            ("rollbackd_last_webhook_timestamp_seconds", "When alerts were posted last.", intake.posted),
        ):
            yield GaugeMetricFamily(name, text, value=at.timestamp() if at is not None else None)

    def _messages(self) -> Iterable[Metric]:
        outbox = GaugeMetricFamily("rollbackd_messages_waiting", "Messages not delivered yet.", labels=["receiver"])
        for receiver, count in self._parts.dispatcher.waiting().items():
            outbox.add_metric([receiver], count)
        tries = CounterMetricFamily(
            "rollbackd_deliveries",
            "Tries to deliver since the start, by what came of them.",
            labels=["receiver", "result"],
        )
        for receiver, results in self._parts.dispatcher.deliveries().items():
            for result in DELIVERIES:
                tries.add_metric([receiver, result], results[result])
        yield from (outbox, tries)

    def _services(self) -> Iterable[Metric]:
        labels = ["service"]
        acts = GaugeMetricFamily("rollbackd_service_acts", "1 in mode act, 0 in shadow.", labels=labels)
        ready = GaugeMetricFamily("rollbackd_service_has_target", "1 when there is a state to go to.", labels=labels)
        baked = GaugeMetricFamily("rollbackd_service_baked_ratio", "Share of the bake time behind it.", labels=labels)
        drilled = GaugeMetricFamily(
            "rollbackd_ready", "1 when the last drill said that a rollback would work.", labels=labels
        )
        held = GaugeMetricFamily("rollbackd_service_held", "1 while something holds it.", labels=labels)
        health = GaugeMetricFamily(
            "rollbackd_service_rules", "Rules at the service by what they say.", labels=["service", "standing"]
        )
        now = self._parts.clock.now()
        for service in self._config.services:
            ledger = self._read_model.of(service.name)
            ready.add_metric([service.name], float(bool(candidates(ledger, ledger.present))))
            acts.add_metric([service.name], self._config.mode(service) == "act")
            baked.add_metric([service.name], self._parts.bake_timer.share(service))
            if ledger.ready is not None:
                drilled.add_metric([service.name], float(ledger.ready))
            held.add_metric([service.name], float(bool(self._parts.holds(service.name, {}))))
            counts = Counter(seen.standing for seen in self._parts.rule_states.seen(service.name, now))
            for standing in Standing:
                health.add_metric([service.name, standing.value], counts[standing])
        yield from (acts, ready, drilled, baked, held, health, self._scores())

    def _scores(self) -> Metric:
        highest: dict[tuple[str, str], float] = {}
        for rule, service, share in self._parts.rule_states.scores():
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
            # A series that begins at 1 never increases: those that alerts ask for are there from the start.
            for outcome, count in sorted({**_ENDS, **counts.ended(service.name)}.items()):
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


class SlackMetrics(Collector):
    """What came from Slack, by what became of it; counted by this process, since the journal has no refusals."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        asked = CounterMetricFamily(
            "rollbackd_slack_requests", "Clicks and other requests from Slack.", labels=["result"]
        )
        for result in sorted({"taken", "forged", "late", "repeated", "unknown", "viewer", *self._counts}):
            asked.add_metric([result], self._counts.get(result, 0))
        yield asked
