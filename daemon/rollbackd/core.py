"""The core builds the parts of the daemon, each once, and hands them to the others. Nothing is started here."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from rollbackd.adapter import AdapterError, Notifier
from rollbackd.calendar import Calendar
from rollbackd.config import message_templates
from rollbackd.config.load import digest
from rollbackd.config.models import Config, Service
from rollbackd.config.secrets import reveal, those_there
from rollbackd.decision.approvals import Approvals
from rollbackd.decision.bake_timer import BakeTimer
from rollbackd.decision.blame import Blame
from rollbackd.decision.circumstances import Circumstances
from rollbackd.decision.confirmation_deadlines import ConfirmationDeadlines
from rollbackd.decision.engine import DecisionEngine
from rollbackd.decision.holds import ActiveHolds
from rollbackd.decision.measurements import MeasurementTaker
from rollbackd.decision.preflight_guards import PreflightGuards
from rollbackd.decision.situation import SituationReader
from rollbackd.drills import DrillRunner
from rollbackd.drills.preconditions import DrillPreconditions
from rollbackd.drills.readiness import ReadinessReview
from rollbackd.drills.readiness_watch import ReadinessWatch
from rollbackd.drills.schedule import DrillTimetable
from rollbackd.execution.check_runner import CheckRunner, CheckSurroundings
from rollbackd.execution.evidence import EvidenceTaker
from rollbackd.execution.followed_services import ServicesFollower
from rollbackd.execution.incident_clocks import IncidentClocks
from rollbackd.execution.layers import LayerFactory, Layers, LookFailed
from rollbackd.execution.runner import Judgement, Runner, process_name
from rollbackd.journal import Journal
from rollbackd.metrics import Metrics, MetricsParts, SlackMetrics
from rollbackd.model import CheckResult, Release
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.wording import Wording
from rollbackd.operations import Operations, OperationsParts
from rollbackd.operations.signal_commands import SignalCommands
from rollbackd.operations.slack_orders import SlackOrders, rooms_with_buttons
from rollbackd.plugins import build_notifier
from rollbackd.policy.changes import UNCONFIRMED
from rollbackd.reports import Reports
from rollbackd.signals.alertmanager_client import Alertmanager
from rollbackd.signals.host_holds import HostHolds
from rollbackd.signals.intake import SignalIntake
from rollbackd.signals.polls import PrometheusPolls
from rollbackd.signals.prometheus import Prometheus, PrometheusReplicas
from rollbackd.signals.query_conditions import ComparisonQueries
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.signal_files import SignalFiles
from rollbackd.signals.silences import Silence
from rollbackd.signals.smoke_checks import SmokeChecks
from rollbackd.signals.state_watcher import StateWatcher
from rollbackd.snapshots import SnapshotManager
from rollbackd.snapshots.metrics import SnapshotMetrics
from rollbackd.snapshots.retention import Retention
from rollbackd.state.checkpoint import Checkpoint
from rollbackd.state.journal_access import unwritten_of
from rollbackd.state.members import Membership
from rollbackd.state.projection import Projection
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import Clock, JumpWatch
from rollbackd.system.http_client import HttpSession
from rollbackd.system.http_connection import connection_to
from rollbackd.system.loop_lag import LoopLag
from rollbackd.system.spawner import Spawner
from rollbackd.system.vitals import Vitals
from rollbackd.trials.alert_trial import AlertTrials
from rollbackd.trials.live_check import LiveCheck
from rollbackd.trials.passage import AlertPassages
from rollbackd.trials.receiver_trial import ReceiverTrials
from rollbackd.upkeep import Upkeep


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The parts that are started, stopped or asked from outside."""

    config: Config
    clock: Clock
    read_model: ReadModel
    rule_states: RuleStates
    jumps: JumpWatch
    layers: dict[str, Layers]
    state_watcher: StateWatcher
    decision_engine: DecisionEngine
    intake: SignalIntake
    runner: Runner
    bake_timer: BakeTimer
    smoke: SmokeChecks
    polls: PrometheusPolls | None
    deadlines: ConfirmationDeadlines
    drills: DrillRunner
    readiness_watch: ReadinessWatch
    evidence_taker: EvidenceTaker
    measurement_taker: MeasurementTaker
    snapshot_manager: SnapshotManager
    upkeep: Upkeep
    reports: Reports
    services_follower: ServicesFollower
    timetable: Calendar
    incident_clocks: IncidentClocks
    dispatcher: NotificationDispatcher
    operations: Operations
    orders: SignalCommands
    host_holds: HostHolds
    membership: Membership
    slack_orders: SlackOrders | None
    """None where no receiver has buttons."""
    web: HttpSession
    prometheus: Prometheus | None
    vitals: Vitals
    lag: LoopLag

    async def rest(self) -> None:
        """Begin nothing more, and finish what is in hand."""
        await self.runner.stop()
        await self.decision_engine.settle()
        await self.snapshot_manager.stop()

    async def close(self, *, save: bool = True) -> None:
        """End what has connections or threads, the journal last; `save`: with a checkpoint for the next start."""
        await self.rest()
        if self.prometheus is not None:
            await self.prometheus.close()
        await self.web.close()
        if save:
            await self.read_model.save()
        await self.read_model.journal.close()


def secrets_in(value: object) -> Iterator[Secret]:
    """Every secret that a configuration names."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets_in(getattr(value, name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from secrets_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from secrets_in(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """The parts that ask the world and touch it."""

    web: HttpSession
    spawner: Spawner
    prometheus: Prometheus | None
    alertmanager: Alertmanager | None
    notifiers: dict[str, Notifier]
    factory: LayerFactory
    layers: dict[str, Layers]
    lag: LoopLag


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deciding:
    """The parts that see trouble, decide on it and drive incidents."""

    rule_states: RuleStates
    jumps: JumpWatch
    check_runner: CheckRunner
    state_watcher: StateWatcher
    holds: ActiveHolds
    situations: SituationReader
    deadlines: ConfirmationDeadlines
    decision_engine: DecisionEngine
    intake: SignalIntake
    runner: Runner
    bake_timer: BakeTimer
    polls: PrometheusPolls | None
    smoke: SmokeChecks
    measurement_taker: MeasurementTaker


async def build(
    config: Config,
    journal: Journal,
    clock: Clock,
    checkpoint: Checkpoint | None = None,
    known: Projection | None = None,
    standing_by: Callable[[], str] | None = None,
) -> Core:
    """Build every part and read the journal.

    :param known: what is known of the journal already.
    :param standing_by: who drives, where that is another daemon.
    :raises SignalsUnsafe: the signals directory is not safe.
    """
    files = SignalFiles(config.daemon.signals, clock, config.daemon.of_host)
    read_model = ReadModel(journal, checkpoint, known)
    reading = asyncio.create_task(read_model.open())  # on the journal's threads, while the rest is built
    await clock.sleep(timedelta())
    reach = _reach(config, clock, journal.epoch)
    snapshot_manager = SnapshotManager(config, read_model, clock, reach.layers, reach.spawner)
    deciding = _deciding(config, read_model, clock, files, reach, snapshot_manager)
    snapshot_manager.heed(lambda name: deciding.holds(name, {}, silences=False))
    incident_clocks = IncidentClocks(config, read_model, clock)
    wording = _wording(config)
    dispatcher = _dispatcher(config, journal, clock, reach, deciding, wording)
    drills = _drills(config, read_model, clock, reach, deciding)
    registry, vitals = CollectorRegistry(), Vitals()
    trials = ReceiverTrials(config, reach.notifiers, clock, journal)
    operations = Operations(
        OperationsParts(
            config=config,
            read_model=read_model,
            clock=clock,
            rule_states=deciding.rule_states,
            decision_engine=deciding.decision_engine,
            situations=deciding.situations,
            check_runner=deciding.check_runner,
            intake=deciding.intake,
            holds=deciding.holds,
            bake_timer=deciding.bake_timer,
            state_watcher=deciding.state_watcher,
            layers=reach.layers,
            runner=deciding.runner,
            registry=registry,
            drills=drills,
            alert_trials=AlertTrials(config, read_model, deciding.rule_states, clock, deciding.situations, wording),
            receiver_trials=trials,
            passages=AlertPassages(reach.alertmanager, clock),
            live_check=_live_check(config, clock, reach, deciding, trials),
            snapshot_manager=snapshot_manager,
            vitals=vitals,
            polls=deciding.polls,
            waiting=dispatcher.waiting,
            standing_by=standing_by,
        )
    )
    upkeep = Upkeep(read_model, config.daemon.keep, clock, Retention(read_model, reach.layers).prune)
    drill_timetable = DrillTimetable(config, read_model, clock, drills)
    reports = Reports(config, read_model, clock, operations)
    planned = [*snapshot_manager.planned(), *drill_timetable.planned(), *upkeep.planned(), *reports.planned()]
    rooms = rooms_with_buttons(reach.notifiers)
    slack_orders = SlackOrders(config, read_model, clock, operations, rooms) if rooms else None
    registry.register(_metrics(config, read_model, clock, reach, deciding, dispatcher))
    registry.register(SnapshotMetrics(snapshot_manager, clock))
    if slack_orders is not None:
        registry.register(SlackMetrics(slack_orders.counts))
    await reading
    return Core(
        config=config,
        clock=clock,
        read_model=read_model,
        rule_states=deciding.rule_states,
        jumps=deciding.jumps,
        layers=reach.layers,
        state_watcher=deciding.state_watcher,
        decision_engine=deciding.decision_engine,
        intake=deciding.intake,
        runner=deciding.runner,
        bake_timer=deciding.bake_timer,
        smoke=deciding.smoke,
        polls=deciding.polls,
        deadlines=deciding.deadlines,
        drills=drills,
        readiness_watch=ReadinessWatch(config, read_model, drills, clock),
        evidence_taker=EvidenceTaker(config, read_model, deciding.check_runner.run, clock),
        measurement_taker=deciding.measurement_taker,
        snapshot_manager=snapshot_manager,
        upkeep=upkeep,
        reports=reports,
        services_follower=ServicesFollower(config, read_model, reach.spawner, clock),
        timetable=Calendar(planned, clock),
        incident_clocks=incident_clocks,
        dispatcher=dispatcher,
        operations=operations,
        orders=SignalCommands(config, read_model, clock, files, operations, passes_on=standing_by is not None),
        host_holds=HostHolds(config, read_model, files),
        membership=_membership(config, read_model, clock, deciding.jumps),
        slack_orders=slack_orders,
        web=reach.web,
        prometheus=reach.prometheus,
        vitals=vitals,
        lag=reach.lag,
    )


def _membership(config: Config, read_model: ReadModel, clock: Clock, jumps: JumpWatch) -> Membership:
    configuration = digest(config) if config.daemon.standby else ""
    return Membership(config.daemon.here, process_name(), configuration, read_model, clock, jumps)


def _wording(config: Config) -> Wording:
    folder = config.notify.templates
    templates = None if folder is None else message_templates.read(folder)[0]
    return Wording(config.notify.receivers, templates)


def _dispatcher(
    config: Config, journal: Journal, clock: Clock, reach: _Reach, deciding: _Deciding, wording: Wording
) -> NotificationDispatcher:
    """What tells people, with what is known now of refused trouble."""
    rule_states, decision_engine = deciding.rule_states, deciding.decision_engine

    def goes_on(service: str, episode: str) -> bool:
        return rule_states.goes_on(service, episode, clock.now())

    def over(service: str, episode: str) -> str:
        if episode.startswith(f"{UNCONFIRMED}/"):
            return deciding.deadlines.over(service, episode)
        return rule_states.over(service, episode, clock.now())

    return NotificationDispatcher(
        journal,
        config,
        reach.notifiers,
        clock,
        goes_on=goes_on,
        over=over,
        deciding=lambda: decision_engine.deciding,
        services_deciding=lambda: decision_engine.services_deciding,
        wording=wording,
        plots=deciding.measurement_taker.plot,
    )


def _drills(config: Config, read_model: ReadModel, clock: Clock, reach: _Reach, deciding: _Deciding) -> DrillRunner:
    rule_states = deciding.rule_states
    return DrillRunner(
        config,
        read_model,
        clock,
        rule_states,
        DrillPreconditions(config, read_model, clock, rule_states, deciding.holds),
        deciding.decision_engine,
        deciding.state_watcher,
        deciding.runner,
        ReadinessReview(config, read_model, clock, deciding.situations, reach.layers, deciding.check_runner),
    )


def _live_check(
    config: Config, clock: Clock, reach: _Reach, deciding: _Deciding, receivers: ReceiverTrials
) -> LiveCheck:
    return LiveCheck(
        config,
        reach.prometheus,
        reach.alertmanager,
        reach.layers,
        receivers,
        deciding.rule_states,
        clock,
        "the daemon",
    )


def _metrics(
    config: Config,
    read_model: ReadModel,
    clock: Clock,
    reach: _Reach,
    deciding: _Deciding,
    dispatcher: NotificationDispatcher,
) -> Metrics:
    return Metrics(
        MetricsParts(
            config=config,
            read_model=read_model,
            rule_states=deciding.rule_states,
            clock=clock,
            bake_timer=deciding.bake_timer,
            holds=deciding.holds,
            dispatcher=dispatcher,
            intake=deciding.intake,
            polls=deciding.polls,
            lag=reach.lag,
        )
    )


def prometheus_of(config: Config, clock: Clock) -> Prometheus | None:
    """The Prometheus of the configuration, or its replicas as one; None where there is none."""
    asked = config.prometheus
    if asked is None:
        return None
    with_it = partial(connection_to, settings=asked, reveal=reveal)
    if len(asked.addresses) == 1:
        return Prometheus(asked.addresses[0], asked.timeout, clock, with_it, asked.replica_labels)
    return PrometheusReplicas(asked.addresses, asked.timeout, clock, with_it, asked.replica_labels)


def _reach(config: Config, clock: Clock, epoch: int = 0) -> _Reach:
    web = HttpSession()
    spawner = Spawner(config.daemon.scratch / "locks", clock, those_there(secrets_in(config)))
    watched, alertmanager = config.alertmanager, None
    if watched is not None:
        with_it = partial(connection_to, settings=watched, reveal=reveal)
        alertmanager = Alertmanager(watched.url, watched.timeout, web, with_it)
    host = config.daemon.here if config.daemon.standby else ""
    factory = LayerFactory(config.daemon.scratch, spawner, clock, config.clusters, host=host, epoch=epoch)
    layers = {service.name: factory.build(service) for service in config.services}
    return _Reach(
        web=web,
        spawner=spawner,
        prometheus=prometheus_of(config, clock),
        alertmanager=alertmanager,
        notifiers={one.name: build_notifier(one.kind, one.settings, reveal, web) for one in config.notify.receivers},
        factory=factory,
        layers=layers,
        lag=LoopLag(),
    )


def _deciding(
    config: Config,
    read_model: ReadModel,
    clock: Clock,
    files: SignalFiles,
    reach: _Reach,
    snapshot_manager: SnapshotManager,
) -> _Deciding:
    """Build them. They need each other in a circle, so a part that is built later is looked up when it is called."""

    def silences() -> tuple[Silence, ...]:
        return intake.silences

    def opened(incident: str) -> None:
        runner.poke(incident)

    def drive(incident: str) -> None:
        runner.start(incident)

    async def run_checks(service: Service) -> tuple[CheckResult, ...]:
        return await check_runner.run(service, tuple(service.checks))

    prometheus, layers, factory = reach.prometheus, reach.layers, reach.factory
    rule_states = RuleStates(config, read_model.of)
    compare = ComparisonQueries(config, read_model, rule_states, clock, prometheus)
    releases = _releases(layers, factory)
    around = CheckSurroundings(reach.spawner, clock, reach.web, prometheus, releases, compare, reach.lag.held_up)
    check_runner = CheckRunner(around)
    jumps = JumpWatch(clock)
    state_watcher = StateWatcher(read_model, layers, clock, config.daemon.look_every, snapshot_manager.being_restored)
    holds = ActiveHolds(config, read_model, files, clock, silences)
    blame = Blame(config, read_model, rule_states, clock, prometheus)
    circumstances = Circumstances(config, read_model, rule_states, clock, prometheus)
    missing = snapshot_manager.poke
    situations = SituationReader(
        config, read_model, rule_states, clock, jumps, holds, layers, state_watcher, blame, missing, circumstances
    )
    deadlines = ConfirmationDeadlines(config, read_model, clock)
    decision_engine = DecisionEngine(
        config, read_model, rule_states, clock, situations, opened, drive, run_checks, deadlines.due
    )
    intake = SignalIntake(read_model, rule_states, decision_engine, clock, reach.alertmanager)
    approvals = Approvals(config, read_model, rule_states, clock, situations)
    guards = PreflightGuards(config, read_model, rule_states, clock, situations, holds, check_runner, prometheus)
    judgement = Judgement(guards.held, guards.confirm, guards.condition, approvals.rise, approvals.over)
    unwritten = unwritten_of(config.daemon)
    runner = Runner(read_model, clock, factory, check_runner, judgement, config.limits.concurrent, unwritten)
    bake_timer = BakeTimer(config, read_model, rule_states, clock, jumps, holds, check_runner, state_watcher.problems)
    polls = (
        PrometheusPolls(config, read_model, rule_states, decision_engine, clock, prometheus)
        if prometheus is not None
        else None
    )
    smoke = SmokeChecks(config, read_model, rule_states, decision_engine, clock, check_runner)
    return _Deciding(
        rule_states=rule_states,
        jumps=jumps,
        check_runner=check_runner,
        state_watcher=state_watcher,
        holds=holds,
        situations=situations,
        deadlines=deadlines,
        decision_engine=decision_engine,
        intake=intake,
        runner=runner,
        bake_timer=bake_timer,
        polls=polls,
        smoke=smoke,
        measurement_taker=MeasurementTaker(config, read_model, rule_states, clock, prometheus),
    )


def _releases(
    layers: Mapping[str, Layers], factory: LayerFactory
) -> Callable[[Service, str], Awaitable[Sequence[Release]]]:
    """Gives a layer's releases; also of a service in an older configuration, under which an incident is finished."""

    async def releases(service: Service, layer: str) -> Sequence[Release]:
        known = layers.get(service.name)
        asked = known if known is not None and known.service == service else factory.build(service)
        try:
            return await asked.releases(layer)
        except LookFailed as error:
            raise AdapterError(str(error), permanent=False) from error

    return releases


@asynccontextmanager
async def live_check(config: Config, clock: Clock, asked_by: str) -> AsyncIterator[LiveCheck]:
    """What asks everything that a configuration names, without a daemon and its journal."""
    reach = _reach(config, clock)
    trials = ReceiverTrials(config, reach.notifiers, clock)
    try:
        yield LiveCheck(
            config, reach.prometheus, reach.alertmanager, reach.layers, trials, RuleStates(config), clock, asked_by
        )
    finally:
        if reach.prometheus is not None:
            await reach.prometheus.close()
        await reach.web.close()
