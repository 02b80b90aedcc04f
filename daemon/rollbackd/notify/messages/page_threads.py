"""What a fact closes at receivers that keep troubles open, whoever hears of it besides: each page once. No I/O.

A trouble is over when it leaves the fold of the troubles. A page about several is acknowledged with the last of them,
and over with the end of the last.
"""

from collections.abc import Iterator
from dataclasses import replace

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import FLEET
from rollbackd.notify.messages.context import message_of
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import Page, Troubles


def turned(record: Record, before: Troubles, after: Troubles) -> Iterator[Envelope]:
    """The messages to close or acknowledge what a fact ends; they come after those that tell of it."""
    if after is before:
        return
    over = tuple(thread for thread in before.known if thread not in after.known)
    if over:
        yield _closing(record, over)
    yield from _pages(record, before, after)


def _closing(record: Record, threads: tuple[str, ...]) -> Envelope:
    message = message_of(record, "passed", "it is over", "info", (), threads[0], "/over")
    return Envelope(replace(message, resolves=True, settles=threads[1:]), record.stream, closes=True)


def _pages(record: Record, before: Troubles, after: Troubles) -> Iterator[Envelope]:
    pages, fact = dict(before.pages), record.fact
    if isinstance(fact, facts.Paged):
        threads = frozenset(fact.incidents)
        pages[fact.thread] = Page(fact.receiver, threads, threads)
    for thread, page in pages.items():
        left = after.pages.get(thread)
        if left is None:
            yield _over(record, thread, page)
        elif page.unseen and not left.unseen:
            yield _seen(record, thread, page)


def _over(record: Record, thread: str, page: Page) -> Envelope:
    lines = (("What", "all that was told together has ended"),)
    title = "what was told together is over"
    message = message_of(record, "passed", title, "info", lines, thread, f"/{thread}")
    return Envelope(replace(message, resolves=True), FLEET, only=page.receiver)


def _seen(record: Record, thread: str, page: Page) -> Envelope:
    lines = (("What", "somebody has seen all that was told together and goes on"),)
    title = "what was told together was seen"
    message = message_of(record, "acknowledged", title, "info", lines, thread, f"/{thread}")
    return Envelope(replace(message, acknowledged=True), FLEET, only=page.receiver)
