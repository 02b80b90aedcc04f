"""What a cluster tells of the objects of one kind in one namespace: one list and watch, for all layers that name it.

It begins when a layer asks, goes on while any does, and may fail at any time: whoever asks is told nothing then, and
asks the API. So nothing is told that the cluster has not confirmed lately, and nothing acts on what is told.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import json
import random
from datetime import timedelta

from rollbackd.adapter import AdapterError
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object

_PAGE = 50
"""Objects of a page: fewer than elsewhere, since the loop stands still while one is parsed."""
_LASTING = timedelta(seconds=30)
"""How long a server is asked to tell at most; it says that it is still there two seconds before the end."""
_REQUESTS = 3
"""The same in times of `request_timeout`, for clusters that are to answer sooner."""
_WANTED = timedelta(minutes=5)
"""How long after the last question a watch goes on."""
_LARGEST = 64 * 2**20
"""Bytes of all records."""
_SOUND = timedelta(seconds=5)
"""A watch that ended sooner than that counts as failed, however it ended."""
_LONGEST_PAUSE = timedelta(minutes=1)
_HOPELESS = timedelta(minutes=5)
"""The pause after what trying again does not help, such as a right that is missing."""
_NEVER, _NOT_YET = float("-inf"), float("inf")
_NOTES = frozenset({"managedFields", "resourceVersion", "generation"})
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation that repeats the whole object."""


class Watch:
    """The objects of one list, by their names, as the cluster told of them last."""

    def __init__(self, client: KubernetesClient, path: str, clock: Clock) -> None:
        """:param path: of the list in the API."""
        self._client = client
        self._path = path
        self._clock = clock
        self._lasting = min(_LASTING, max(timedelta(seconds=1), client.request_timeout * _REQUESTS))
        self._records: dict[str, bytes] = {}
        self._size = 0
        self._version = ""
        self._listed = _NEVER
        """When the list was asked for that all of this goes back to; monotonic."""
        self._heard = _NEVER
        """The last sign of life."""
        self._agreed = _NOT_YET
        """When the cluster agreed to the present watch."""
        self._wanted = _NEVER
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._log = log.get("kubernetes").bind(cluster=client.name, path=path)

    def told(self, name: str) -> bytes | None:
        """What the cluster said last of an object, as JSON; None where it has to be asked.

        That is its spec and its metadata, without its status and what people and tools note in it of themselves. What
        is equal is the same: nothing that matters has changed.
        """
        self._wanted = self._clock.monotonic()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"watch {self._path}")
        return self._records.get(name) if self.is_fresh else None

    @property
    def is_fresh(self) -> bool:
        """Whether all that is known was confirmed lately, and nothing was ordered since that it may not know of."""
        silent = self._clock.monotonic() - self._heard
        return self._is_listed and silent < (self._lasting + self._client.request_timeout).total_seconds()

    @property
    def _is_listed(self) -> bool:
        return self._listed > self._client.ordered.get(self._path, _NEVER)

    # -- following ------------------------------------------------------------------------------
    async def _run(self) -> None:
        """Until nobody has asked for a while, or the daemon ends."""
        failed = 0
        try:
            while self._clock.monotonic() - self._wanted < _WANTED.total_seconds():
                self._agreed, rest = _NOT_YET, timedelta()
                try:
                    await self._follow()
                except AdapterError as error:
                    rest = self._take_failure(error)
                lasted = self._clock.monotonic() - self._agreed
                failed = 0 if lasted >= _SOUND.total_seconds() else failed + 1
                await self._clock.sleep(rest + _pause(failed))
        finally:
            self._forget()
            self._task = None

    async def _follow(self) -> None:
        """One request's time of events, from a new list where need be. :raises AdapterError: it failed."""
        await self._client.identify()
        if not self._is_listed:
            await self._list()
        await self._client.watch(self._path, self._version, self._lasting, self._take)
        self._heard = self._clock.monotonic()

    def _take_failure(self, error: AdapterError) -> timedelta:
        """What is known is not answered from until the cluster is heard again; how long it wants to be left alone."""
        self._heard = _NEVER
        if not self._failing:
            self._log.info("a watch has failed, so the cluster is asked at each look", error=str(error))
        self._failing = True
        if error.permanent or (isinstance(error, KubernetesError) and error.is_too_old):
            self._forget()
        rest = error.rest if isinstance(error, KubernetesError) else None
        return _HOPELESS if error.permanent else rest or timedelta()

    async def _list(self) -> None:
        """All that there is; what is not among it is gone. :raises AdapterError: it cannot be had."""
        begun = self._clock.monotonic()
        self._forget()
        async for objects, version in self._client.pages(self._path, limit=str(_PAGE)):
            for each in objects:
                self._keep(each)
            self._version = version
        self._listed = self._heard = begun

    def _take(self, event: Object | None) -> None:
        """An event, or None for the server's word that it goes on from where we are."""
        self._heard, self._failing = self._clock.monotonic(), False
        if event is None:
            self._agreed = self._heard
            return
        kind, found = event.get("type"), event["object"]
        if kind == "DELETED":
            self._drop(self._name(found))
        elif kind != "BOOKMARK":
            self._keep(found)
        self._version = str((found.get("metadata") or {}).get("resourceVersion") or self._version)

    # -- records --------------------------------------------------------------------------------
    def _keep(self, found: Object) -> None:
        name = self._name(found)
        self._drop(name)
        try:
            record = self._records[name] = _record(found)
        except RecursionError:
            raise self._unfit(f"{name} is nested too deeply") from None
        self._size += len(record)
        if self._size > _LARGEST:
            raise self._unfit(f"its objects have more than {_LARGEST // 2**20} MiB")

    def _drop(self, name: str) -> None:
        self._size -= len(self._records.pop(name, b""))

    def _forget(self) -> None:
        self._records.clear()
        self._size, self._version, self._listed = 0, "", _NEVER

    def _name(self, found: Object) -> str:
        """:raises KubernetesError: it is no object."""
        metadata = found.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            raise self._unfit("what it told is no object")
        return str(metadata["name"])

    def _unfit(self, text: str) -> KubernetesError:
        return KubernetesError(f"cluster {self._client.name}: watch of {self._path}: {text}", permanent=True)


def _record(found: Object) -> bytes:
    metadata = {key: value for key, value in found["metadata"].items() if key not in _NOTES}
    if isinstance(annotations := metadata.get("annotations"), dict):
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
    return json.dumps({"metadata": metadata, "spec": found.get("spec")}, separators=(",", ":")).encode()


def _pause(failed: int) -> timedelta:
    """Between two requests, longer after each that failed; by chance, so that not all come at once."""
    longest = min(_LONGEST_PAUSE.total_seconds(), 2.0 ** min(failed, 9))
    return timedelta(seconds=random.uniform(longest / 2, longest))  # noqa: S311  # nobody is to be kept from guessing it


def told_of(client: KubernetesClient, path: str, clock: Clock) -> bytes | None:
    """What the cluster said last of an object, by its path, as `Watch.told` gives it."""
    listed, _, name = path.rpartition("/")
    if listed not in client.watches:
        client.watches[listed] = Watch(client, listed, clock)
    watch: Watch = client.watches[listed]
    return watch.told(name)
