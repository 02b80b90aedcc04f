"""The parts of the daemon, each built once and handed to the others. Nothing is started here."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from rollbackd.adapter import AdapterError
from rollbackd.book import Book
from rollbackd.clock import Clock, JumpWatch
from rollbackd.config.models import Config, Service
from rollbackd.config.secrets import reveal, those_there
from rollbackd.desk import Desk, Parts
from rollbackd.drills import Drills
from rollbackd.drills.calendar import DrillCalendar
from rollbackd.drills.exam import Exam
from rollbackd.drills.fitness import Fitness
from rollbackd.examine import Examiner, Surroundings
from rollbackd.journal import Journal
from rollbackd.judge.asking import Asking
from rollbackd.judge.bake import Bakery
from rollbackd.judge.before import Before
from rollbackd.judge.deadlines import Deadlines
from rollbackd.judge.engine import Judge
from rollbackd.judge.holds import Holds
from rollbackd.judge.intake import Intake
from rollbackd.judge.live import Live
from rollbackd.judge.past import Past
from rollbackd.judge.polls import Polls
from rollbackd.judge.queries import Comparison
from rollbackd.judge.recheck import Recheck
from rollbackd.judge.situation import Situations
from rollbackd.judge.smoke import Smoke
from rollbackd.judge.timekeeper import Timekeeper
from rollbackd.keeper import Keeper
from rollbackd.keeper.metrics import SnapshotMetrics
from rollbackd.layers import LayerFactory, Layers, LookFailed
from rollbackd.metrics import Metrics
from rollbackd.model import CheckResult, Release
from rollbackd.orders import Orders
from rollbackd.plugins import build_notifier
from rollbackd.policy.changes import UNCONFIRMED
from rollbackd.process import Spawner
from rollbackd.runner import Runner
from rollbackd.sources.alertmanager import Alertmanager, Silence
from rollbackd.sources.prometheus import Prometheus
from rollbackd.sources.signal_files import SignalFiles
from rollbackd.sources.states import Looker
from rollbackd.teller import Teller
from rollbackd.timetable import Timetable
from rollbackd.units import Secret


class Web:
    """The daemon's one HTTP client session, made when it is first needed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What is started, stopped or asked of it from outside."""

    config: Config
    clock: Clock
    book: Book
    live: Live
    jumps: JumpWatch
    layers: dict[str, Layers]
    looker: Looker
    judge: Judge
    intake: Intake
    runner: Runner
    bakery: Bakery
    smoke: Smoke
    polls: Polls | None
    deadlines: Deadlines
    drills: Drills
    keeper: Keeper
    timetable: Timetable
    timekeeper: Timekeeper
    teller: Teller
    desk: Desk
    orders: Orders
    web: Web
    prometheus: Prometheus | None

    async def close(self) -> None:
        """End what has connections or threads; the journal last."""
        await self.runner.stop()
        await self.judge.settle()
        await self.keeper.stop()
        if self.prometheus is not None:
            await self.prometheus.close()
        await self.web.close()
        await self.book.journal.close()


def secrets_in(value: Any) -> Iterator[Secret]:
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
    """What asks the world, and touches it."""

    web: Web
    spawner: Spawner
    prometheus: Prometheus | None
    alertmanager: Alertmanager | None
    factory: LayerFactory
    layers: dict[str, Layers]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judging:
    """What sees trouble, decides on it and drives incidents."""

    live: Live
    jumps: JumpWatch
    examiner: Examiner
    looker: Looker
    holds: Holds
    situations: Situations
    deadlines: Deadlines
    judge: Judge
    intake: Intake
    runner: Runner
    bakery: Bakery
    polls: Polls | None
    smoke: Smoke


async def build(config: Config, journal: Journal, clock: Clock) -> Core:
    """Build every part and read the journal.

    :raises SignalsUnsafe: the signals directory is not safe.
    """
    files = SignalFiles(config.daemon.signals, clock)
    book = Book(journal)
    reading = asyncio.create_task(book.open())  # on the journal's threads, while the rest is built
    await clock.sleep(timedelta())
    reach = _reach(config, clock)
    layers = reach.layers
    keeper = Keeper(config, book, clock, layers, reach.spawner)
    of = _judging(config, book, clock, files, reach, keeper)
    live, judge, intake, runner, holds, looker = of.live, of.judge, of.intake, of.runner, of.holds, of.looker
    keeper.heed(lambda name: holds(name, {}, silences=False))

    def goes_on(service: str, episode: str) -> bool:
        return live.goes_on(service, episode, clock.now())

    def over(service: str, episode: str) -> str:
        if episode.startswith(f"{UNCONFIRMED}/"):
            return of.deadlines.over(service, episode)
        return live.over(service, episode, clock.now())

    timekeeper = Timekeeper(config, book, clock)
    notifiers = {one.name: build_notifier(one.kind, one.settings, reveal, reach.web) for one in config.notify.receivers}
    teller = Teller(journal, config, notifiers, clock, goes_on=goes_on, over=over)
    registry = CollectorRegistry()
    exam = Exam(config, book, clock, of.situations, layers, of.examiner)
    drills = Drills(config, book, clock, live, Fitness(config, book, clock, live, holds), judge, looker, runner, exam)
    desk = Desk(Parts(
        config=config, book=book, clock=clock, live=live, judge=judge, situations=of.situations, examiner=of.examiner,
        intake=intake, holds=holds, bakery=of.bakery, looker=looker, layers=layers, runner=runner, registry=registry,
        drills=drills, keeper=keeper,
    ))  # fmt: skip
    registry.register(
        Metrics(config, book, live, clock, of.bakery, timekeeper, teller.waiting, lambda name: bool(holds(name, {})))
    )
    registry.register(SnapshotMetrics(keeper, clock))
    timetable = Timetable([*keeper.planned(), *DrillCalendar(config, book, clock, drills).planned()], clock)
    orders = Orders(config, book, clock, files, desk)
    await reading
    return Core(
        config=config, clock=clock, book=book, live=live, jumps=of.jumps, layers=layers, looker=looker, judge=judge,
        intake=intake, runner=runner, bakery=of.bakery, smoke=of.smoke, polls=of.polls, deadlines=of.deadlines,
        drills=drills, keeper=keeper, timetable=timetable, timekeeper=timekeeper, teller=teller, desk=desk,
        orders=orders, web=reach.web, prometheus=reach.prometheus,
    )  # fmt: skip


def _reach(config: Config, clock: Clock) -> _Reach:
    web = Web()
    spawner = Spawner(config.daemon.scratch / "locks", clock, those_there(secrets_in(config)))
    asked, watched = config.prometheus, config.alertmanager
    prometheus = Prometheus(asked.url, asked.timeout, clock) if asked is not None else None
    alertmanager = Alertmanager(watched.url, watched.timeout, web) if watched is not None else None
    factory = LayerFactory(config.daemon.scratch, spawner, clock)
    layers = {service.name: factory.build(service) for service in config.services}
    return _Reach(
        web=web, spawner=spawner, prometheus=prometheus, alertmanager=alertmanager, factory=factory, layers=layers
    )


def _judging(config: Config, book: Book, clock: Clock, files: SignalFiles, reach: _Reach, keeper: Keeper) -> _Judging:
    """They need each other in a circle: what is built later is asked for by a function that looks it up when called."""

    def silences() -> tuple[Silence, ...]:
        return intake.silences

    def opened(incident: str) -> None:
        runner.poke(incident)

    def drive(incident: str) -> None:
        runner.start(incident)

    async def examine(service: Service) -> tuple[CheckResult, ...]:
        return await examiner.run(service, tuple(service.checks))

    prometheus, layers, factory = reach.prometheus, reach.layers, reach.factory
    live = Live(config, book.undone)
    compare = Comparison(config, book, live, clock, prometheus)
    releases = _releases(layers, factory)
    examiner = Examiner(Surroundings(reach.spawner, clock, reach.web, prometheus, releases, compare))
    jumps = JumpWatch(clock)
    looker = Looker(book, layers, clock, config.daemon.look_every, keeper.being_restored)
    holds = Holds(config, book, files, clock, silences)
    past = Past(live, Before(config, book, live, clock, prometheus), prometheus)
    situations = Situations(config, book, live, clock, jumps, holds, layers, looker, past, keeper.poke)
    deadlines = Deadlines(config, book, clock)
    judge = Judge(config, book, live, clock, situations, opened, drive, examine, deadlines.due)
    intake = Intake(book, live, judge, clock, reach.alertmanager)
    asking = Asking(config, book, live, situations)
    recheck = Recheck(config, book, live, clock, situations, holds, examiner, prometheus)
    runner = Runner(book, clock, factory, examiner, recheck.judgement(asking), config.limits.concurrent)
    bakery = Bakery(config, book, live, clock, jumps, holds, examiner, looker.problems)
    polls = Polls(config, book, live, judge, clock, prometheus) if prometheus is not None else None
    smoke = Smoke(config, book, live, judge, clock, examiner)
    return _Judging(
        live=live, jumps=jumps, examiner=examiner, looker=looker, holds=holds, situations=situations,
        deadlines=deadlines, judge=judge, intake=intake, runner=runner, bakery=bakery, polls=polls, smoke=smoke,
    )  # fmt: skip


def _releases(
    layers: Mapping[str, Layers], factory: LayerFactory
) -> Callable[[Service, str], Awaitable[Sequence[Release]]]:
    """Asks a layer of a service; of one in an older configuration too, which an incident finishes under."""

    async def releases(service: Service, layer: str) -> Sequence[Release]:
        known = layers.get(service.name)
        asked = known if known is not None and known.service == service else factory.build(service)
        try:
            return await asked.releases(layer)
        except LookFailed as error:
            raise AdapterError(str(error), permanent=False) from error

    return releases


def spread(index: int, count: int, over: timedelta) -> timedelta:
    """When the one of many with this index begins, so that they do not all begin at once."""
    return over * index / max(1, count)
