"""Plays every situation and prints the table: what happens, what is made of it, and why. Ends with 1 when one is not so.

python -m tests.unit.judgement [WORD ...]   only situations with such words in their names
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rollbackd.system import log
from tests.unit.judgement.cases import Chapter, Played, Situation, chapters, play
from tests.unit.judgement.told import Told

_WIDTH = 170
"""Of the table where the output is no terminal."""
_LONGEST = 160
"""Characters of one reason; the journal has all of it."""


def _played(situation: Situation) -> Played:
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(play(situation, Path(directory)))


def _made(played: Played) -> str:
    if not played.told:
        return "nothing"
    return "\n".join(_short(one) for one in played.told)


def _short(one: Told) -> str:
    text = str(one)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _table(chapter: Chapter, number: int, words: list[str]) -> tuple[Table, int]:
    table = Table(title=chapter.title, title_justify="left", title_style="bold", show_lines=True)
    table.add_column("", justify="right")
    for heading, ratio in (("situation", 3), ("what happens", 4), ("what is made of it, and why", 7)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    table.add_column("ok?")
    wrong = 0
    for each, situation in enumerate(chapter.situations, number):
        if words and not any(word in situation.name for word in words):
            continue
        played = _played(situation)
        name = f"[bold]{situation.name}[/]\n{situation.why}" if situation.why else f"[bold]{situation.name}[/]"
        happens = f"{situation.before.strip()}\n{situation.happens.strip()}"
        made = "\n".join([escape(_made(played)), *(f"[red]{escape(fault)}[/]" for fault in played.faults)])
        table.add_row(str(each), name, escape(happens), made, "[red]NO[/]" if played.faults else "yes")
        wrong += bool(played.faults)
    return table, wrong


def main() -> int:
    words = sys.argv[1:]
    log.configure("critical")
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    number, wrong = 1, 0
    for chapter in chapters():
        table, faults = _table(chapter, number, words)
        number += len(chapter.situations)
        wrong += faults
        if table.row_count:
            console.print(table)
    console.print(f"{number - 1} situations are written down" + (f"; {wrong} are not so" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
