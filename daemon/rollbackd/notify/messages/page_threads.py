"""Pages about several troubles at once: acknowledged with the last of them, and resolved with the end of the last.

For receivers that keep open what they are told. Each trouble has told its own end, in a thread of its own. No I/O.
"""

from collections.abc import Sequence
from dataclasses import replace

from rollbackd import facts
from rollbackd.model import FLEET
from rollbackd.notify.messages.context import MessageContext, message_of
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import Page, fold


def turned(told: MessageContext) -> Sequence[Envelope]:
    """The messages that a fact is worth to open pages, and to the page that it opens."""
    before, fact = dict(told.troubles.pages), told.record.fact
    if isinstance(fact, facts.Paged):
        threads = frozenset(fact.incidents)
        before[fact.thread] = Page(fact.receiver, threads, threads)
    if not before:
        return ()
    after, made = fold(told.troubles, told.record).pages, []
    for thread, page in before.items():
        left = after.get(thread)
        if left is None:
            made.append(_over(told, thread, page))
        elif page.unseen and not left.unseen:
            made.append(_seen(told, thread, page))
    return made


def _over(told: MessageContext, thread: str, page: Page) -> Envelope:
    lines = (("What", "all that was told together has ended"),)
    title = "what was told together is over"
    message = message_of(told.record, "passed", title, "info", lines, thread, f"/{thread}")
    return Envelope(replace(message, resolves=True), FLEET, only=page.receiver)


def _seen(told: MessageContext, thread: str, page: Page) -> Envelope:
    lines = (("What", "somebody has seen all that was told together and goes on"),)
    title = "what was told together was seen"
    message = message_of(told.record, "acknowledged", title, "info", lines, thread, f"/{thread}")
    return Envelope(replace(message, acknowledged=True), FLEET, only=page.receiver)
