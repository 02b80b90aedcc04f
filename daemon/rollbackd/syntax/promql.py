"""What is surely no query, in no dialect of PromQL: brackets and quotes that do not fit. Pure.

What a whole parser refuses may still be a newer Prometheus's syntax, or VictoriaMetrics's: that is for notes.
"""

_CLOSING = {")": "(", "]": "[", "}": "{"}
_QUOTES = "\"'`"


def unbalanced(query: str) -> str:
    """What is wrong and what to do; empty where brackets and quotes fit."""
    opened: list[tuple[str, int]] = []
    at = 0
    while at < len(query):
        character = query[at]
        if character in _QUOTES:
            if (end := _end_of_text(query, at)) < 0:
                return f"the quote {character} at character {at + 1} is never closed; close it"
            at = end
        elif character == "#":
            at = _end_of_line(query, at)
        elif character == "\\":
            at += 1
        elif character in _CLOSING.values():
            opened.append((character, at))
        elif character in _CLOSING:
            if not opened or opened[-1][0] != _CLOSING[character]:
                return f'the "{character}" at character {at + 1} closes nothing; take it away, or open it'
            opened.pop()
        at += 1
    if opened:
        character, at = opened[-1]
        return f'the "{character}" at character {at + 1} is never closed; close it'
    return ""


def _end_of_text(query: str, begin: int) -> int:
    """Where the quote at a place is closed; -1: nowhere. Between backticks nothing is escaped."""
    quote, at = query[begin], begin + 1
    while at < len(query):
        if query[at] == quote:
            return at
        at += 2 if query[at] == "\\" and quote != "`" else 1
    return -1


def _end_of_line(query: str, begin: int) -> int:
    end = query.find("\n", begin)
    return len(query) if end < 0 else end
