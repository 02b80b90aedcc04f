"""The daemon process: build, serve, watch, stop at a boundary, execute itself anew on SIGHUP."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rollbackd import facts
from rollbackd.api.application import INTAKE, build_app
from rollbackd.api.passing import EVERY, PassedOrders
from rollbackd.api.server import CannotListenError, Server
from rollbackd.config.load import ConfigErrors, load
from rollbackd.config.models import Config, Heartbeat
from rollbackd.config.secrets import reveal
from rollbackd.core import Core, build
from rollbackd.execution.runner import process_name
from rollbackd.journal import (
    Access,
    Entry,
    Journal,
    JournalDamaged,
    JournalInUse,
    JournalRefused,
    JournalTaken,
    JournalUnavailable,
    Unwritten,
    driving,
    open_journal,
    until_written,
    write_unwritten,
)
from rollbackd.model import DAEMON, FLEET, Request
from rollbackd.notify.messages import self_notices
from rollbackd.notify.untold import Untold
from rollbackd.page import add_page
from rollbackd.policy.guards import ago
from rollbackd.policy.target import candidates
from rollbackd.signals.signal_files import SignalsUnsafe
from rollbackd.standby import Standby
from rollbackd.state.checkpoint import Checkpoint
from rollbackd.state.journal_access import access_of, unwritten_of
from rollbackd.syntax.units import Secret, format_duration
from rollbackd.system import log, sd_notify, step_processes
from rollbackd.system.clock import Clock, SystemClock, boot_microseconds
from rollbackd.system.descriptors import raise_limit
from rollbackd.system.http_client import HttpError, http_answer
from rollbackd.system.http_connection import DIRECT, connection_of
from rollbackd.system.name_lookup import EventLoop
from rollbackd.system.process_one import leave_process_one
from rollbackd.system.rounds import Rounds, Work
from rollbackd.system.tasks import end
from rollbackd.system.vitals import PartDied, stir
from rollbackd.views.presenters import sentence
from rollbackd.views.shapes import IncidentView, RecordView

if TYPE_CHECKING:
    from rollbackd.journal.lease import Lease

_AGAIN = timedelta(seconds=5)
"""The pause before a root task that failed is started again."""
_QUIET = timedelta(hours=1)
"""The time between two notices about the same root task."""
_HEARTBEAT = timedelta(minutes=1)
_AT_ONCE = 8
"""How many services have their layers looked at together at a start."""
_FILE_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""As many as asyncio has for `to_thread`."""
_DISK_LOOK = timedelta(seconds=2)
_LAST_STEP = timedelta(minutes=11)
"""How long the step in hand is waited for when a part of the daemon has died, as systemd waits when we are stopped."""
_LAST_WORDS = timedelta(seconds=5)
_ANSWERED = 0.2
"""Seconds in which an order to give the journal away is answered."""
_TAKEN_LOOK = timedelta(milliseconds=200)
_TAKEN_WITHIN = 50
"""Looks whether another host has taken it."""

StartFailed = (ConfigErrors, SignalsUnsafe, CannotListenError, JournalRefused, JournalDamaged, JournalUnavailable)
"""What a user can cause at a start; each error is a sentence."""


class DaemonProcess:
    """One run, from start to stop."""

    def __init__(self, path: Path, config: Config, core: Core, lease: "Lease | None" = None) -> None:
        self._path = path
        self._lease = lease
        self.gives_away = False
        """Whether another host is to drive when we end."""
        self._stays = False
        """Whether we drive again right after we ended."""
        self._config = config
        self._core = core
        self._clock = core.clock
        app = build_app(core.operations, config.daemon, reveal, core.slack_orders)
        self._passed = PassedOrders(core.operations, app[INTAKE], core.read_model, core.clock)
        add_page(app, core.operations, config.daemon, core.clock)
        self._server = Server(app, config.daemon.listen, config.daemon.socket)
        self._tasks: list[asyncio.Task[object]] = []
        self._ending: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when the process is to end; True: execute anew. Raises `PartDied` when we end untold."""
        self._quiet_until: dict[str, float] = {}
        """When the next failure of a root task may be told."""
        self._log = log.get("daemon")
        core.read_model.subscribe(self._log_fact)

    def _log_fact(self, record: facts.Record) -> None:
        """What people and programs order, and what checks say; decisions and ends are logged where they are made."""
        if record.actor != DAEMON or isinstance(record.fact, facts.Round | facts.Gated):
            kind = type(record.fact).__name__
            self._log.info(kind, stream=record.stream, actor=record.actor, says=sentence(record.fact))

    async def run(self) -> bool:
        """Serve until told to stop; returns whether to execute anew. :raises CannotListenError: PartDied:"""
        await self._core.intake.recall()
        await self._server.start()
        try:
            self._watch_signals()
            self._core.lag.watch()
            self._core.vitals.on_death = self._part_died
            self._watch_threads()
            if self._config.daemon.standby:
                with suppress(JournalUnavailable):  # before anything is decided by a clock that may be wrong
                    await self._core.membership.attend()
            self._start_tasks()
            spare_what_stays()
            sd_notify.notify(sd_notify.READY, sd_notify.status(f"watching {len(self._config.services)} services"))
            self._log.info("ready", listen=self._config.daemon.listen, services=len(self._config.services))
            again = await self._ending
            if not again:  # systemd takes it at its word, and would end the process that comes next
                sd_notify.notify(sd_notify.STOPPING)
            return again
        finally:
            await self._stop()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _watch_threads(self) -> None:
        vitals = self._core.vitals
        for part, ask in self._core.read_model.journal.pulses().items():
            vitals.watch_pulse(part, ask)
        vitals.watch_pulse("the threads for files", partial(stir, None, _FILE_THREADS))

    def _part_died(self, reason: str) -> None:
        """Say so to whoever looks, and end: the next start has all its parts again."""
        self._log.critical("a part of the daemon has died; it ends, to be started anew", reason=reason)
        sd_notify.notify(sd_notify.status(f"ends, to be started anew: {reason}"))
        if not self._ending.done():
            self._ending.set_exception(PartDied(reason))

    def stop(self, again: bool = False) -> None:
        """End at the next boundary."""
        if not self._ending.done():
            self._ending.set_result(again)

    def _give_away(self) -> None:
        self.gives_away = True
        asyncio.get_running_loop().call_later(_ANSWERED, self.stop, True)

    def _reload(self) -> None:
        """Check the file; with errors nothing changes."""
        try:
            load(self._path)
        except ConfigErrors as error:
            self._log.error("the configuration has errors; nothing changes", errors=str(error).splitlines())
            sd_notify.notify(sd_notify.status("the new configuration has errors, the old one stays"))
            text = f"the configuration was not taken over, the old one stays: {error}"
            self._core.decision_engine.run_soon(self._core.read_model.tell(facts.Notice("configuration", text)))
            return
        self._log.info("the configuration is fine; starting anew with it")
        self._stays = True
        sd_notify.notify(sd_notify.reloading(boot_microseconds()))
        self.stop(again=True)

    # -- root tasks -----------------------------------------------------------------------------
    def _start_tasks(self) -> None:
        core = self._core
        core.snapshot_manager.expect()
        # The names of tasks are in notices to people, whose words stay.
        self._root("teller", core.dispatcher.run)
        self._root("resume", self._resume, ends=True)
        self._root("judge", core.decision_engine.run)
        self._root("timekeeper", core.incident_clocks.run)
        self._root("orders", core.orders.run)
        if self._config.daemon.standby:
            self._root("passed", self._passed.run)
            self._root("host holds", self._publish_holds)
            self._root("membership", core.membership.run)
            core.operations.give_away = self._give_away
        if core.slack_orders is not None:
            self._root("slack orders", core.slack_orders.run)
            if core.slack_orders.opens_sockets:
                from rollbackd.api.slack_sockets import SlackSockets

                self._root("slack sockets", SlackSockets(core.slack_orders, core.read_model, self._clock).run)
        self._root("snapshots", core.snapshot_manager.run)
        self._root("timetable", self._keep_to_the_calendar)
        self._root("drills", core.drills.run)
        self._root("evidence", core.evidence_taker.run)
        self._root("measurements", core.measurement_taker.run)
        self._root("disk", self._watch_disk)
        self._root("threads", partial(core.vitals.watch_threads, self._clock))
        self._root("clock", partial(core.jumps.run, self._clock_jumped))
        if (directory := self._config.daemon.reports) is not None:
            self._root("reports", lambda: core.reports.run(directory))
        if self._config.alertmanager is not None:
            self._root("alertmanager", lambda: core.intake.run(self._config.daemon.look_every))
        if core.polls is not None:
            self._root("polls", core.polls.run)
        core.services_follower.on_change = self._reload
        turns = (
            *core.state_watcher.turns(),
            *core.bake_timer.turns(),
            *core.smoke.turns(),
            *core.services_follower.turns(),
        )
        self._root("rounds", Rounds(turns, self._clock, partial(self._begin, ends=True)).run, ends=not turns)
        if (interval := sd_notify.watchdog_interval()) is not None:
            self._root("watchdog", lambda: self._feed_watchdog(interval / 2))
        if self._config.daemon.heartbeat:
            self._root("heartbeat", self._heartbeat)

    def _root(self, name: str, work: Work, *, ends: bool = False) -> None:
        self._tasks.append(self._begin(name, work, ends=ends))

    def _begin(self, name: str, work: Work, *, ends: bool = False) -> asyncio.Task[object]:
        task = asyncio.create_task(self._forever(name, work), name=name)
        self._core.vitals.watch_task(task, ends=ends)
        return task

    async def _forever(self, name: str, work: Work) -> object:
        say = partial(self._log.error, "the journal cannot be used; trying again", task=name)
        while True:
            try:
                return await until_written(work, self._clock, _AGAIN, say)
            except JournalTaken:  # we end as soon as the step in hand has
                await self._clock.sleep(_AGAIN)
            except Exception as error:  # noqa: BLE001  # a root task must survive; it is started again, and people are told
                self._log.exception("a part of the daemon failed and is started again", task=name)
                why = f"{type(error).__name__}: {error}"
                self._core.vitals.fails(name, why)
                if self._clock.monotonic() >= self._quiet_until.get(name, 0):
                    self._quiet_until[name] = self._clock.monotonic() + _QUIET.total_seconds()
                    text = f"{name} failed and is started again: {why}"
                    await self._core.read_model.tell(facts.Notice("internal", text))
                await self._clock.sleep(_AGAIN)
                self._core.vitals.works(name)

    async def _resume(self) -> None:
        """Go on with what a crash or a stop cut off, then with signals that came and were not decided on."""
        await self._say_what_is_elsewhere()
        for name in self._core.read_model.open_incidents():
            self._core.runner.start(name)
        await self._core.intake.recover()
        for name in self._core.read_model.last_incidents():
            incident = await self._core.read_model.incident(name)
            if incident is not None and incident.inside:
                self._core.runner.start(name)
        await self._say_what_cannot_be_rolled_back()
        await self._core.operations.say_what_stands_midway()
        self._root("readiness", self._core.readiness_watch.run)

    async def _say_what_is_elsewhere(self) -> None:
        """Tell people of services that are bound to another host than this one, which drives; and when that is over."""
        bound = [one for one in self._config.services if one.on] if self._config.daemon.standby else []
        notices = await self._core.read_model.journal.latest(facts.kinds(facts.Notice), FLEET, 500) if bound else []
        told = {one.fact.service: one.fact for one in reversed(notices) if "on" in one.fact.details}
        here = self._config.daemon.here
        for service in bound:
            last = told.get(service.name)
            over = service.on == here
            text = f"cannot roll back {service.name}: it is on {service.on}, and {here} drives"
            if over:
                text = f"{service.name} can be rolled back again: {here} drives"
            if over != (last is None or last.over):
                notice = facts.Notice("cannot_roll_back", text, service.name, over, {"on": service.on})
                await self._core.read_model.tell(notice)

    async def _say_what_cannot_be_rolled_back(self) -> None:
        """Tell people what cannot be rolled back: once for each service and reason, after its layers were looked at."""
        notices = await self._core.read_model.journal.latest(facts.kinds(facts.Notice), FLEET, 500)
        told = {record.fact.service for record in notices if record.fact.kind == "cannot_roll_back"}
        services = iter(self._config.services)

        async def look() -> None:
            for service in services:
                await self._core.state_watcher.look(service.name)

        await asyncio.gather(*(look() for _ in range(_AT_ONCE)))
        for service in self._config.services:
            ledger = self._core.read_model.of(service.name)
            if not candidates(ledger, ledger.present) and service.name not in told and ledger.open is None:
                text = f"cannot roll back {service.name} yet: {self._core.operations.cannot(service)}"
                await self._core.read_model.tell(facts.Notice("cannot_roll_back", text, service.name))

    async def _publish_holds(self) -> None:
        while True:
            await self._core.host_holds.publish()
            await self._clock.sleep(EVERY)

    async def _keep_to_the_calendar(self) -> None:
        await self._core.snapshot_manager.open()
        await self._core.upkeep.open()
        await self._core.reports.open()
        await self._core.timetable.run()

    async def _feed_watchdog(self, every: timedelta) -> None:
        while True:
            sd_notify.notify(sd_notify.WATCHDOG)
            await self._clock.sleep(every)

    async def _heartbeat(self) -> None:
        while True:
            readiness = await self._core.operations.readiness()
            if readiness.ready:
                try:
                    await self._beat(self._config.daemon.heartbeat)
                except (HttpError, ValueError, OSError) as failed:  # no words name a URL, which may be a secret
                    self._log.warning("the heartbeat could not be sent", error=str(failed))
            await self._clock.sleep(_HEARTBEAT)

    async def _beat(self, heartbeat: str | Heartbeat) -> None:
        """Call it once. :raises HttpError: ValueError: OSError: it could not be called."""
        connection = connection_of(heartbeat, reveal) if isinstance(heartbeat, Heartbeat) else DIRECT
        where = heartbeat.url if isinstance(heartbeat, Heartbeat) else heartbeat
        url = reveal(where).strip() if isinstance(where, Secret) else where
        async with http_answer(self._core.web(), "GET", url, redirects=10, connection=connection) as answer:
            if answer.status >= 300:
                self._log.warning("the heartbeat was refused", status=answer.status)

    async def _clock_jumped(self, length: timedelta) -> None:
        """Tell people that wall time went another way than monotonic time."""
        how = f"set back by {ago(-length)}" if length < timedelta() else f"set forward by {ago(length)}, or we slept"
        wait = format_duration(self._config.limits.stale_after)
        self._log.warning("the clock jumped", seconds=length.total_seconds())
        text = f"our clock was {how}; for {wait} nothing is rolled back by itself, people are asked"
        await self._core.read_model.tell(facts.Notice("clock", text))

    async def _watch_disk(self) -> None:
        """Tell people directly while the journal cannot be written, and try until it can."""
        read_model, dispatcher = self._core.read_model, self._core.dispatcher
        told = ""
        while True:
            await self._clock.sleep(_DISK_LOOK)
            hanging = self._core.vitals.hanging
            trouble = read_model.trouble or dispatcher.trouble or (hanging if "journal" in hanging else "")
            if trouble:
                told = trouble
                await dispatcher.tell_directly(self_notices.unrecorded(self._clock.now(), trouble))
            if told:
                with suppress(JournalUnavailable):
                    text = f"the journal can be written again; before: {told}"
                    await read_model.append(Entry(FLEET, facts.Notice("journal", text, over=True)))
                    told = dispatcher.trouble = ""

    async def _stop(self) -> None:
        """Finish effects in hand, and take alerts until then; then close everything."""
        if self._core.vitals.death:
            await self._leave(self._core.vitals.death)
            return
        self._core.vitals.on_death = lambda _: None
        await self._core.runner.stop()
        if self._lease is not None and not self._stays:  # who stands by need not wait for the rest
            await end(self._tasks)
            await self._core.rest()
            if not self.gives_away:
                await self._core.membership.leave()
            await asyncio.to_thread(self._lease.release)
        await self._server.stop()
        await end(self._tasks)
        await self._core.close()

    async def _leave(self, reason: str) -> None:
        """End without one of the parts: tell people, and finish an effect in hand where that can be written."""
        taken = self._core.read_model.journal.taken
        unwritten = self._core.vitals.journal_died and not taken
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS.total_seconds()):
                text = f"{reason}; rollbackd ended, to be started anew"
                if taken:
                    self._log.info("people are told by the daemon that drives now")
                elif unwritten:
                    await self._core.dispatcher.tell_directly(self_notices.unrecorded(self._clock.now(), text))
                else:
                    await self._core.read_model.tell(facts.Notice("internal", text))
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if unwritten else _LAST_STEP.total_seconds()):
                await self._core.runner.stop()


def spare_what_stays() -> None:
    """Keep collections from walking through the large heap of thousands of services, which lives as long as we do."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


async def _serve(path: Path, clock: Clock) -> bool:
    gc.disable()  # until all is read: of what is built now hardly anything is garbage
    loaded = load(path)
    gc.collect()
    log.configure(loaded.config.daemon.log_level)
    daemon, untold = loaded.config.daemon, Untold(loaded.config, clock)
    url, access = daemon.journal, access_of(daemon)
    place = _JournalPlace(url, access, clock, unwritten_of(daemon))
    standby = Standby(path, loaded.config, untold, clock, place.report_late) if daemon.standby else None
    name = daemon.here if standby is not None else ""
    opened = False
    try:
        if standby is not None:
            standby.watch_signals()
        async with driving(url, access, clock, process_name(), daemon.whereabouts, standby, name) as lease:
            known = await standby.close() if standby is not None else None
            journal = await place.open(lease)
            core = await build(loaded.config, journal, clock, Checkpoint(url, access), known)
            opened = True
            await untold.over(core.read_model)
            if lease is not None and lease.predecessor:
                await core.read_model.tell(self_notices.taken_over(lease.host, lease.predecessor))
            return await _run(DaemonProcess(path, loaded.config, core, lease), lease, clock)
    except asyncio.CancelledError:
        if standby is not None and standby.taken is not None:
            raise standby.taken from None
        if standby is None or standby.again is None:
            raise
        return standby.again
    except JournalInUse:
        await place.report_late()
        raise
    except JournalUnavailable as error:
        if not opened:
            await untold.tell(str(error))
        raise
    finally:
        if standby is not None:
            await standby.close()


async def _run(process: DaemonProcess, lease: "Lease | None", clock: Clock) -> bool:
    """Run it until it is told to stop; whether to execute anew, with the lease or without."""
    try:
        again = await process.run()
    except PartDied as death:
        log.say(f"rollbackd ends: {death}")
        # As if killed, which every start can go on from: nobody knows what still waits for what has died.
        os._exit(1)
    if again and lease is not None:
        if process.gives_away:
            await _until_taken(lease, clock)
        else:
            lease.stay()
    return again


@dataclass(frozen=True, slots=True)
class _JournalPlace:
    """Where the journal is, and what this host has not written there yet."""

    url: str
    access: Access
    clock: Clock
    unwritten: Unwritten | None

    async def open(self, lease: "Lease | None") -> Journal:
        """The journal, with what was done here in it. Raises as `open_journal` does."""
        journal = await open_journal(self.url, self.clock, self.access, lease)
        if self.unwritten is not None:
            await write_unwritten(journal, self.unwritten)
        return journal

    async def report_late(self) -> None:
        """Write what was done here while this host drove, though another one drives now; best effort."""
        if self.unwritten is None or self.unwritten.empty:
            return
        with suppress(JournalUnavailable, JournalRefused):
            await (await self.open(None)).close()


async def _until_taken(lease: "Lease", clock: Clock) -> None:
    """Wait a while for another host: who starts anew at once would be the first to take it."""
    for _ in range(_TAKEN_WITHIN):
        with suppress(JournalUnavailable, JournalRefused):
            if await asyncio.to_thread(lease.is_taken):
                return
        await clock.sleep(_TAKEN_LOOK)


def run(path: Path, clock: Clock | None = None) -> int:
    """Run the daemon until it is told to stop. Exit code 0, or 1 when it could not start, or had to end."""
    _occupy_standard_descriptors()
    step_processes.keep_orphans(in_container=leave_process_one())
    raise_limit()
    try:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            again = runner.run(_serve(path, clock or SystemClock()))
    except StartFailed as error:
        log.say(str(error))
        return 1
    except asyncio.CancelledError:
        log.say("rollbackd ends: its main task was cancelled")
        return 1
    if again:
        log.finish()
        # -P: not from the directory that we happen to be in, where anybody's `yaml.py` may lie
        os.execv(sys.executable, [sys.executable, "-P", "-m", "rollbackd", "run", "--config", str(path)])  # noqa: S606  # ourselves
    return 0


def _occupy_standard_descriptors() -> None:
    """Where one was closed before the start, the journal would take its number, and whatever is printed go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


async def offline_rollback(path: Path, request: Request, on_record: Callable[[RecordView], None]) -> IncidentView:
    """Do a person's rollback with the daemon stopped, with the same journal, runner and messages; returns how it ended.

    Secrets that only the daemon has stop nothing that does not ask for them.

    :raises ConfigErrors: JournalRefused: OrderRefused: UnknownName: InvalidOrder: each with what to do.
    """
    clock = SystemClock()
    config = load(path, look_for=None).config
    log.configure("error")
    url, access = config.daemon.journal, access_of(config.daemon)
    async with driving(url, access, clock, process_name(), config.daemon.whereabouts) as lease:
        place = _JournalPlace(url, access, clock, unwritten_of(config.daemon))
        core = await build(config, await place.open(lease), clock, Checkpoint(url, access))
        sending = asyncio.create_task(core.dispatcher.run())
        try:
            await core.intake.recall()
            name = await core.operations.rollback(replace(request, actor=f"{request.actor}{config.daemon.of_host}"))
            return await _follow(core, name, on_record)
        finally:
            with suppress(TimeoutError):
                await core.dispatcher.flush(timedelta(seconds=30))
            await end((sending,))
            await core.close()


async def _follow(core: Core, name: str, on_record: Callable[[RecordView], None]) -> IncidentView:
    after = 0
    while True:
        detail = await core.operations.incident(name, after, timedelta(seconds=5))
        for view in detail.records:
            on_record(view)
            after = view.n
        if detail.incident.outcome or detail.incident.status == "parked":
            return detail.incident
        if taken := core.read_model.journal.taken:
            raise JournalTaken(f"{taken}; {name} is left to it, and no other step is begun here")
