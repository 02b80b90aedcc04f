"""Plain text: text from outside, made fit to be shown. It may hold anything. No I/O."""

import re

ONE_LINE = 300
"""Characters of one value, such as a sample or a reason."""
PARAGRAPH = 2500
"""Characters of one paragraph of a message; with what escaping adds it fits Slack's 3000."""

_CONTROL = "\x00-\x09\x0b-\x1f\x7f-\x9f"
_INVISIBLE = "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff"
"""Marks that reorder or hide text, and surrogates, which no encoding takes."""
_UNFIT = re.compile(f"[{_CONTROL}{_INVISIBLE}]")
_UNFIT_OR_NEWLINE = re.compile(f"[{_CONTROL}\n{_INVISIBLE}]")


def _picture(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def cut(text: str, limit: int) -> str:
    """At most about `limit` characters; a text that is cut says how long it was."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def line(text: str, limit: int = ONE_LINE) -> str:
    """One line: a newline or another control character becomes its picture (`␊`, `␛`), so that it is seen."""
    return _UNFIT_OR_NEWLINE.sub(_picture, cut(text, limit))


def paragraph(text: str, limit: int = PARAGRAPH) -> str:
    """The same with newlines kept, for texts that are ours and quote values that went through `line`."""
    return _UNFIT.sub(_picture, cut(text, limit))


def fit(text: str, limit: int) -> str:
    """One line of at most `limit` characters, for fields that a receiver limits."""
    shown = _UNFIT_OR_NEWLINE.sub(_picture, text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
