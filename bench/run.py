"""Measures every promise of speed, prints each row and the table, and ends with 1 when one is not kept.

python bench/run.py [--only intake,share] [--vs REVISION] [--tiny]; `make bench WORDS="--only intake"` is the same.
With `--database 64` those of databases have 64 MiB instead, to try them; such rows are not kept.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # the checkout's root must be importable first
from rich.table import Table

from bench import (
    burst,
    clusters,
    databases,
    intake,
    judging,
    memory,
    postgres,
    reaction,
    restart,
    results,
    share,
    snapshots,
)
from bench.commits import Commit, figure, here, other, same_bench
from bench.host import BenchError
from bench.leftovers import alone
from bench.measure import TINY, Row, Sizes, middle

ROWS: dict[str, Callable[[Path, Sizes], Row]] = {
    "intake": intake.measure,
    "burst": burst.measure,
    "reaction": reaction.measure,
    "apply": reaction.measure_apply,
    "judging": judging.measure,
    "comparing": judging.measure_compared,
    "scoring": judging.measure_scored,
    "share": share.measure,
    "restart": restart.measure,
    "restart-many": restart.measure_many,
    "memory": memory.measure,
    "snapshots": snapshots.measure,
    "sqlite": databases.measure,
    "postgres-copy": postgres.measure_copy,
    "postgres-restore": postgres.measure_restore,
    "postgres-closed": postgres.measure_closed,
    "postgres-point": postgres.measure_point,
    "watching": clusters.measure,
    "watch-event": clusters.measure_event,
    "hung-clusters": clusters.measure_hung,
    "cluster-rollback": clusters.measure_rollback,
}
"""In the order of the design's table."""
RESULTS = ROOT / "bench/RESULTS.md"
_TURNS, _TURN_ROUNDS = 2, 3
"""How often each of two commits is measured, and the rounds each time."""


def table(rows: Sequence[Row]) -> Table:
    """As it is printed, and kept."""
    made = _empty(results.HEADINGS)
    for row in rows:
        made.add_row(*results.cells(row), style="" if row.ok else "bold red")
    return made


def _empty(headings: Sequence[str]) -> Table:
    made = Table(show_lines=True)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    return made


def machine() -> str:
    """What it was measured on; others' load makes figures worse, ratios hardly."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"Python {platform.python_version()}, {os.cpu_count()} processors, load average {load}"


def run(names: Sequence[str], commit: Commit, console: Console, *, tiny: bool) -> int:
    """Measure these rows; 1 when one is missed. What was measured before an interruption is printed and kept, too."""
    rows: list[Row] = []
    try:
        for name in names:
            row = _row(name, commit, tiny=tiny)
            rows.append(row)
            told = f"{row.measured}; floor {row.floor}; must be {row.must}: {'yes' if row.ok else 'NO'}"
            console.print(f"  {name}: {row.what}: {told}", soft_wrap=True)
            if not tiny and not commit.database:
                results.keep(RESULTS, name, row, commit.name, list(ROWS))
    finally:
        console.print(table(rows))
    return 0 if all(row.ok for row in rows) else 1


def _row(name: str, commit: Commit, *, tiny: bool) -> Row:
    try:
        return Row(**commit.measure(name, (TINY if tiny else Sizes()).rounds, tiny=tiny))
    except BenchError as error:
        return Row(name, "nothing", "-", str(error), "-", ok=False)


def compare(names: Sequence[str], commits: Sequence[Commit], console: Console, *, tiny: bool) -> int:
    """Measure these rows of two commits in turns, and set the first one's figures against the second's.

    1 when something was not measured: that a promise is kept is not asked here.
    """
    made = _empty(("row", *(commit.name for commit in commits), "ratio"))
    complete = True
    try:
        for name in names:
            seen: list[list[str]] = [[] for _ in commits]
            try:
                for commit, several in list(zip(commits, seen, strict=True)) * (1 if tiny else _TURNS):
                    several.append(commit.measure(name, 1 if tiny else _TURN_ROUNDS, tiny=tiny)["measured"])
                    console.print(f"  {name}, {commit.name}: {several[-1]}", soft_wrap=True)
                ours, theirs = (middle([figure(one) for one in several]) for several in seen)
                ratio = f"{ours / theirs:.2f}" if theirs else "-"
            except BenchError as error:
                complete, ratio = False, "-"
                console.print(f"  {name}, {commit.name}: nothing: {error}", soft_wrap=True)
            made.add_row(name, *("\n".join(several) for several in seen), ratio)
    finally:
        console.print(made)
    return 0 if complete else 1


def _stop(number: int, _frame: object) -> NoReturn:
    """As with Ctrl-C: what was started is ended, what was made is removed."""
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the speeds that are promised.")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, with commas: {', '.join(ROWS)}")
    parser.add_argument("--vs", metavar="REVISION", help="measure this commit in turns with what is checked out")
    parser.add_argument("--tiny", action="store_true", help="see that it works; says nothing about speed")
    parser.add_argument(
        "--database", type=int, default=0, metavar="MIB", help="how large databases are; such rows are not kept"
    )
    parser.add_argument(
        "--directory", type=Path, default=ROOT / ".bench", help="where journals are put; on a real disk"
    )
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    directory = given.directory.absolute()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # A table is no good cut to a pipe's 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
    begun = time.monotonic()
    console.print(f"before: {machine()}")
    try:
        with alone(directory):
            ours = replace(here(directory), database=given.database)
            if given.vs is None:
                missed = run(names, ours, console, tiny=given.tiny)
            else:
                theirs = replace(other(given.vs, directory), database=given.database)
                if not same_bench(theirs):
                    console.print(f"bench/ differs between {ours.name} and {theirs.name}: each is measured by its own")
                missed = compare(names, (ours, theirs), console, tiny=given.tiny)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(f"after: {machine()}; took {time.monotonic() - begun:.0f} s")
    return missed


if __name__ == "__main__":
    sys.exit(main())
