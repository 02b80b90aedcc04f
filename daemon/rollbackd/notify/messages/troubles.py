"""Troubles: what people have not acknowledged yet, folded from the facts of all streams. No I/O, no clock.

An incident is here from its opening on, so that the fold may start at the oldest one that matters (`Troubles.oldest`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.outcomes import BAD_ENDS
from rollbackd.model import DAEMON, FLEET, Action, Decision, Outcome, incident_service
from rollbackd.notify.messages import plain_text
from rollbackd.notify.messages.envelope import REFUSED

LASTING = frozenset(
    {"backend_unreachable", "backup_failed", "drill_stuck", "journal", "messages_waiting", "receiver_unreachable"}
)
"""Kinds of notices whose end is told: people are reminded of them until then."""
MONTHLY = "monthly_report"
UNPAGED = frozenset({"override", MONTHLY})
"""Kinds of notices that wake nobody: a person's slip is an answer to that person, and a report is no trouble."""
PAGE_ENDS = timedelta(days=1)
"""When the pages are closed of what nothing else ends: a notice of a moment, or a bad end that was acknowledged."""
LAST = "last"
"""The mark of a question's last reminder, when a fifth of its time is left."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that people are reminded of, or an incident that may become one."""

    thread: str
    stream: str
    service: str
    first: int
    """The seq that the fold must start at to know it."""
    what: str = ""
    """`asks`, `failed`, `paused`, `refused`, a notice's kind, …; empty: nothing to be reminded of now."""
    record: Record | None = None
    """The fact that began it."""
    episode: str = ""
    entered: tuple[str, ...] = ()
    closed: bool = False
    denied: bool = False
    """Whether a person said that it stays as it is."""
    sick: bool = False
    """Whether it has ended, and nothing says yet that the service is well."""
    state: str = ""
    """The key of the state that runs, as far as it is known; empty: not known."""

    expires: datetime | None = None
    """For a question, when it ends."""
    seen: datetime | None = None
    """When somebody acknowledged it; None: nobody did, or more was told since."""

    @property
    def is_refusal(self) -> bool:
        """Whether it has no incident. An acknowledged refusal is kept until it ends, since pages about it stay open."""
        return bool(self.episode)

    @property
    def lasting(self) -> bool:
        """Whether it is a notice whose end will be told."""
        fact = self.record.fact if self.record is not None else None
        return isinstance(fact, facts.Notice) and fact.kind in LASTING

    @property
    def escalates(self) -> datetime | None:
        """Since when a refusal goes to more and more people; None: it does not, or an incident's own facts say it."""
        record = self.record if self.is_refusal else None
        return record.at if record is not None and record.fact.decision.escalate else None

    def heard_since(self, now: datetime) -> datetime | None:
        """Since when more people heard of it, for messages that follow; an acknowledgement stops the count."""
        began = self.escalates
        return now - (self.seen - began) if began is not None and self.seen is not None else began

    def let_go(self, now: datetime) -> str:
        """Why its pages need not stay open, though nothing says that it is over; empty: they must, or its end will."""
        if self.sick and self.seen is not None:
            return "it was acknowledged a day ago" if now - self.seen >= PAGE_ENDS else ""
        told = self.record.at if self.record is not None and self.stream == FLEET and not self.lasting else now
        return "it was told a day ago" if now - told >= PAGE_ENDS else ""

    def mark(self, now: datetime, every: timedelta) -> str:
        """The newest reminder that is due: the whole periods since it began, or `LAST`; empty: none yet."""
        if not self.what or self.record is None:
            return ""
        if self.expires is not None and self.expires - (self.expires - self.record.at) / 5 <= now < self.expires:
            return LAST
        if self.expires is not None and self.expires <= now < self.expires + every:
            return ""  # its end is told at once; only a hold keeps a question open longer
        periods = int((now - self.record.at) / every)
        return str(periods) if periods > 0 else ""


@dataclass(frozen=True, slots=True)
class Page:
    """One message about several troubles that a receiver keeps open."""

    receiver: str
    threads: frozenset[str]
    """The threads of those that have not ended."""
    unseen: frozenset[str]
    """The threads of those that nobody has acknowledged since."""
    told_of_ends: frozenset[str] = frozenset()
    """The threads of those that had ended when it was opened: it stays until the service is well."""


@dataclass(frozen=True, slots=True)
class Troubles:
    """All troubles by thread."""

    known: Mapping[str, Trouble] = field(default_factory=dict)
    pages: Mapping[str, Page] = field(default_factory=dict)
    """The pages about what goes on, by their own threads."""

    @property
    def open(self) -> tuple[Trouble, ...]:
        """The troubles that people are reminded of; no refusal while an incident of its service is at work."""
        busy = self.busy
        return tuple(
            trouble
            for trouble in self.known.values()
            if trouble.what and not (trouble.what == "refused" and trouble.service in busy)
        )

    @property
    def oldest(self) -> int | None:
        """The seq to start the fold at next time; None: nothing is open."""
        return min((trouble.first for trouble in self.known.values()), default=None)

    def refused(self, service: str, episode: str = "") -> tuple[Trouble, ...]:
        """The refusals of a service that nobody has acknowledged, or of one episode when it is given."""
        return tuple(one for one in self.refusals(service, episode) if one.what == "refused")

    def refusals(self, service: str = "", episode: str = "") -> tuple[Trouble, ...]:
        """The refusals that have not ended, acknowledged or not; of one service and episode when they are given."""
        return tuple(
            trouble
            for trouble in self.known.values()
            if trouble.is_refusal and service in ("", trouble.service) and episode in ("", trouble.episode)
        )

    def notices(self) -> tuple[Trouble, ...]:
        """The notices that are open and that nobody has acknowledged."""
        return tuple(one for one in self.known.values() if one.stream == FLEET and one.seen is None)

    @property
    def busy(self) -> frozenset[str]:
        """The services that an incident is at work on."""
        return frozenset(one.service for one in self.known.values() if _is_incident(one) and not one.closed)

    def repeats(self, service: str, decision: Decision) -> bool:
        """Whether the same was decided on the same trouble before, for the same reasons, and still stands."""
        trouble = self.known.get(refusal_thread(service, decision.trigger.episode))
        if trouble is None or trouble.record is None or trouble.what != "refused":
            return False
        return guards(trouble.record.fact.decision) == guards(decision)


def guards(decision: Decision) -> tuple[str, ...]:
    """The guards that stand against rolling back. Two decisions with the same ones are alike."""
    return tuple(sorted({finding.guard for finding in decision.against}))


def needs_person(decision: Decision) -> bool:
    """Whether it was refused for what only a person can mend, so that people must hear of it."""
    refused = decision.action in (Action.ASK, Action.REFUSE)
    return refused and not decision.joins and (decision.needs_person or decision.escalate)


def refusal_thread(service: str, episode: str) -> str:
    """The thread of a refusal as receivers see it; what an episode's name has from outside is made fit to be shown."""
    return f"{REFUSED}{service}/{plain_text.line(episode)}"


def notice_thread(notice: facts.Notice) -> str:
    subject = notice.details.get("subject", "")
    return plain_text.line("/".join(part for part in ("notice", notice.kind, notice.service, subject) if part))


def fold(troubles: Troubles, record: Record) -> Troubles:
    """The troubles after one more fact, of whatever stream."""
    change = _FOLDS.get(type(record.fact))
    after = change(troubles, record, record.fact) if change else troubles
    return _turned(after) if after.pages and after is not troubles else after


def _turned(troubles: Troubles) -> Troubles:
    """The pages without the troubles that have ended, and without pages all of whose troubles have."""
    known = troubles.known
    pages = {}
    for thread, page in troubles.pages.items():
        left = frozenset(
            one for one in page.threads if one in known and (not known[one].closed or one in page.told_of_ends)
        )
        if left:
            unseen = frozenset(one for one in page.unseen & left if known[one].seen is None)
            pages[thread] = Page(page.receiver, left, unseen, page.told_of_ends)
    return replace(troubles, pages=pages)


def _is_incident(trouble: Trouble) -> bool:
    return trouble.stream.startswith("incident:")


def _with(troubles: Troubles, trouble: Trouble) -> Troubles:
    return replace(troubles, known={**troubles.known, trouble.thread: trouble})


def _without(troubles: Troubles, threads: Iterable[str]) -> Troubles:
    gone = set(threads)
    kept = {thread: trouble for thread, trouble in troubles.known.items() if thread not in gone}
    return replace(troubles, known=kept)


def _of(troubles: Troubles, record: Record) -> Trouble | None:
    return troubles.known.get(record.stream.partition(":")[2])


def _settle(troubles: Troubles, trouble: Trouble) -> Troubles:
    """Keep the trouble, unless it is closed, the service is not sick, and nothing is left to be reminded of."""
    if trouble.closed and not (trouble.what or trouble.entered or trouble.sick):
        return _without(troubles, [trouble.thread])
    return _with(troubles, trouble)


# -- of incidents -------------------------------------------------------------------------------
def _opened(troubles: Troubles, record: Record, fact: facts.Opened) -> Troubles:
    thread = record.stream.partition(":")[2]
    same = refusal_thread(fact.service, fact.decision.trigger.episode)
    begun = Trouble(thread, record.stream, fact.service, record.seq)
    return _with(_without(troubles, [same]), _asking(begun, record, fact.decision))


def _asking(trouble: Trouble, record: Record, decision: Decision) -> Trouble:
    """The trouble of a question, until it is answered or over."""
    question = decision.question if decision.action is Action.ASK else None
    if question is None:
        return trouble
    return replace(trouble, what="asks", record=record, expires=question.expires, seen=None)


def _asked_again(troubles: Troubles, record: Record, fact: facts.AskedAgain) -> Troubles:
    trouble = _of(troubles, record)
    return troubles if trouble is None else _with(troubles, _asking(trouble, record, fact.decision))


def _risen(troubles: Troubles, record: Record, _fact: facts.Risen) -> Troubles:
    trouble = _of(troubles, record)
    return troubles if trouble is None else _with(troubles, replace(trouble, what="", record=None, expires=None))


def _entering(troubles: Troubles, record: Record, fact: facts.Entering) -> Troubles:
    trouble = _of(troubles, record)
    if trouble is None or fact.layer in trouble.entered:
        return troubles
    return _with(troubles, replace(trouble, entered=(*trouble.entered, fact.layer)))


def _left(troubles: Troubles, record: Record, fact: facts.Left) -> Troubles:
    trouble = _of(troubles, record)
    if trouble is None:
        return troubles
    entered = tuple(layer for layer in trouble.entered if layer != fact.layer)
    what = "" if trouble.what == "still_entered" and not entered else trouble.what
    return _settle(troubles, replace(trouble, entered=entered, what=what))


def _not_left(troubles: Troubles, record: Record, fact: facts.LeaveFailed) -> Troubles:
    """The trouble of a bracket that is still entered though a person wanted it left, after the end of its incident."""
    known = _of(troubles, record)
    if known is not None:
        again = known.closed and not known.what
        entered = (*known.entered, *([] if fact.layer in known.entered else [fact.layer]))
        told = replace(known, what="still_entered", record=record, entered=entered, seen=None)
        return _with(troubles, told) if again else troubles
    thread, service = record.stream.partition(":")[2], incident_service(record.stream)
    trouble = Trouble(thread, record.stream, service, record.seq, "still_entered", record)
    return _with(troubles, replace(trouble, entered=(fact.layer,), closed=True))


def _stopped(troubles: Troubles, record: Record, fact: facts.Paused | facts.Parked) -> Troubles:
    trouble = _of(troubles, record)
    if trouble is None:
        return troubles
    what = "paused" if isinstance(fact, facts.Paused) else "parked"
    return _with(troubles, replace(trouble, what=what, record=record))


def _unpaused(troubles: Troubles, record: Record, _fact: facts.Unpaused) -> Troubles:
    trouble = _of(troubles, record)
    if trouble is None or trouble.what != "paused":
        return troubles
    return _with(troubles, replace(trouble, what="", record=None))


def _acknowledged(troubles: Troubles, record: Record, _fact: facts.Acknowledged) -> Troubles:
    trouble = _of(troubles, record)
    if trouble is None:
        return troubles
    seen = replace(trouble, what="", record=None, seen=record.at)
    return _without(troubles, [trouble.thread]) if trouble.closed and not trouble.sick else _with(troubles, seen)


def _denied(troubles: Troubles, record: Record, _fact: facts.Denied) -> Troubles:
    trouble = _of(troubles, record)
    return troubles if trouble is None else _with(troubles, replace(trouble, denied=True))


def _closed(troubles: Troubles, record: Record, fact: facts.Closed) -> Troubles:
    trouble = _of(troubles, record)
    if trouble is None:
        return troubles
    what = str(fact.outcome) if fact.outcome in BAD_ENDS else "still_entered" if trouble.entered else ""
    sick = fact.outcome in BAD_ENDS or (fact.outcome is Outcome.DECLINED and not trouble.denied)
    ended = replace(trouble, what=what, record=record if what else None, expires=None, closed=True, sick=sick)
    after = _settle(troubles, ended)
    return _well(after, trouble.service) if fact.outcome is Outcome.RECOVERED else after


def _relapsed(troubles: Troubles, record: Record, fact: facts.Relapsed) -> Troubles:
    thread = record.stream.partition(":")[2]
    before = troubles.known.get(thread)
    entered = before.entered if before else ()
    trouble = Trouble(thread, record.stream, fact.trigger.service, before.first if before else record.seq)
    return _with(troubles, replace(trouble, what="ineffective", record=record, entered=entered, closed=True, sick=True))


def _well(troubles: Troubles, service: str, state: str = "") -> Troubles:
    """The troubles after a service got well: earlier ones are over, but not a bracket that is still entered."""
    over = [
        trouble.thread
        for trouble in troubles.known.values()
        if trouble.service == service
        and (trouble.is_refusal or (trouble.closed and not trouble.entered))
        and state in ("", trouble.state)
    ]
    after = _without(troubles, over)
    left = [one for one in after.known.values() if one.service == service and one.sick and state in ("", one.state)]
    return replace(after, known={**after.known, **{one.thread: replace(one, sick=False) for one in left}})


# -- of services and the fleet ------------------------------------------------------------------
def _decided(troubles: Troubles, record: Record, fact: facts.Decided) -> Troubles:
    decision = fact.decision
    trigger = decision.trigger
    if trigger.request is not None or not needs_person(decision) or troubles.repeats(trigger.service, decision):
        return troubles
    thread = refusal_thread(trigger.service, trigger.episode)
    state = decision.present.key if decision.present else ""
    trouble = Trouble(thread, record.stream, trigger.service, record.seq, "refused", record, trigger.episode)
    return _with(troubles, replace(trouble, state=state))


def _seen(troubles: Troubles, record: Record, fact: facts.NoticeAcknowledged) -> Troubles:
    """The troubles after an acknowledgement: on a service's stream of its refusals, on the fleet's of the notices."""
    seen = [
        trouble
        for trouble in troubles.known.values()
        if trouble.stream == record.stream and fact.episode in ("", trouble.episode)
    ]
    kept = {
        one.thread: replace(one, what="", seen=one.seen or record.at) for one in seen if one.is_refusal or one.lasting
    }
    after = _without(troubles, [one.thread for one in seen])
    return replace(after, known={**after.known, **kept})


def _subsided(troubles: Troubles, record: Record, fact: facts.Subsided) -> Troubles:
    return _without(troubles, [fact.thread or refusal_thread(record.stream.partition(":")[2], fact.episode)])


def _told_more(troubles: Troubles, record: Record, _fact: facts.ClockPassed | facts.Escalated) -> Troubles:
    """The trouble with more told about it, which an earlier acknowledgement does not answer."""
    trouble = _of(troubles, record)
    if trouble is None or trouble.seen is None or trouble.closed:
        return troubles
    return _with(troubles, replace(trouble, seen=None))


def _changed(troubles: Troubles, record: Record, fact: facts.Changed) -> Troubles:
    service, state = record.stream.partition(":")[2], fact.state.key
    own = {thread: trouble for thread, trouble in troubles.known.items() if trouble.service == service}
    if not own:
        return troubles
    moved = {thread: replace(trouble, state=state) for thread, trouble in own.items()}
    return replace(troubles, known={**troubles.known, **moved})


def _marked(troubles: Troubles, record: Record, fact: facts.MarkedGood) -> Troubles:
    """The troubles after the state that runs turned out good. A mark on another state ends nothing."""
    service = record.stream.partition(":")[2]
    after = _well(troubles, service, fact.state.key)
    if record.actor != DAEMON:
        return after
    unknown = [trouble for trouble in after.known.values() if trouble.service == service and not trouble.state]
    ended = [trouble.thread for trouble in unknown if trouble.closed and not trouble.entered]
    return _without(after, [*ended, *(trouble.thread for trouble in unknown if trouble.is_refusal)])


def _noticed(troubles: Troubles, record: Record, fact: facts.Notice) -> Troubles:
    thread = notice_thread(fact)
    if fact.over:
        return _without(troubles, [thread])
    if fact.kind in UNPAGED or thread in troubles.known:
        return troubles
    what = fact.kind if fact.kind in LASTING else ""
    return _with(troubles, Trouble(thread, record.stream, fact.service, record.seq, what, record))


def _paged(troubles: Troubles, _record: Record, fact: facts.Paged) -> Troubles:
    threads, known = frozenset(fact.incidents), troubles.known
    ended = frozenset(one for one in threads if one in known and known[one].closed)
    return replace(troubles, pages={**troubles.pages, fact.thread: Page(fact.receiver, threads, threads, ended)})


_FOLDS: dict[type[Any], Callable[[Troubles, Record, Any], Troubles]] = {
    facts.Opened: _opened,
    facts.AskedAgain: _asked_again,
    facts.Risen: _risen,
    facts.ClockPassed: _told_more,
    facts.Escalated: _told_more,
    facts.Entering: _entering,
    facts.Left: _left,
    facts.LeaveFailed: _not_left,
    facts.Paused: _stopped,
    facts.Parked: _stopped,
    facts.Unpaused: _unpaused,
    facts.Acknowledged: _acknowledged,
    facts.Denied: _denied,
    facts.Closed: _closed,
    facts.Relapsed: _relapsed,
    facts.Decided: _decided,
    facts.NoticeAcknowledged: _seen,
    facts.Subsided: _subsided,
    facts.Changed: _changed,
    facts.MarkedGood: _marked,
    facts.Paged: _paged,
    facts.Notice: _noticed,
}
