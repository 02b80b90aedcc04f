"""PostgreSQL databases copied, restored beside and put in place, against the same commands by hand: PostgreSQL's own
programs with the same jobs and the same level, one after the other; verification is a hash and a count of rows of each
file, a count of each table, and the schema dumped once more.

In turns, each with nothing left to write. The data do not compress away.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.host import BenchError, wait_until
from bench.measure import Row, Sizes, middle, span
from bench.postgres_server import JOBS, LEVEL, BenchServer, served
from rollbackd.model import Release
from rollbackd.system.clock import SystemClock
from rollbackd.testing import finish, perform, place, planned
from rollbackd_adapters.postgres import PostgresAdapter
from rollbackd_adapters.postgres.settings import PostgresSettings

MOST_COPY, MOST_RESTORE, MOST_BESIDE, MOST_POINT = 1.2, 1.25, 1.15, 1.2
MOST_CLOSED = 1.0
"""Seconds."""
CLIENTS = 50
_SMALL = 20 * 2**20
_ROUNDS = 3
_LIMIT = timedelta(hours=1)
_CLIENTS_PROGRAM = Path(__file__).with_name("postgres_clients.py")


def measure_copy(root: Path, sizes: Sizes) -> Row:
    """A copy against `pg_dump`."""
    with served(root) as server:
        server.fill("shop", sizes.database)
        layer, times = _layer(server, root, "shop"), _Times(server)
        for number in range(min(sizes.rounds, _ROUNDS)):
            dump = root / f"dump-{number}"
            theirs = times.of(lambda dump=dump: server.dump("shop", dump))  # type: ignore[misc]
            ours = times.of(lambda name=f"copy-{number}": finish(layer.take(name), _LIMIT))  # type: ignore[misc]
            times.rounds.append((theirs, ours))
            shutil.rmtree(dump)
            shutil.rmtree(root / "scratch/store")
        (ratios,) = times.ratios
        return Row(
            what=f"a copy of a PostgreSQL database of {_size(server)}, read again as a whole",
            measured=f"{middle(ratios):.2f}",
            floor=f"1, {times.middle(0):.1f} s of pg_dump with {JOBS} jobs at level {LEVEL}",
            rest=f"{times.middle(1):.1f} s; rounds {span(ratios, '.2f')}",
            must=f"<= {MOST_COPY}",
            ok=middle(ratios) <= MOST_COPY,
        )


def measure_restore(root: Path, sizes: Sizes) -> Row:
    """A restore beside the present that is dropped again, and one that keeps the present and is put in place."""
    with served(root) as server:
        server.fill("shop", sizes.database)
        layer, times = _layer(server, root, "shop"), _Times(server)
        finish(layer.take("good"), _LIMIT)
        for number in range(min(sizes.rounds, _ROUNDS)):
            dump = root / f"dump-{number}"
            dumped = times.of(lambda dump=dump: server.dump("shop", dump))  # type: ignore[misc]
            theirs = times.of(lambda dump=dump: server.restore(dump, "by_hand"))  # type: ignore[misc]
            server.sql("DROP DATABASE by_hand")
            shutil.rmtree(dump)
            alone = times.of(lambda: _nothing_wrong(layer, "good"))
            beside = times.of(lambda key=f"bench-{number}": finish(layer.restore("good", key), _LIMIT))  # type: ignore[misc]
            times.rounds.append((theirs, alone, dumped + theirs, beside))
            _back(server, layer, root, number)
        alone_ratios, beside_ratios = times.ratios
        return Row(
            what=f"a PostgreSQL database of {_size(server)} restored, analyzed and verified; then with the present's"
            " dump beside it, and put in place",
            measured=f"{middle(alone_ratios):.2f}, {middle(beside_ratios):.2f}",
            floor=f"1, {times.middle(0):.1f} s by hand with {JOBS} jobs; 1, {times.middle(2):.1f} s after pg_dump",
            rest=f"{times.middle(1):.1f} s, {times.middle(3):.1f} s; rounds {span(alone_ratios, '.2f')},"
            f" {span(beside_ratios, '.2f')}",
            must=f"<= {MOST_RESTORE}, <= {MOST_BESIDE}",
            ok=middle(alone_ratios) <= MOST_RESTORE and middle(beside_ratios) <= MOST_BESIDE,
        )


def measure_closed(root: Path, sizes: Sizes) -> Row:
    """How long no client could commit while the names were changed, there and back, of a small and a large database."""
    found, slowest = [], []
    with served(root) as server:
        for name, size in (("small", min(_SMALL, sizes.database)), ("shop", sizes.database)):
            server.fill(name, size)
            server.sql("CREATE TABLE commits (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)", database=name)
            layer = _layer(server, root / name, name)
            good = finish(layer.take("good"), _LIMIT)
            finish(layer.restore("good", "bench"), _LIMIT)
            gaps = []
            for number in range(min(sizes.rounds, _ROUNDS)):
                goal = Release(good.release if number % 2 else "original")
                change = finish(planned(layer, goal, f"bench-{number}/0/layer"))
                with _clients(server, name, root) as log:
                    finish(perform(layer, change), _LIMIT)
                gaps.append(_gaps(log))
            found.append(middle([gap for gap, _ in gaps]))
            slowest.append(max(worst for _, worst in gaps))
        return Row(
            what=f"no client of {CLIENTS} could commit while a database of {_size(server, 'small')} was put in place;"
            f" one of {_size(server)}",
            measured=", ".join(f"{gap:.2f} s" for gap in found),
            floor="0 s",
            rest=f"until the last of them had committed again at most {max(slowest):.2f} s",
            must=f"<= {MOST_CLOSED:g} s both",
            ok=max(found) <= MOST_CLOSED,
        )


def measure_point(root: Path, sizes: Sizes) -> Row:
    """A mark in the log recovered in a scratch cluster, dumped, restored beside and verified."""
    with served(root, "archive_mode=on") as server:
        server.fill("shop", sizes.database)
        server.back_up()
        layer, times = _layer(server, root, "shop", pgbackrest=server.pgbackrest), _Times(server)
        finish(layer.mark(SystemClock().now(), "bench"))
        server.wait_until_archived()
        (mark,) = [one.name for one in finish(layer.snapshots())]
        manifest = json.loads((root / f"scratch/store/{mark}/manifest.json").read_bytes())
        name = manifest["facts"]["point"]["name"]
        for number in range(min(sizes.rounds, _ROUNDS)):
            dump = root / f"dump-{number}"
            theirs = times.of(lambda dump=dump: _by_hand(server, name, dump))  # type: ignore[misc]
            server.sql("DROP DATABASE by_hand")
            shutil.rmtree(dump)
            times.rounds.append((theirs, times.of(lambda: _nothing_wrong(layer, mark))))
        (ratios,) = times.ratios
        return Row(
            what=f"a point in time of a PostgreSQL database of {_size(server)} recovered, restored and verified",
            measured=f"{middle(ratios):.2f}",
            floor=f"1, {times.middle(0):.1f} s by hand with pgbackrest, pg_dump and pg_restore, {JOBS} jobs each",
            rest=f"{times.middle(1):.1f} s; rounds {span(ratios, '.2f')}",
            must=f"<= {MOST_POINT}",
            ok=middle(ratios) <= MOST_POINT,
        )


class _Times:
    """What was measured, a tuple for each round: theirs and ours in turns."""

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self.rounds: list[tuple[float, ...]] = []

    def of(self, work: Callable[[], object]) -> float:
        """Seconds of it, begun with nothing left to write."""
        self._server.settle()
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    def middle(self, column: int) -> float:
        return middle([one[column] for one in self.rounds])

    @property
    def ratios(self) -> list[list[float]]:
        """Ours by theirs, of each round, for each pair."""
        return [[one[n + 1] / one[n] for one in self.rounds] for n in range(0, len(self.rounds[0]), 2)]


def _layer(server: BenchServer, root: Path, database: str, **more: Any) -> Any:
    given = {"adapter": "postgres", "dsn": server.dsn(database), "floor": 0, "volumes": [str(server.directory)], **more}
    return PostgresAdapter(PostgresSettings.model_validate(given), place(root))


def _nothing_wrong(layer: Any, name: str) -> None:
    if problems := finish(layer.rehearse(name), _LIMIT):
        raise BenchError(problems[0].text)


def _back(server: BenchServer, layer: Any, root: Path, number: int) -> None:
    """Have the present from before a restore again, and nothing else."""
    change = finish(planned(layer, Release("original"), f"back-{number}/0/layer"))
    finish(perform(layer, change), _LIMIT)
    for (name,) in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop_rollbackd_old_%'"):
        server.sql(f'DROP DATABASE "{name}"')
    for copy in (root / "scratch/store").glob("snapshot-before-*"):
        shutil.rmtree(copy)


def _by_hand(server: BenchServer, mark: str, dump: Path) -> None:
    server.recover(mark, "shop", dump)
    server.restore(dump, "by_hand")


@contextmanager
def _clients(server: BenchServer, database: str, root: Path) -> Iterator[Path]:
    """Clients that commit all the while, and note when each commit was acknowledged."""
    log = root / "commits"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir(parents=True)
    argv = [sys.executable, str(_CLIENTS_PROGRAM), server.dsn(database), str(CLIENTS), str(log)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: _committed(log) == CLIENTS, "the first commit of each client")
            yield log
            before = {path: path.stat().st_size for path in log.iterdir()}
            wait_until(lambda: all(path.stat().st_size > size for path, size in before.items()), "each client's next")
        finally:
            process.communicate(timeout=60)


def _committed(log: Path) -> int:
    return sum(1 for path in log.iterdir() if path.stat().st_size)


def _gaps(log: Path) -> tuple[float, float]:
    """The longest time in which nobody committed, and the longest in which one of them did not, in seconds."""
    clients = [sorted(map(float, path.read_text().split())) for path in log.iterdir()]
    everybody = sorted(at for client in clients for at in client)
    return _longest(everybody), max(map(_longest, clients))


def _longest(times: list[float]) -> float:
    return max((later - at for at, later in pairwise(times)), default=0.0)


def _size(server: BenchServer, database: str = "shop") -> str:
    return f"{server.size(database) / 2**20:,.0f} MiB"
