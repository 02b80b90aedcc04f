"""Tells people that the journal cannot be opened, and so cannot remember that they were told.

The service manager starts us again every few seconds, so a file remembers it instead, beside the journal or where else
we may write.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.config.secrets import reveal
from rollbackd.facts import Record
from rollbackd.journal import Journal, JournalRefused
from rollbackd.journal.place import Access, local_path
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.messages import self_notices
from rollbackd.plugins import build_notifier
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.http_client import HttpSession

_AGAIN = timedelta(hours=1)


class _NoJournal:
    """The journal that cannot be had. What is told directly asks nothing of it."""

    def subscribe(self, heard: Callable[[Sequence[Record]], None]) -> None:
        """There will be nothing to hear of."""


class Untold:
    """What receivers hear of a journal that cannot be opened: once an hour, and once that it can be again."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._log = log.get("dispatcher")

    async def tell(self, error: str) -> None:
        """Send it to every receiver, unless that was done within the hour."""
        if not self._config.notify.receivers or self._told_lately() or not self._note(error):
            return
        web = HttpSession()
        given = self._config.notify.receivers
        notifiers = {one.name: build_notifier(one.kind, one.settings, reveal, web) for one in given}
        try:
            dispatcher = NotificationDispatcher(cast("Journal", _NoJournal()), self._config, notifiers, self._clock)
            took = await dispatcher.tell_directly(self_notices.unopened(self._clock.now(), error))
        finally:
            await web.close()
        if not took:
            self._forget()

    async def over(self, read_model: ReadModel) -> None:
        """The journal was opened: say so to those who heard that it could not be."""
        for place in self._places():
            with suppress(OSError):
                text = f"the journal can be used again; before: {place.read_text()}"
                await read_model.tell(facts.Notice("journal", text, over=True))
                break
        self._forget()

    def _places(self) -> tuple[Path, ...]:
        daemon = self._config.daemon
        with suppress(JournalRefused):
            journal = local_path(daemon.journal, Access(daemon.scratch))
            name = f"{journal.name}.told"
            return tuple(place / name for place in (journal.parent, daemon.scratch, daemon.socket.parent))
        return ()

    def _told_lately(self) -> bool:
        now = self._clock.now()
        for place in self._places():
            with suppress(OSError):
                age = now - datetime.fromtimestamp(place.stat().st_mtime, UTC)
                if timedelta() <= age < _AGAIN:
                    return True
        return False

    def _note(self, error: str) -> bool:
        """Whether it could be written down: what could not would be told every few seconds."""
        for place in self._places():
            with suppress(OSError):
                place.write_text(error)
                return True
        self._log.error("people are not told, since that cannot be remembered anywhere", error=error)
        return False

    def _forget(self) -> None:
        for place in self._places():
            with suppress(OSError):
                place.unlink(missing_ok=True)
