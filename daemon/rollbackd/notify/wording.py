"""Whose words a receiver hears a message in: those of its template, those for users, or our own. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import Template

from rollbackd.adapter import Message
from rollbackd.config.message_templates import MessageTemplates, TemplateTrouble, values_of
from rollbackd.config.models import Receiver
from rollbackd.notification_events import USERS

_FEW = 5
"""How many services are named to users; the others are counted."""


class Wording:
    """The receivers' words. What a template cannot say is said in ours, with the trouble beside it."""

    def __init__(self, receivers: Sequence[Receiver] = (), templates: MessageTemplates | None = None) -> None:
        self._receivers: Mapping[str, Receiver] = {receiver.name: receiver for receiver in receivers}
        self._templates = templates or MessageTemplates({})

    def of(self, name: str, message: Message) -> tuple[Message, TemplateTrouble | None]:
        """The message as a receiver is sent it, and what was wrong with its template."""
        receiver = self._receivers.get(name)
        if receiver is None or message.own_words:
            return message, None
        ours = for_users(message) if receiver.audience == "users" else message
        found = self._templates.find(receiver.audience, receiver.kind, message.event)
        if not found:
            return ours, None
        try:
            said = self._templates.write(found, values_of(message, receiver.audience, receiver.kind))
        except TemplateTrouble as trouble:
            return ours, trouble
        lines = tuple(("", text) for text in said.paragraphs)
        return replace(ours, title=said.title, lines=lines, labels={}, own_words=True), None


def for_users(message: Message) -> Message:
    """The message for users of the services, without a word of how; as it is where they hear nothing of its event."""
    if message.event not in USERS:
        return message
    named = message.services or (message.service,)
    shown = ", ".join(named[:_FEW]) + (f" and {len(named) - _FEW} more" if len(named) > _FEW else "")
    said = Template(USERS[message.event]).substitute(services=shown)
    return replace(message, title=said, lines=(), labels={}, buttons=(), link="", own_words=True)
