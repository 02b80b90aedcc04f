"""HTML and SVG as text: every text and every value is escaped, and there are no scripts. No I/O."""

from collections.abc import Iterable
from html import escape

VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """What is markup already; any other text is escaped."""

    __slots__ = ()


def element(name: str, *inside: str | Iterable[str], **attributes: object) -> Markup:
    """An element with what is in it; `class_` is `class`, and `_` in other names is `-`."""
    given = "".join(
        f' {_name(key)}="{escape(_number(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{together(*inside)}</{name}>")


def together(*inside: str | Iterable[str]) -> Markup:
    """Parts one after the other."""
    parts = (part for each in inside for part in ([each] if isinstance(each, str) else each))
    return Markup("".join(part if isinstance(part, Markup) else escape(_printable(part)) for part in parts))


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-") if key != "viewBox" else key


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else _printable(str(value))


def _printable(text: str) -> str:
    """Without what neither HTML nor XML may hold."""
    return "".join(one if one in "\n\t" or one.isprintable() else "�" for one in text)
