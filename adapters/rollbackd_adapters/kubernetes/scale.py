"""Workloads of Kubernetes at 0 while a service goes back, such as workers that must not touch its data meanwhile.

A bracket, never a step. Deployments and StatefulSets get 0 replicas, CronJobs are suspended, and the KEDA ScaledObject
of a workload is paused. Each is one JSON patch, which notes on the object itself what it was before. Leaving puts back
what is still at rest; what somebody else scaled meanwhile stays. A HorizontalPodAutoscaler does nothing at 0 replicas,
and goes on by itself.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#implicit-maintenance-mode-deactivation
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import one_line
from rollbackd_adapters.brackets import BracketAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.ids import incident_of
from rollbackd_adapters.kubernetes import lacking, rollout
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object, identified_client, segment
from rollbackd_adapters.kubernetes.owners import owner_refusals, owners_of
from rollbackd_adapters.kubernetes.resting import (
    MARK,
    PAUSED,
    Rest,
    RestingField,
    rest_of,
    scales,
    told,
    wakes_from_zero,
)
from rollbackd_adapters.kubernetes.settings import ScaleSettings
from rollbackd_adapters.kubernetes.workload import Workload
from rollbackd_adapters.traces import Trace

_TRIES = 5
"""Looks, when somebody else writes at the same instant."""


def rights(workloads: Sequence[str]) -> list[tuple[str, str, str]]:
    """Verb, API group and resource of all that a layer asks and does in its namespace."""
    kinds = {workload.partition("/")[0] for workload in workloads}
    found = [
        (verb, "batch" if kind == "cronjob" else "apps", f"{kind}s")
        for kind in sorted(kinds)
        for verb in ("get", "patch")
    ]
    if kinds == {"cronjob"}:
        return found
    found += [("list", "apps", "replicasets")] if "deployment" in kinds else []
    found += [("list", "", "pods"), ("list", "autoscaling", "horizontalpodautoscalers")]
    return [*found, *((verb, "keda.sh", "scaledobjects") for verb in ("get", "list", "patch"))]


class ScaleAdapter(BracketAdapter[ScaleSettings]):
    """Some workloads of one namespace."""

    settings_model: ClassVar[type[Settings]] = ScaleSettings

    def __init__(self, settings: ScaleSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"scale:{settings.cluster}/{settings.namespace}/{','.join(sorted(settings.workloads))}"
        self._fields = [_field_of(settings.namespace, workload) for workload in settings.workloads]

    async def inside(self, key: str) -> bool:
        """Whether it was entered and not left. It counts as left when somebody woke all that was put to rest."""
        begun = self._trace(key).begun
        if begun is not None and not (begun.get("entered") and begun.get("was")):
            return bool(begun.get("entered"))
        was = {} if begun is None else begun["was"]  # without our own notes the objects still say it
        client = await self._client()
        for field, present in await self._present(client, await self._all(client), all_there=False):
            rest = rest_of(present)
            if (rest is not None and rest.key == key) or (field.name in was and field.is_at_rest(present)):
                return True
        return False

    async def enter(self, key: str) -> None:
        trace = self._trace(key)
        async with holding(self._spawner, self.resource, self._settings.timeout):
            client = await self._client()
            fields = await self._all(client)
            if found := await self._misfits(client, key, fields):
                raise AdapterError("; ".join(found), permanent=False)
            awake = [(f.name, f.value(p)) for f, p in await self._present(client, fields) if not f.is_at_rest(p)]
            trace.begin(entered=False, was={**trace.known.get("was", {}), **dict(awake)})
            try:
                for field in fields:
                    await self._put_to_rest(client, field, key, trace)
                await self._until_ended(client)
            except AdapterError as why:
                await self._undo(client, fields, key, trace, why)
                raise
            trace.begin(entered=True)

    async def leave(self, key: str) -> None:
        trace = self._trace(key)
        async with holding(self._spawner, self.resource, self._settings.timeout):
            client = await self._client()
            await self._wake_all(client, await self._all(client), key, trace)
            trace.begin(entered=False)

    async def note(self, key: str) -> str:
        """What is at rest, and what it was."""
        begun = self._trace(key).known
        return told(begun.get("was", {})) if begun.get("entered") else ""

    # -- going to rest --------------------------------------------------------------------------
    async def _put_to_rest(self, client: KubernetesClient, field: RestingField, key: str, trace: Trace) -> None:
        for _ in range(_TRIES):
            present = await client.get(field.path)
            was = trace.known.get("was", {})
            if field.is_at_rest(present) and (rest_of(present) is not None or field.name not in was):
                return
            value = was[field.name] if field.is_at_rest(present) else field.value(present)  # KEDA may have been faster
            trace.begin(was={**was, field.name: value})
            boundary("scale.noted")
            if await _patched(client, field, field.to(present, field.rest, str(Rest(key, value, field.rest)))):
                boundary("scale.rests")
                return
        raise self._contended(field)

    async def _until_ended(self, client: KubernetesClient) -> None:
        """Wait until no pod of the workloads is left, also none that still ends."""
        late = self._clock.monotonic() + self._settings.timeout.total_seconds()
        while left := await self._left(client):
            if self._clock.monotonic() > late:
                limit = format_duration(self._settings.timeout)
                text = f"pods have not ended after {limit}: {one_line(', '.join(left))}"
                raise AdapterError(f"{text}; look why they take so long, or give a longer `timeout`", permanent=True)
            await self._clock.sleep(self._settings.every)

    async def _left(self, client: KubernetesClient) -> list[str]:
        found = []
        for name in self._settings.workloads:
            if not name.startswith("cronjob/"):
                workload = Workload(client, self._settings.namespace, name)
                present = await workload.read()
                kept = await workload.revisions(present) if workload.kind == "deployment" else []
                found += rollout.others(await workload.pods(present, kept), workload.hash_label, "")
        return found

    async def _undo(
        self, client: KubernetesClient, fields: Sequence[RestingField], key: str, trace: Trace, why: AdapterError
    ) -> None:
        """Wake what was put to rest before something failed. :raises AdapterError: that failed too."""
        try:
            await self._wake_all(client, fields, key, trace)
        except AdapterError as error:
            rest = told(trace.known.get("was", {}))
            raise AdapterError(f"{why}; putting back failed too: {error}; {rest}", permanent=False) from error

    # -- waking ---------------------------------------------------------------------------------
    async def _wake_all(self, client: KubernetesClient, fields: Sequence[RestingField], key: str, trace: Trace) -> None:
        """Wake all, the last first. KEDA scales to its pause until that is over: to what was there, before it is."""
        was = dict(trace.known.get("was", {}))
        for field in fields:
            if field.drives in was:
                await self._wake(client, field, key, was, until=str(was[field.drives]))
        for field in reversed(fields):
            await self._wake(client, field, key, was)
            trace.begin(was={name: value for name, value in trace.known.get("was", {}).items() if name != field.name})

    async def _wake(
        self, client: KubernetesClient, field: RestingField, key: str, was: Mapping[str, Any], until: str | None = None
    ) -> None:
        """Put back what one object was, if it is still as we left it, and take the mark away.

        :param until: put that there for the time being, and leave the mark.
        """
        for _ in range(_TRIES):
            if (present := await client.if_there(field.path)) is None:
                return
            rest, value = rest_of(present), field.value(present)
            if rest is None and field.is_at_rest(present) and field.name in was:
                rest = Rest(key, was[field.name], value)
            if rest is None or rest.key != key:
                return
            mark = None if until is None else str(Rest(key, rest.was, until))
            wanted = value if value != rest.now else rest.was if until is None else until
            operations = field.to(present, wanted, mark)
            boundary("scale.waking")
            if await _patched(client, field, operations):
                boundary("scale.woken")
                return
        raise self._contended(field)

    def _contended(self, field: RestingField) -> AdapterError:
        return AdapterError(f"{field.name}: somebody else writes it all the time; trying again", permanent=False)

    # -- what must be so ------------------------------------------------------------------------
    async def _problems(self) -> Sequence[str]:
        try:
            client = await self._client()
            wanted = rights(self._settings.workloads)
            if found := await lacking.missing_rights(client, self._settings.namespace, wanted):
                return found
            return await self._misfits(client, "", await self._all(client))
        except AdapterError as error:
            return [str(error)]

    async def _misfits(self, client: KubernetesClient, key: str, fields: Sequence[RestingField]) -> list[str]:
        """Why they cannot be put to rest, a sentence each."""
        found = []
        path = f"/apis/autoscaling/v2/namespaces/{self._settings.namespace}/horizontalpodautoscalers"
        scaled = [name for name in self._settings.workloads if not name.startswith("cronjob/")]
        scalers = await client.items(path) if scaled else []
        for field, present in await self._present(client, fields):
            kind, _, name = field.name.partition("/")
            if (waking := wakes_from_zero(scalers, kind, name)) and not field.is_at_rest(present):
                found.append(f"{field.name}: its autoscaler {waking} scales it up from 0 again; set minReplicas: 1")
            rest = rest_of(present)
            if rest is not None and rest.key != key and field.is_at_rest(present):
                text = f"is at rest for incident {one_line(incident_of(rest.key))}, it was at {one_line(str(rest.was))}"
                found.append(f"{field.name} {text}; end that first, or take its annotation {MARK} away")
            if kind != "scaledobject":
                refused = owner_refusals(owners_of(present, f"f:{field.field[-1]}"), self._settings.despite)
                found += [f"{field.name}: {text}" for text in refused]
        return found

    # -- asking ---------------------------------------------------------------------------------
    async def _client(self) -> KubernetesClient:
        return await identified_client(self._place, self._settings.cluster)

    async def _all(self, client: KubernetesClient) -> list[RestingField]:
        """The ScaledObjects of the workloads, which are paused first, then the workloads."""
        driven = [field.name for field in self._fields if field.field[-1] == "replicas"]
        if not driven:
            return self._fields
        path = f"/apis/keda.sh/v1alpha1/namespaces/{self._settings.namespace}/scaledobjects"
        found = []
        for each in await client.items_if_known(path):
            name = str(each["metadata"]["name"])
            field = ("metadata", "annotations", PAUSED)
            found += [
                RestingField(f"scaledobject/{name}", f"{path}/{segment(name)}", field, "0", workload)
                for workload in driven
                if scales(each, *workload.split("/"))
            ]
        return [*found, *self._fields]

    async def _present(
        self, client: KubernetesClient, fields: Sequence[RestingField], *, all_there: bool = True
    ) -> list[tuple[RestingField, Object]]:
        """The objects. :raises AdapterError: one that is to be there is not."""
        found = []
        for field in fields:
            if all_there:
                named = f"{field.name} in namespace {self._settings.namespace}"
                found.append((field, await client.existing(field.path, named, "correct its name")))
            elif (present := await client.if_there(field.path)) is not None:
                found.append((field, present))
        return found


def _field_of(namespace: str, workload: str) -> RestingField:
    kind, _, name = workload.partition("/")
    if kind == "cronjob":
        path = f"/apis/batch/v1/namespaces/{namespace}/cronjobs/{name}"
        return RestingField(workload, path, ("spec", "suspend"), rest=True)
    path = f"/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}"
    return RestingField(workload, path, ("spec", "replicas"), rest=0)


async def _patched(client: KubernetesClient, field: RestingField, operations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the server took it; not when somebody else was faster."""
    try:
        await client.patch(field.path, operations)
    except KubernetesError as error:
        if error.is_conflict:
            return False
        raise
    return True
