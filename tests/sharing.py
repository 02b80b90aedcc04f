"""Which tests begin first: those that took longest the last time, so that no worker waits for another in the end.

Tests are shared out by module, and by class where a module has classes (`--dist loadscope`): what a worker has started
for one of them serves the others. The last times stand in pytest's cache; without it the order is that of `testpaths`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

import pytest

TIMES = "rollbackd/times"
"""In the cache: seconds of each test."""


def scope(nodeid: str) -> str:
    """What is shared out as a whole. Parameters may hold anything, such as `::`."""
    return nodeid.partition("[")[0].rpartition("::")[0]


def longest_first(nodeids: Iterable[str], times: Mapping[str, float]) -> dict[str, float]:
    """A key for each scope to sort by. A scope with a test that has never run is as long as can be."""
    keys: defaultdict[str, float] = defaultdict(float)
    for nodeid in nodeids:
        keys[scope(nodeid)] -= times.get(nodeid, inf)
    return keys


class Sharing:
    """Knows what each test took the last time, sorts by it, and writes down what each took this time."""

    def __init__(self, config: pytest.Config) -> None:
        self._cache: pytest.Cache | None = getattr(config, "cache", None)  # none with `-p no:cacheprovider`
        # All workers must sort alike: theirs are the controller's.
        given = getattr(config, "workerinput", None)
        self._keeps = given is None
        self._times: dict[str, float] = given["times"] if given is not None else self._kept()
        self._new: defaultdict[str, float] = defaultdict(float)

    def _kept(self) -> dict[str, float]:
        return dict(self._cache.get(TIMES, {})) if self._cache is not None else {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["times"] = self._times

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        key = longest_first((item.nodeid for item in items), self._times)
        items.sort(key=lambda item: key[scope(item.nodeid)])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._new[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        if self._keeps and self._cache is not None:
            self._cache.set(TIMES, {**self._kept(), **self._new})
