"""One row, measured in a process of its own by the bench that PYTHONPATH names first; printed as a line of JSON.

It begins when its standard input says so. Of another commit's bench only the names imported here are asked for.
"""

import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from bench.host import BenchError
from bench.measure import TINY, Sizes
from bench.run import ROWS


def _stop(*_: object) -> NoReturn:
    """On the way out the row ends what it has started."""
    sys.exit(1)


def main() -> None:
    """The arguments are the row's name, a directory, how many rounds, MiB of a database or 0, and perhaps `--tiny`."""
    name, directory, rounds, database, *tiny = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    if not sys.stdin.readline():
        sys.exit("nobody waits for this row")
    if name not in ROWS:
        sys.exit("the bench of this commit has no such row")
    try:
        sizes = replace(TINY if tiny else Sizes(), rounds=int(rounds))
        if int(database):
            sizes = replace(sizes, database=int(database) * 2**20)
        row = ROWS[name](Path(directory), sizes)
    except BenchError as error:
        sys.exit(str(error))
    print(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()
