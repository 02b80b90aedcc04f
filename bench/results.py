"""The table in `bench/RESULTS.md`: a row is put into its place as soon as it is measured; the text around it stays."""

from collections.abc import Sequence
from pathlib import Path

from bench.measure import Row

HEADINGS = ("what", "measured", "floor", "the rest", "must be", "ok?")
_OWN = ("row", *HEADINGS, "at commit")


def cells(row: Row) -> tuple[str, ...]:
    """In the order of the headings."""
    return (row.what, row.measured, row.floor, row.rest, row.must, "yes" if row.ok else "NO")


def keep(page: Path, name: str, row: Row, commit: str, order: Sequence[str]) -> None:
    """Put a row, under the name that `--only` takes, where the order wants it; one that is measured no more goes."""
    before, rows, after = _parts(page.read_text())
    rows[name] = _line((name, *cells(row), commit))
    table = [_line(_OWN), _line("-" * len(_OWN), ""), *(rows[known] for known in order if known in rows)]
    page.write_text("\n".join([*before, *table, *after]) + "\n")


def _parts(text: str) -> tuple[list[str], dict[str, str], list[str]]:
    """The lines before the table, its rows by their names, the lines after it."""
    lines = text.splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("|")]
    first, last = places[0], places[-1]
    rows = {line.split("|")[1].strip(): line for line in lines[first + 2 : last + 1]}
    return lines[:first], rows, lines[last + 1 :]


def _line(values: Sequence[str], space: str = " ") -> str:
    return "|" + "|".join(f"{space}{value.replace('|', '/')}{space}" for value in values) + "|"
