"""What a drill that touches the world must never come on top of. Asks, and touches nothing."""

from rollbackd.book import Book
from rollbackd.clock import Clock
from rollbackd.config.models import Config, Service
from rollbackd.judge.holds import Holds
from rollbackd.judge.live import Live
from rollbackd.rules.tracks import Standing


class Unfit(Exception):  # noqa: N818  # an answer
    """A drill is not held now; the sentence says why, and what to do."""


class Fitness:
    """Says no, with the reason."""

    def __init__(self, config: Config, book: Book, clock: Clock, live: Live, holds: Holds) -> None:
        self._config = config
        self._book = book
        self._clock = clock
        self._live = live
        self._holds = holds

    def check_idle(self, service: str) -> None:
        """:raises Unfit: a rollback of it is under way, or asks for one."""
        ledger = self._book.of(service)
        running = ledger.acting or ledger.open
        if running is not None:
            raise Unfit(f"{service} is not drilled: {running.incident} is open; again when it has ended")

    def check(self, service: Service) -> None:
        """:raises Unfit: it may not be taken back for real, or not now."""
        name, now = service.name, self._clock.now()
        if not service.drill:
            raise Unfit(f"{name} is not drilled for real: its configuration does not say `drill: true`")
        if self._config.mode(service) != "act":
            raise Unfit(f"{name} is not drilled for real: its mode is shadow, nothing is touched")
        self.check_idle(name)
        if others := [other for other, _ in self._book.drills()]:
            raise Unfit(f"{name} is not drilled: {others[0]} is, and one is drilled at a time; again when it has ended")
        if held := self._holds(name, {}):
            raise Unfit(f"{name} is not drilled: {'; '.join(held)}")
        bad = [one for one in self._live.seen(name, now) if one.standing is not Standing.GOOD]
        if bad:
            said = ", ".join(f"{one.rule} is {one.standing.value} ({one.reason})" for one in bad)
            raise Unfit(f"{name} is not drilled while it may be in trouble: {said}")
        last = self._book.of(name).rollbacks[-1:]
        if last and last[0].watch_until is not None and now < last[0].watch_until:
            until = f"{last[0].watch_until:%H:%M:%S}"
            raise Unfit(f"{name} is not drilled: it is watched after {last[0].incident} until {until}")
