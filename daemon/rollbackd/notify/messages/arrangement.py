"""The order of what a message says, for somebody who was just woken. No I/O.

What is broken for users, and since when; what rollbackd does or asks; the one thing to do now, with the host to type it
on; then a few fields. What is left out is in the incident's own page, and in `rollbackd incidents ID`.
"""

from dataclasses import replace

from rollbackd.adapter import Message
from rollbackd.notify.messages.phrases import TROUBLE, Lines

FIELDS = 6
"""How many lines there are at most beside the first three."""
_LEADING = (TROUBLE, "What", "Soon")
_COMMANDS = ("Say yes", "Go on", "Stop it", "End it", "Roll back anyway", "Roll back", "Seen it")
"""Headings of what a person can do; the first that a message has is the one thing to do now."""
_FIRST = (
    "Say no", "Until", "Missing", "Asked because", "Against it", "Still entered", "Mind", "Failed last", "Output",
    "Reason", "Changed", "Data", "Change", "Last change", "Checks", "Now", "Next", "Priority", "Took", "Steps",
)  # fmt: skip
"""Headings by what matters most; others come after them, in their own order."""
_ELSEWHERE = ("Why", "Since", "See", "More", "From", "To")
"""Headings of what the first line and the title have in fewer words."""


def arranged(message: Message, host: str) -> Message:
    """The message with its lines in order; one in a receiver's own words, or without lines, as it is."""
    if message.own_words or not message.lines:
        return message
    lines = tuple(message.lines)
    named = {heading for heading, _ in lines}
    command = next((heading for heading in _COMMANDS if heading in named), "")
    left_out = {*_LEADING, command, *(_ELSEWHERE if TROUBLE in named else ())}
    rest = sorted((line for line in lines if line[0] not in left_out), key=_rank)
    leading = [line for heading in _LEADING for line in lines if line[0] == heading]
    return replace(message, lines=(*leading, *_now(message, lines, command, host), *rest[:FIELDS]))


def _rank(line: tuple[str, str]) -> int:
    return _FIRST.index(line[0]) if line[0] in _FIRST else len(_FIRST)


def _now(message: Message, lines: Lines, command: str, host: str) -> Lines:
    if not command:
        calm = message.resolves or message.acknowledged or message.severity == "info"
        return (("Do now", "nothing"),) if calm else ()
    text = next(text for heading, text in lines if heading == command)
    return (("Do now", f"on {host}: {text}"),)
