"""Everything from outside is text: no control character, no invisible one and no markup of it reaches a terminal."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories: controls, directions and joiners, surrogates, private use, separators of lines."""
_STYLES = {
    "bad": "red", "good": "green", "pending": "yellow", "inconclusive": "yellow",
    "recovered": "green", "ineffective": "red", "failed": "red", "unverified": "yellow", "parked": "red",
    "roll_back": "green", "refuse": "red", "asking": "yellow", "ask": "yellow", "observe": "yellow",
}  # fmt: skip
_LENGTH = re.compile(r"P(?:(\d+)Y)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
"""A duration as the API writes it (ISO 8601); a year is 365 days."""
View = Mapping[str, Any]
"""A value of the API's JSON."""


def safe(value: object) -> str:
    r"""One line of text, with what a terminal would act on written out: `\x1b[2J`, `\n`."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _harmless(character) else _written_out(character) for character in text)


def safe_lines(value: object) -> list[str]:
    """The same, where newlines may be."""
    return [safe(line) for line in str(value).splitlines()] or [""]


def _harmless(character: str) -> bool:
    return unicodedata.category(character) not in _HARMFUL


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def moment(at: str | datetime | None) -> str:
    """A time as `2026-03-01 12:00:00Z`; empty for none."""
    if not at:
        return ""
    try:
        when = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    except ValueError:
        return safe(at)
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def length(written: str | None) -> str:
    """`PT1M30S` as `1m30s`; empty for none."""
    found = _LENGTH.fullmatch(written or "")
    if not written or found is None:
        return safe(written or "")
    from rollbackd.syntax.units import roughly

    years, days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    whole = timedelta(days=365 * years + days, hours=hours, minutes=minutes, seconds=seconds)
    return roughly(whole)


def below(text: str, indent: int) -> str:
    """Text in as many lines as the terminal needs, the first one without its indent; a long word is never cut."""
    import textwrap
    from shutil import get_terminal_size

    width = max(get_terminal_size().columns, indent + 20)
    blank = " " * indent
    wrapped = textwrap.wrap(
        safe(text), width, initial_indent=blank, subsequent_indent=blank, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapped).lstrip(" ")


def as_json(value: object) -> str:
    """For scripts: ASCII, so that it is as harmless on a terminal."""
    return json.dumps(value, indent=2)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print columns without borders. Cells fold where the terminal ends: nothing is cut off."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        made.add_column(name, overflow="fold")
    for row in rows:
        cells = [safe("" if cell is None else cell) for cell in row]
        made.add_row(*(Text(cell or "-", style=_STYLES.get(cell, "")) for cell in cells))
    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as drawn:
        console.print(made)
    print("\n".join(line.rstrip() for line in drawn.get().rstrip("\n").split("\n")))


def section(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table below an empty line; nothing without rows."""
    if rows := list(rows):
        print()
        table(head, rows)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; a value with several lines goes on below itself. Empty ones are left out."""
    shown = [(name, safe_lines(value)) for name, value in pairs if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0)
    for name, lines in shown:
        for number, line in enumerate(lines):
            print(f"  {name if number == 0 else '':<{width}}  {line}".rstrip())
