"""Blue and green: the selector of a Service says which of several workloads gets its traffic.

The releases are the colours. The idle one must be rolled out and answer at its own address, else nothing is touched;
then one key of the selector changes, and the Service's EndpointSlices are followed until they name no other pod.
https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import Change, Release
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.healthy import asked_at, must_be_healthy
from rollbackd_adapters.kubernetes import lacking, rollout
from rollbackd_adapters.kubernetes.client import Object
from rollbackd_adapters.kubernetes.owners import owner_refusals, owners_of
from rollbackd_adapters.kubernetes.settings import BlueGreenSettings, proxied
from rollbackd_adapters.kubernetes.watched_layer import WatchedLayer
from rollbackd_adapters.kubernetes.workload import Workload
from rollbackd_adapters.traces import Trace


def rights(settings: BlueGreenSettings) -> list[tuple[str, str, str]]:
    """Verb, API group and resource of all that a layer asks and does in its namespace."""
    kinds = sorted({f"{workload.partition('/')[0]}s" for workload in settings.colours.values()})
    found = [(verb, "", "services") for verb in ("get", "patch")]
    if any(proxied(address, "") for address in settings.healthy.values()):
        found.append(("get", "", "services/proxy"))
    found += [("list", "", "pods"), ("list", "discovery.k8s.io", "endpointslices")]
    return [*found, *(("get", "apps", kind) for kind in kinds)]


class ServiceColours(WatchedLayer[BlueGreenSettings]):
    """One Service."""

    settings_model: ClassVar[type[Settings]] = BlueGreenSettings

    def __init__(self, settings: BlueGreenSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._namespace = f"/api/v1/namespaces/{settings.namespace}"
        self._path = f"{self._namespace}/services/{settings.service}"
        self.resource = f"kubernetes:{settings.cluster}/{settings.namespace}/service/{settings.service}"

    async def asked(self) -> Release:
        return self._colour(await self._service())

    async def _of(self, told: bytes) -> Release:
        return self._colour(json.loads(told))

    async def releases(self) -> Sequence[Release]:
        present = await self.asked()
        return [present, *(_release(name) for name in self._settings.colours if name != present.id)]

    async def plan(self, target: Release) -> Change:
        change = await super().plan(target)
        if change.before == change.after:
            return change
        service = await self._service()
        self._refuse(service)
        await self._must_be_rolled_out(change.after.id)
        await (await self._client()).patch(self._path, self._patch(service, change.after.id), dry_run=True)
        lives_on = f"connections that are open stay with {change.before.id} until they end"
        return replace(change, risks=(*change.risks, lives_on))

    async def _move(self, change: Change, trace: Trace, _lock: Lock) -> None:
        service = await self._service()
        if self._colour(service) != change.after:
            self._refuse(service)
            await self._must_be_rolled_out(change.after.id)
            await self._must_be_healthy(change.after.id)
            trace.intend()
            boundary("blue_green.begun")
            service = await (await self._client()).patch(self._path, self._patch(service, change.after.id))
            boundary("blue_green.patched")
        trace.begin(moved=True, selector=service["spec"]["selector"])
        boundary("blue_green.moved")

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        """The change is done when the Service's endpoints have followed."""
        late = self._clock.monotonic() + self._settings.timeout.total_seconds()
        while left := await self._left(trace.known["selector"]):
            if self._clock.monotonic() > late:
                limit = format_duration(self._settings.timeout)
                text = f"service {self._settings.service}: its endpoints have not followed after {limit}: {left}"
                raise AdapterError(text, permanent=False)
            await self._clock.sleep(self._settings.every)
        await super()._finish(change, trace, lock)

    async def _left(self, selector: Mapping[str, str]) -> str:
        """What the endpoints have that they should not, or lack; nothing when they have followed."""
        client = await self._client()
        chosen = ",".join(f"{key}={value}" for key, value in selector.items())
        pods = {pod["metadata"]["uid"] for pod in await client.items(f"{self._namespace}/pods", labelSelector=chosen)}
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._settings.namespace}/endpointslices"
        slices = await client.items(path, labelSelector=f"kubernetes.io/service-name={self._settings.service}")
        served = [endpoint for each in slices for endpoint in each.get("endpoints") or () if _is_served(endpoint)]
        strange = [ref for each in served if (ref := each.get("targetRef") or {}).get("uid") not in pods]
        if strange:
            return f"pod {one_line(str(strange[0].get('name')))} of another colour is among them"
        return "" if served else "there is none yet"

    # -- what must be so ------------------------------------------------------------------------
    async def _must_be_rolled_out(self, colour: str) -> None:
        """:raises AdapterError: not permanent, the colour is not ready for the traffic."""
        named = self._settings.colours[colour]
        workload = Workload(await self._client(), self._settings.namespace, named)
        found = await workload.read()
        counted = rollout.counts(workload.kind, found)
        if not counted.done or not rollout.pods_wanted(workload.kind, found):
            text = f"{colour} ({named}) is not rolled out, so the traffic stays where it is: {counted.words}"
            raise AdapterError(text, permanent=False)

    async def _must_be_healthy(self, colour: str) -> None:
        """:raises AdapterError: not permanent, the colour does not answer at its own address."""
        settings, client = self._settings, await self._client()
        asked = asked_at(settings.healthy[colour], self._place, settings.timeout)
        if path := proxied(settings.healthy[colour], settings.namespace):
            asked = partial(client.proxied, path)
        await must_be_healthy(colour, asked, self._place, times=settings.times, every=settings.every)

    def _refuse(self, service: Object) -> None:
        """:raises AdapterError: permanent, somebody would take the change back."""
        if refused := owner_refusals(owners_of(service, "f:selector"), self._settings.despite):
            raise AdapterError(f"service {self._settings.service}: {refused[0]}", permanent=True)

    async def _problems(self) -> list[str]:
        try:
            client, namespace = await self._client(), self._settings.namespace
            if found := await lacking.missing_rights(client, namespace, rights(self._settings)):
                return found
            self._refuse(await self._service())
        except AdapterError as error:
            return [str(error)]
        return []

    # -- asking ---------------------------------------------------------------------------------
    async def _service(self) -> Object:
        named = f"service {self._settings.service} in namespace {self._settings.namespace}"
        return await (await self._client()).existing(self._path, named, "correct its name")

    def _colour(self, service: Object) -> Release:
        """Which colour the selector names. :raises AdapterError: none of them."""
        label = self._settings.label
        found = str((service["spec"].get("selector") or {}).get(label, ""))
        if found not in self._settings.colours:
            text = f"its selector has {label}={one_line(found)}, which is none of `colours`; correct one of them"
            raise AdapterError(f"service {self._settings.service}: {text}", permanent=False)
        return _release(found)

    def _patch(self, service: Object, colour: str) -> list[dict[str, object]]:
        """The JSON patch that sets one key of the selector, in a Service that is still as it was read."""
        key = self._settings.label.replace("~", "~0").replace("/", "~1")
        return [
            {"op": "test", "path": "/metadata/uid", "value": service["metadata"]["uid"]},
            {"op": "test", "path": "/spec/selector", "value": service["spec"]["selector"]},
            {"op": "replace", "path": f"/spec/selector/{key}", "value": colour},
        ]

    def _check_id(self, release: Release) -> None:
        if release.id not in self._settings.colours:
            known = ", ".join(self._settings.colours)
            raise AdapterError(f"{one_line(release.name)} is not among `colours` ({known})", permanent=True)


def _is_served(endpoint: Object) -> bool:
    """Whether it gets new connections."""
    return (endpoint.get("conditions") or {}).get("ready") is not False


def _release(name: str) -> Release:
    return Release(name, label=name)
