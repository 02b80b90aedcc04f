"""Events that were reported and may still count. No I/O; bounded in age and number, and heard again at a start."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from rollbackd.model import Event
from rollbackd.policy.ledger import Rollback
from rollbackd.rules.conditions import Condition, of_events
from rollbackd.rules.events import EventRun, counting, fits, met, step
from rollbackd.rules.spec import MOST_EVENTS, EventWhen, Rule

Asked = tuple[Rule, int, EventWhen]
"""Rule, position of the condition in it, and the condition."""


class ReportedEvents:
    """The events that rules ask for, by service and name, and the runs that they make.

    What an event changes is worked out when it is heard. So looking at it costs the same for one as for many, and a
    start that hears the inbox again in its order comes to the same runs.

    Events until the last step of a rollback that recovered are of another state, and are forgotten. After a rollback
    that did not recover they stay until something is reported again, which is trouble of its own.
    """

    def __init__(self, rules: Sequence[Rule], undone: Callable[[str], Rollback | None]) -> None:
        self._asked: dict[str, list[Asked]] = {}
        for rule in rules:
            for position, leaf in enumerate(rule.leaves):
                if isinstance(leaf, EventWhen):
                    self._asked.setdefault(leaf.event, []).append((rule, position, leaf))
        self._longest = {name: max(leaf.within for _, _, leaf in asked) for name, asked in self._asked.items()}
        self._all = max(self._longest.values(), default=timedelta())
        self._events: OrderedDict[tuple[str, str], list[Event]] = OrderedDict()
        """By service and name, in the order of their times; the event that was heard of last stands last."""
        self._runs: dict[tuple[str, int, str], EventRun] = {}
        """By rule, position of the condition and service."""
        self._undone = undone
        """A service's newest rollback that has ended."""
        self._since: dict[str, datetime] = {}
        """The time, by service, until which events are forgotten."""

    @property
    def names(self) -> tuple[str, ...]:
        """The events that some rule asks for."""
        return tuple(sorted(self._asked))

    def asking(self, event: Event) -> Iterator[Rule]:
        """The rules that ask for an event, each once."""
        found = {rule.name: rule for rule, _, leaf in self._asked.get(event.name, ()) if fits(leaf, event)}
        return iter(found.values())

    def hear(self, event: Event, service: str, now: datetime) -> set[str]:
        """Take one more event of a service; returns the services whose trouble may be another than before."""
        undone = self._undone(service)
        self._begin_anew(service, (undone.stepped or undone.ended) if undone is not None else None, now)
        since = self._since.get(service)
        if since is not None and event.at <= since:
            return {service}
        events = self._events.setdefault((service, event.name), [])
        insort(events, event, key=lambda one: (one.at, one.key))
        oldest = now - self._longest[event.name]
        events[:] = [one for one in events if one.at > oldest][-MOST_EVENTS:]
        self._events.move_to_end((service, event.name))
        for rule, position, leaf in self._asked[event.name]:
            run = step(self._runs.pop((rule.name, position, service), None), leaf, events, event, now)
            if run is not None:
                self._runs[rule.name, position, service] = run
        return {service, *self._forget(now)}

    def look_back(self, service: str, now: datetime) -> bool:
        """Forget what a rollback that recovered meanwhile took back; returns whether there was one."""
        undone = self._undone(service)
        return self._begin_anew(service, undone.stepped if undone is not None else None, now)

    def _begin_anew(self, service: str, since: datetime | None, now: datetime) -> bool:
        """Forget what was reported until then; a run that goes on after it is another one."""
        if since is None or since == self._since.get(service):
            return False
        self._since[service] = since
        for name, asked in self._asked.items():
            events = self._events.get((service, name), [])
            events[:] = [one for one in events if one.at > since]
            for rule, position, leaf in asked:
                before = self._runs.pop((rule.name, position, service), None)
                run = before if before is not None and before.first.at > since else met(leaf, events, now)
                if run is not None:
                    self._runs[rule.name, position, service] = run
        return True

    def _forget(self, now: datetime) -> Iterator[str]:
        """Forget what nobody reported for longer than any rule counts."""
        while self._events:
            (service, name), events = next(iter(self._events.items()))
            if events and events[-1].at > now - self._all:
                return
            del self._events[service, name]
            for rule, position, _ in self._asked[name]:
                self._runs.pop((rule.name, position, service), None)
            yield service

    def condition(self, rule: Rule, position: int, leaf: EventWhen, service: str, now: datetime) -> Condition:
        """What a condition says of a service."""
        events = self._events.get((service, leaf.event), ())
        return of_events(leaf, self._runs.get((rule.name, position, service)), events, now)

    def since(self, rule: Rule, position: int, leaf: EventWhen, service: str) -> datetime | None:
        """When the trouble that a condition saw began; None when it saw none."""
        run = self._runs.get((rule.name, position, service))
        if run is not None:
            return run.first.at
        counted = counting(leaf, self._events.get((service, leaf.event), ()))
        return counted[0].at if counted else None

    def after(self, rule: Rule, service: str, since: datetime) -> int:
        """How many events that the rule asks for were reported since then, and not resolved."""
        leaves = [leaf for leaf in rule.leaves if isinstance(leaf, EventWhen)]
        found = {
            event.key
            for leaf in leaves
            for event in counting(leaf, self._events.get((service, leaf.event), ()))
            if event.at > since
        }
        return len(found)

    def met_after(self, leaf: EventWhen, service: str, since: datetime, now: datetime) -> bool:
        """Whether enough events came since then to meet the condition by themselves."""
        events = [event for event in self._events.get((service, leaf.event), ()) if event.at > since]
        return met(leaf, events, now) is not None
