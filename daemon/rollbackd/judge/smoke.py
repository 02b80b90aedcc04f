"""Asks the checks that rules name, for each service that has them."""

from datetime import timedelta

from rollbackd import log
from rollbackd.book import Book
from rollbackd.clock import Clock
from rollbackd.config.models import Config, Service
from rollbackd.examine import Examiner
from rollbackd.judge.engine import Judge
from rollbackd.judge.live import Live
from rollbackd.rules.spec import CheckWhen, Rule

Watched = tuple[Rule, int, CheckWhen, Service]


class Smoke:
    """One loop for each rule's check at each service."""

    def __init__(self, config: Config, book: Book, live: Live, judge: Judge, clock: Clock, examiner: Examiner) -> None:
        self._book = book
        self._live = live
        self._judge = judge
        self._clock = clock
        self._examiner = examiner
        self.watched: tuple[Watched, ...] = tuple(
            (rule, position, leaf, service)
            for rule in config.rules
            for position, leaf in enumerate(rule.leaves)
            if isinstance(leaf, CheckWhen)
            for service in config.services
            if leaf.check in service.checks and live.applies(rule, service.name)
        )
        self._log = log.get("smoke")

    async def run(self, watched: Watched) -> None:
        """Ask for ever; while a rollback of the service runs its own verification looks instead."""
        rule, position, leaf, service = watched
        while True:
            if self._book.of(service.name).acting is None:
                await self.ask(rule, position, leaf, service)
            await self._clock.sleep(leaf.every)

    async def ask(self, rule: Rule, position: int, leaf: CheckWhen, service: Service) -> None:
        """Once, when it is time for it."""
        if leaf.after_change is not None and not self._just_changed(service.name, leaf.after_change):
            self._live.clear(rule, position, service.name)
            return
        result = await self._examiner.ask(service, leaf.check)
        now = self._clock.now()
        self._live.observe(rule, position, service.name, result.verdict, result.reason, now)
        for trigger in self._live.triggers(rule, service.name, now):
            self._judge.consider_soon(trigger)

    def _just_changed(self, service: str, within: timedelta) -> bool:
        spells = self._book.of(service).spells
        last = spells[-1] if len(spells) > 1 else None
        return last is not None and not last.incident and self._clock.now() - last.by <= within
