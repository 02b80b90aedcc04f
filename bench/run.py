"""Measures every promise of speed, prints the table, and ends with 1 when one is not kept. `make bench` runs this.

python bench/run.py [--only intake,share] [--tiny]
"""

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # the checkout's root must be importable first
from rich.table import Table

from bench import burst, intake, judging, memory, reaction, restart, share, snapshots
from bench.host import BenchError
from bench.measure import TINY, Row, Sizes

ROWS: dict[str, Callable[[Path, Sizes], Row]] = {
    "intake": intake.measure,
    "burst": burst.measure,
    "reaction": reaction.measure,
    "judging": judging.measure,
    "comparing": judging.measure_compared,
    "share": share.measure,
    "restart": restart.measure,
    "memory": memory.measure,
    "snapshots": snapshots.measure,
}
"""In the order of the design's table."""


def table(rows: Sequence[Row]) -> Table:
    """As it is printed, and kept."""
    made = Table(show_lines=True)
    for heading in ("what", "measured", "compared to", "must be", "ok?"):
        made.add_column(heading, overflow="fold")
    for row in rows:
        style = "" if row.ok else "bold red"
        made.add_row(row.what, row.measured, row.compared, row.must, "yes" if row.ok else "NO", style=style)
    return made


def machine() -> str:
    """What it was measured on; others' load makes figures worse, ratios hardly."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"Python {platform.python_version()}, {os.cpu_count()} processors, load average {load}"


def run(names: Sequence[str], sizes: Sizes, directory: Path, console: Console) -> int:
    """Measure these rows; 1 when one is missed."""
    begun = time.monotonic()
    console.print(f"before: {machine()}")
    rows = []
    for name in names:
        console.print(f"  {name} …", style="dim")
        try:
            rows.append(ROWS[name](directory / name, sizes))
        except BenchError as error:
            rows.append(Row(name, "nothing", str(error), "-", ok=False))
    console.print(table(rows))
    console.print(f"after: {machine()}; took {time.monotonic() - begun:.0f} s; medians of {sizes.rounds} rounds")
    return 0 if all(row.ok for row in rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the speeds that are promised.")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, with commas: {', '.join(ROWS)}")
    parser.add_argument("--tiny", action="store_true", help="see that it works; says nothing about speed")
    parser.add_argument(
        "--directory", type=Path, default=ROOT / ".bench", help="where journals are put; on a real disk"
    )
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    directory = given.directory.absolute()
    try:
        # A table is no good cut to a pipe's 80 columns.
        width = None if sys.stdout.isatty() else 140
        return run(names, TINY if given.tiny else Sizes(), directory, Console(width=width, highlight=False))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
