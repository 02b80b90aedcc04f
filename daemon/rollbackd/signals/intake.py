"""The intake: signals go into the inbox first, then to the rules. What was answered 200 is on disk."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from rollbackd import facts
from rollbackd.journal import Arrived, JournalUnavailable, Receipt, Received, until_written
from rollbackd.model import Alert, Event, Trigger
from rollbackd.rules.spec import LONGEST_WITHIN
from rollbackd.signals.alertmanager_client import Alertmanager, Unreachable
from rollbackd.signals.alertmanager_webhook import (
    TEST,
    WebhookPayload,
    alert_from_json,
    alert_to_json,
    inbox_key,
    is_elsewhere,
)
from rollbackd.signals.events import Posted, event_from_json, event_key, event_of, event_to_json
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.silences import Silence
from rollbackd.signals.triggers import TriggerSink
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import in_turns

SOURCE = "alert"
EVENTS = "event"
_MEMORY = timedelta(days=1)
"""How far back the inbox is read at a start, for alerts that may still fire."""
_PORTION = 32
"""How many alerts go to the rules before other work has its turn."""
_MANY = 8
"""How many waiting deliveries make a storm, in which writing to disk is more urgent than deciding."""
_REST = 25
"""How long nothing more is decided in a storm, as a multiple of what the last portion took."""
_LONGEST_REST = timedelta(seconds=1)

_FAILURES = 5
"""After so many asks in a row without an answer people are told."""

Stored = tuple[Arrived, Alert | Event, str]
"""An alert or an event on disk, with its service."""


@dataclass(frozen=True, slots=True)
class EventReceipt:
    """What became of a delivery of events; what was accepted is on disk."""

    accepted: int
    duplicates: int
    unmatched: tuple[str, ...]
    """A sentence each on why no rule asks for it."""


class SignalIntake:
    """Takes signals by every way there is: posted, from the inbox after a restart, from Alertmanager's own list."""

    def __init__(
        self,
        read_model: ReadModel,
        rule_states: RuleStates,
        triggers: TriggerSink,
        clock: Clock,
        alertmanager: Alertmanager | None,
    ) -> None:
        self._read_model = read_model
        self._rule_states = rule_states
        self._triggers = triggers
        self._clock = clock
        self._alertmanager = alertmanager
        self._silences: tuple[Silence, ...] = ()
        self._unread: frozenset[str] = frozenset()
        """Silences that people were told of: some of them cannot be read."""
        self._elsewhere: set[str] = set()
        """Fingerprints of alerts that no Alertmanager knows of: Grafana's own."""
        self._failures = 0
        """How many asks in a row Alertmanager did not answer."""
        self._waiting = 0
        """How many deliveries are not on disk yet."""
        self._pressure = 0
        """The most of them since the last portion, so that deliveries during a rest count, too."""
        self._unjudged: deque[Stored] = deque()
        self.unreachable = ""
        """Why Alertmanager did not answer last; empty when it did, or when there is none."""
        self.posted: datetime | None = None
        """When alerts were posted last; None since the start."""
        self._log = log.get("intake")

    @property
    def silences(self) -> tuple[Silence, ...]:
        """The silences that were active when Alertmanager was asked last."""
        return self._silences

    async def receive(
        self, alerts: Sequence[Alert], *, elsewhere: bool = False, surely: bool = False
    ) -> tuple[int, int, int]:
        """Take alerts; accepted, duplicates, unmatched. On disk when it returns.

        :param elsewhere: no Alertmanager knows of them.
        :param surely: they fire right now, as Alertmanager itself says.
        :raises JournalUnavailable: nothing was kept.
        """
        wanted: dict[str, tuple[Alert, str]] = {}
        items: list[Received] = []
        unmatched = 0
        duplicates = 0
        async for alert in in_turns(alerts):
            service = self._rule_states.wanted(alert.labels) if TEST not in alert.labels else None
            key = inbox_key(alert)
            if service is None:
                unmatched += 1
            elif key in wanted:
                duplicates += 1
            else:
                wanted[key] = (alert, service)
                items.append(Received(key, SOURCE, alert_to_json(alert, elsewhere=elsewhere)))
        if not wanted:
            return 0, duplicates, unmatched
        receipt = await self._store(items)
        now = self._clock.now()
        late = set()
        async for key, (alert, service) in in_turns(wanted.items()):
            if not self._rule_states.hear(alert, service, now, surely=surely):
                late.add(key)
                continue
            self._place(alert, elsewhere=elsewhere)
        self._judge_soon([(row, *wanted[row.key]) for row in receipt.new if row.key not in late])
        if settled := [row.id for row in receipt.new if row.key in late]:
            await self._read_model.journal.handled(settled)
        return len(receipt.new), duplicates + len(receipt.again), unmatched

    async def report(self, posted: Sequence[Posted]) -> EventReceipt:
        """Take events; they are on disk when it returns.

        :raises EventError: one has a time that cannot be; nothing was kept.
        :raises JournalUnavailable: nothing was kept.
        """
        now = self._clock.now()
        wanted: dict[str, tuple[Event, str]] = {}
        unmatched = []
        duplicates = 0
        async for event in in_turns([event_of(one, now) async for one in in_turns(posted)]):
            service, why = self._rule_states.placed(event)
            if service is None:
                unmatched.append(why)
                continue
            duplicates += event_key(event, service) in wanted
            wanted.setdefault(event_key(event, service), (event, service))
        if not wanted:
            return EventReceipt(0, duplicates, tuple(unmatched))
        items = [Received(key, EVENTS, event_to_json(event)) async for key, (event, _) in in_turns(wanted.items())]
        receipt = await self._store(items)
        async for row in in_turns(receipt.new):
            self._rule_states.report(*wanted[row.key], row.at)
        self._judge_soon([(row, *wanted[row.key]) for row in receipt.new])
        return EventReceipt(len(receipt.new), duplicates + len(receipt.again), tuple(unmatched))

    async def _store(self, items: Sequence[Received]) -> Receipt:
        self._waiting += 1
        self._pressure = max(self._pressure, self._waiting)
        try:
            return await self._read_model.receive(items)
        finally:
            self._waiting -= 1

    def _judge_soon(self, rows: Sequence[Stored]) -> None:
        """Decide soon. The rules know all of a delivery before any of it is decided: a common cause shows at once."""
        self._unjudged.extend(rows)
        if self._unjudged and not self._triggers.behind:
            self._triggers.behind = True
            self._triggers.run_soon(self._judge_all())

    async def _judge_all(self) -> None:
        """Decide by portions; in a storm of deliveries this takes a small part of the time."""
        try:
            while self._unjudged:
                begun = self._clock.monotonic()
                await self._judge_some([self._unjudged.popleft() for _ in range(min(_PORTION, len(self._unjudged)))])
                await self._clock.sleep(timedelta())
                pressure, self._pressure = self._pressure, self._waiting
                if pressure >= _MANY:
                    took = timedelta(seconds=self._clock.monotonic() - begun)
                    await self._clock.sleep(min(_REST * took, _LONGEST_REST))
        finally:
            self._triggers.behind = False

    async def _judge_some(self, rows: Sequence[Stored]) -> None:
        nothing = []
        for row, signal, service in rows:
            triggers = self._met(row, signal, service)
            for trigger in triggers:
                self._triggers.consider_soon(trigger, handled=(row.id,))
            if not triggers:
                nothing.append(row.id)
        if nothing:
            try:
                await self._read_model.journal.handled(nothing)
            except JournalUnavailable as error:
                self._log.warning("could not note that signals led to nothing", error=str(error))

    def _met(self, row: Arrived, signal: Alert | Event, service: str) -> list[Trigger]:
        """The triggers of a signal.

        An event counts as of when it came, though nobody decided on it then. One more event of an episode that was
        decided on is no news.
        """
        if not signal.firing:
            return []
        if isinstance(signal, Event):
            known = self._read_model.of(service).episodes
            met = self._rule_states.triggers_of_event(signal, service, row.at)
            return [trigger for trigger in met if trigger.episode not in known]
        return self._rule_states.triggers_of(signal, service, self._clock.now())

    async def recall(self) -> None:
        """At a start, before anything else, tell the rules what fired at the end of the last run, and recent events."""
        now = self._clock.now()
        for source, back in ((SOURCE, _MEMORY), (EVENTS, LONGEST_WITHIN)):
            for row in await self._read_model.journal.arrived(source, now - back):
                signal, service = self._placed(row)
                if service is None:
                    continue
                if isinstance(signal, Event):
                    self._rule_states.report(signal, service, row.at)
                elif self._rule_states.hear(signal, service, row.seen):
                    self._place(signal, elsewhere=is_elsewhere(row.body))

    def _place(self, alert: Alert, *, elsewhere: bool) -> None:
        """Note whether an alert that fires is known to no Alertmanager."""
        (self._elsewhere.add if elsewhere and alert.firing else self._elsewhere.discard)(alert.fingerprint)

    async def recover(self) -> None:
        """After a start, take what Alertmanager says fires and is silenced, and what came and was not decided on."""
        await self.ask()
        waiting: list[Stored] = []
        nobodys: list[int] = []
        for row in await self._read_model.journal.unhandled():
            if row.source not in {SOURCE, EVENTS}:
                continue
            signal, service = self._placed(row)
            if service is None:
                nobodys.append(row.id)
            else:
                waiting.append((row, signal, service))
        if nobodys:
            await self._read_model.journal.handled(nobodys)
        self._judge_soon(waiting)

    def _placed(self, row: Arrived) -> tuple[Alert | Event, str | None]:
        if row.source == EVENTS:
            event = event_from_json(row.body)
            return event, self._rule_states.placed(event)[0]
        alert = alert_from_json(row.body)
        return alert, self._rule_states.wanted(alert.labels)

    async def run(self, every: timedelta) -> None:
        """Ask Alertmanager every so often for its silences, and for alerts that a lost delivery kept from us."""
        say = partial(self._log.warning, "what Alertmanager says could not be stored")
        while True:
            await self._clock.sleep(every)
            await until_written(self.ask, self._clock, every, say)

    async def ask(self) -> None:
        """Take what fires and what is silenced from Alertmanager itself, if one is configured and answers.

        An alert that it does not know of, and that was heard of before the ask, has ended, though nobody said so: it
        was silenced or inhibited when it did, or its end was lost.
        """
        if self._alertmanager is None:
            return
        asked = self._clock.now()
        try:
            self._silences = tuple(await self._alertmanager.silences())
            await self._tell_unread()
            firing = await self._alertmanager.firing(asked)
        except Unreachable as error:
            await self._unanswered(str(error))
            return
        if self._failures >= _FAILURES:
            await self._read_model.tell(_unreachable("Alertmanager answers again", over=True))
        self._failures, self.unreachable = 0, ""
        if firing.whole:
            living = firing.known | self._elsewhere
            self._rule_states.forget_alerts(lambda name, heard: name not in living and heard < asked)
        await self.receive(firing.alerts, surely=True)

    async def _unanswered(self, why: str) -> None:
        """Alertmanager failing is a notice after some asks in a row, as Prometheus failing is."""
        if self.unreachable != why:
            self._log.warning("Alertmanager does not answer", error=why)
        self.unreachable = why
        self._failures += 1
        if self._failures == _FAILURES:
            text = (
                f"Alertmanager did not answer {_FAILURES} times in a row: {why}; what fires is known by webhook alone"
            )
            await self._read_model.tell(_unreachable(text))

    async def _tell_unread(self) -> None:
        """Silences of which some cannot be read: told once, however many there are."""
        unread = {one.id: one for one in self._silences if one.unread}
        new = [one for id_, one in unread.items() if id_ not in self._unread]
        self._unread = frozenset(unread)
        if new:
            first = f"a silence by {new[0].created_by} counts as matching more than it may mean: {new[0].unread}"
            more = f" (and {len(new) - 1} more silences)" if len(new) > 1 else ""
            text = f"{first}{more}; write it anew in Alertmanager, or let it expire"
            await self._read_model.tell(facts.Notice("silence_unread", text))

    async def complete(self, webhook: WebhookPayload) -> None:
        """Complete a truncated group from Alertmanager's API, where that can be."""
        if not webhook.truncated or self._alertmanager is None:
            return
        try:
            await self.receive(await self._alertmanager.group(webhook.receiver, webhook.group_labels))
        except (Unreachable, JournalUnavailable) as error:
            self._log.warning("a truncated group could not be completed", group=webhook.group_key, error=str(error))


def _unreachable(text: str, *, over: bool = False) -> facts.Notice:
    return facts.Notice("backend_unreachable", text, over=over, details={"subject": "alertmanager"})
