"""The history of queries: fetched from Prometheus in chunks, and read a chunk at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from rollbackd.backtest.cache import HistoryCache
from rollbackd.backtest.grid import Grid
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import MISSING, Row
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

SETTLED = timedelta(minutes=5)
"""How old a time must be before its points are final: Prometheus may still take some in."""
_AT_ONCE = 2
"""How many queries are under way at once, each with one chunk: more answers do not fit into the memory."""
_FEWEST = 30
"""Points of one series in the smallest question."""
_POINTS = 600_000
"""How many numbers one question may be expected to bring, by what the one before it brought."""
_HANGS = 2
"""So many questions in a row that take all of their time end it: smaller ones do not help."""
_RESIDENT = 2
"""Chunks of each query that stay in memory."""

Progress = Callable[[int, int], None]
"""Told how many chunks are there, of how many."""


class HistoryUnavailable(Exception):  # noqa: N818  # a state of the server
    """A part of the past could not be fetched; the sentence says which and why."""


class History:
    """What some queries said at each poll of a grid."""

    def __init__(
        self, prometheus: Prometheus, address: str, timeout: timedelta, cache: HistoryCache, grid: Grid, clock: Clock
    ) -> None:
        """:param address: tells one server's chunks from another's. :param timeout: of one question."""
        self._prometheus = prometheus
        self._address = address
        self._timeout = timeout
        self._cache = cache
        self.grid = grid
        self._clock = clock
        self.known: dict[str, Grid] = {}
        """The queries that were fetched, each with the polls that are there."""
        self._resident: OrderedDict[tuple[str, int], tuple[Row, ...]] = OrderedDict()
        self.silent: set[str] = set()
        """Queries that had no series in any chunk."""

    # -- fetching -------------------------------------------------------------------------------
    async def fetch(self, queries: dict[str, timedelta], told: Progress) -> None:
        """Have every chunk of these queries at hand, each from so long before the grid's begin.

        :raises HistoryUnavailable: CacheUnusable: what was fetched until then is kept.
        """
        grids = {query: self.grid.before(back) for query, back in queries.items()}
        work = [(query, chunk) for query, grid in grids.items() for chunk in grid.chunks()]
        done = 0
        limit = asyncio.Semaphore(_AT_ONCE)
        self.silent = set(queries)

        async def one_query(query: str) -> None:
            nonlocal done
            async with limit:
                for chunk in grids[query].chunks():
                    if await self._have(query, grids[query], chunk):
                        self.silent.discard(query)
                    done += 1
                    told(done, len(work))

        self.known |= grids
        tasks = [asyncio.ensure_future(one_query(query)) for query in queries]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    async def _have(self, query: str, grid: Grid, chunk: int) -> bool:
        """Fetch a chunk unless it is there; whether it has any series."""
        polls = grid.polls_of(chunk)
        name, final = self._name(query, polls), grid.at(polls[-1]) + SETTLED
        known = self._cache.read(name, len(polls), final)
        if known is not None:
            self._cache.use(name, self._clock.now())
            return bool(known)
        now = self._clock.now()
        rows = await self._asked(query, grid, polls)
        self._cache.write(name, rows, len(polls), now)
        return bool(rows)

    def _name(self, query: str, polls: range) -> str:
        return self._cache.name(self._address, query, self.grid.pace, polls[0], polls[-1])

    async def _asked(self, query: str, grid: Grid, polls: range) -> tuple[Row, ...]:
        """Ask for the polls, in smaller parts where the server cannot answer, or says too much, for so many at once."""
        parts: list[tuple[int, tuple[Row, ...]]] = []
        begin, size, hangs = polls[0], len(polls), 0
        while begin < polls.stop:
            count = min(size, polls.stop - begin)
            asked = self._clock.monotonic()
            answer = await self._prometheus.rows(query, grid.at(begin), grid.pace, count)
            if not answer.problem:
                parts.append((begin, answer.rows))
                begin, hangs = begin + count, 0
                size = min(size, max(_FEWEST, _POINTS // max(1, len(answer.rows))))
                continue
            hung = self._clock.monotonic() - asked >= self._timeout.total_seconds() * 0.9
            hangs = hangs + 1 if hung else hangs
            if count <= _FEWEST or hangs >= _HANGS:
                when = f"{grid.at(begin):%Y-%m-%d %H:%M} UTC"
                said = f"{answer.problem}; asked for {count} points of {' '.join(query.split())[:200]} from {when}"
                raise HistoryUnavailable(f"{said}; what was fetched is kept: run it again to go on")
            size = max(_FEWEST, count // 2)
        return parts[0][1] if len(parts) == 1 else _joined(parts, polls)

    # -- reading --------------------------------------------------------------------------------
    def rows(self, query: str, chunk: int) -> tuple[Row, ...]:
        """The series of a query in a chunk that was fetched, for those of the query's polls that lie in it."""
        key = (query, chunk)
        found = self._resident.get(key)
        if found is None:
            polls = self.known[query].polls_of(chunk)
            read = self._cache.read(self._name(query, polls), len(polls))
            if read is None:
                raise HistoryUnavailable("a part of what was fetched is gone from the cache; run it again")
            found = self._resident[key] = read
            while len(self._resident) > _RESIDENT * len(self.known):
                self._resident.popitem(last=False)
        self._resident.move_to_end(key)
        return found

    def has(self, query: str, polls: Iterable[int]) -> bool:
        """Whether all of these polls of the query were fetched."""
        grid = self.known.get(query)
        return grid is not None and all(grid.first <= poll < grid.end for poll in polls)

    def values_at(self, query: str, poll: int) -> list[tuple[Row, float]]:
        """The series that had a point at a poll."""
        chunk = poll // self.grid.chunk
        place = poll - self.known[query].polls_of(chunk)[0]
        return [(row, row.values[place]) for row in self.rows(query, chunk) if row.values[place] != MISSING]

    def between(self, query: str, first: int, end: int) -> Iterator[tuple[range, list[Row]]]:
        """The series of a query from one poll up to another, in parts: the polls of each, and the rows of these."""
        while first < end:
            polls = self.known[query].polls_of(first // self.grid.chunk)
            part = range(first, min(end, polls.stop))
            places = slice(first - polls[0], part.stop - polls[0])
            yield part, [Row(row.labels, row.values[places]) for row in self.rows(query, first // self.grid.chunk)]
            first = part.stop


def _joined(parts: list[tuple[int, tuple[Row, ...]]], polls: range) -> tuple[Row, ...]:
    """The parts of a chunk as one; a series that is not in a part has no points there."""
    whole: dict[frozenset[tuple[str, str]], Row] = {}
    for begin, rows in parts:
        for row in rows:
            key = frozenset(row.labels.items())
            if key not in whole:
                blank = type(row.values)("d", (MISSING,)) * len(polls)
                whole[key] = Row(row.labels, blank)
            place = begin - polls[0]
            whole[key].values[place : place + len(row.values)] = row.values
    return tuple(whole.values())
