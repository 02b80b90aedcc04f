"""What a cluster tells of one workload while it changes, so that nobody has to ask again and again how far it is.

It may fail at any time, and a proxy may swallow it: then the workload is asked, as where the right to watch is missing.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from rollbackd.adapter import AdapterError
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end, until_first
from rollbackd_adapters.kubernetes.client import Object
from rollbackd_adapters.kubernetes.templates import is_template
from rollbackd_adapters.kubernetes.workload import Workload

_THERE = frozenset({"ADDED", "MODIFIED"})


class WorkloadNews:
    """Follows one workload, from the first question on until it is ended."""

    def __init__(self, workload: Workload, clock: Clock, lasting: timedelta) -> None:
        """:param lasting: how long the cluster is to tell at most."""
        self._workload = workload
        self._clock = clock
        self._lasting = lasting
        self._told: Object | None = None
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def next(self, present: Object, every: timedelta, unasked: timedelta) -> Object:
        """The workload as it is next.

        :param present: as it was seen last.
        :param every: it is asked after so long when nobody tells of it,
        :param unasked: and after so long while somebody may.
        :raises AdapterError: it is asked, and is not there, or cannot be asked.
        """
        if self._task is None:
            version = str(present["metadata"]["resourceVersion"])
            self._task = asyncio.create_task(self._follow(version), name=f"watch {self._workload.path}")
        await until_first(self._clock.sleep(every if self._task.done() else unasked), self._came.wait())
        self._came.clear()
        told, self._told = self._told, None
        return told or await self._workload.read()

    async def end(self) -> None:
        await end([self._task] if self._task is not None else [])

    async def _follow(self, version: str) -> None:
        listed, _, name = self._workload.path.rpartition("/")
        with suppress(AdapterError):
            await self._workload.client.watch(
                listed, version, self._lasting, self._take, fieldSelector=f"metadata.name={name}"
            )
        self._came.set()

    def _take(self, event: Object | None) -> None:
        if event is None or event.get("type") == "BOOKMARK":
            return
        found = event["object"]
        is_whole = event.get("type") in _THERE and is_template((found.get("spec") or {}).get("template"))
        self._told = found if is_whole else None
        self._came.set()
