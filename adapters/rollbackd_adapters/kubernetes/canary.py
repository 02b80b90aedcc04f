"""A canary of Istio or the Gateway API: the share of the traffic that a route sends to it goes to 0, in stages.

Only the two weights of one rule change, each time by one JSON patch that compares the rule. A canary never goes up
here. Before the first stage the stable workload must be ready for all of the traffic; between two stages a check may
be asked, and when it is bad the rest goes at once.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import Change, CheckResult, Progress, Release, Verdict
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.kubernetes import lacking, rollout
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object
from rollbackd_adapters.kubernetes.owners import owner_refusals, owners_of, rollouts_of
from rollbackd_adapters.kubernetes.resting import scaled_to_zero, scales
from rollbackd_adapters.kubernetes.settings import CanarySettings
from rollbackd_adapters.kubernetes.watched_layer import WatchedLayer
from rollbackd_adapters.kubernetes.weights import KINDS, SHARE, STABLE_ONLY, Split, split_of, unaccepted
from rollbackd_adapters.kubernetes.workload import Workload
from rollbackd_adapters.traces import Trace, progress_of

_CONFLICTS = 5
_LOOK = timedelta(milliseconds=500)
"""Between two looks at what a gateway says."""


def rights(settings: CanarySettings) -> list[tuple[str, str, str]]:
    """Verb, API group and resource of all that a layer asks and does in its namespace."""
    kind = KINDS[settings.route.partition("/")[0]]
    workloads = sorted({each.partition("/")[0] for each in (settings.stable_workload, settings.canary_workload)})
    found = [("get", kind.group, kind.resource), ("patch", kind.group, kind.resource)]
    found += [*(("get", "apps", f"{each}s") for each in workloads), ("list", "argoproj.io", "rollouts")]
    if settings.scale_down:
        scaled = f"{settings.canary_workload.partition('/')[0]}s"
        found += [("patch", "apps", scaled), ("list", "keda.sh", "scaledobjects")]
    return found


class CanaryAdapter(WatchedLayer[CanarySettings]):
    """One rule of one route."""

    settings_model: ClassVar[type[Settings]] = CanarySettings

    def __init__(self, settings: CanarySettings, place: Place) -> None:
        super().__init__(settings, place)
        kind, _, name = settings.route.partition("/")
        self._kind = KINDS[kind]
        path = f"/apis/{self._kind.group}/v1/namespaces/{settings.namespace}/{self._kind.resource}"
        self._path = f"{path}/{name}"
        self.resource = f"kubernetes:{settings.cluster}/{settings.namespace}/{settings.route}"
        self._ask: Callable[[str], Awaitable[CheckResult]] | None = None

    async def asked(self) -> Release:
        return self._split(await self._route()).release

    async def _of(self, told: bytes) -> Release:
        return self._split(json.loads(told)).release

    async def releases(self) -> Sequence[Release]:
        """What it is, and none: what else a share was once is no place to go back to."""
        present = await self.asked()
        return [present] if present == STABLE_ONLY else [present, STABLE_ONLY]

    async def plan(self, target: Release) -> Change:
        change = await super().plan(target)
        if change.before == change.after:
            return change
        client, route = await self._client(), await self._route()
        await self._refuse(client, route)
        if said := self._unaccepted(route):
            raise self._unfit(said, permanent=False)
        await self._must_take_all(client)
        split = self._split(route)
        await client.patch(self._path, self._patch(route, split, 0)[1], dry_run=True)
        told = [f"connections that are open stay with {self._settings.canary} until they end"]
        if self._settings.scale_down:
            workload = await self._canary_workload(client)
            if workload is not None:
                await self._refuse_scaling(client, workload)
                told.append(f"{self._settings.canary_workload} is scaled to 0 in the end")
        aside = f"{self._settings.canary} gets no traffic again from here; whoever runs the canary starts it anew"
        return replace(change, risks=(*change.risks, *told), aside=aside)

    async def apply_in_stages(self, change: Change, ask: Callable[[str], Awaitable[CheckResult]]) -> None:
        self._ask = ask
        await self.apply(change)

    async def _move(self, change: Change, trace: Trace, _lock: Lock) -> None:
        client, conflicts = await self._client(), 0
        while True:
            route = await self._taken_over()
            split = self._split(route)
            if split.release == STABLE_ONLY:
                break
            if split.release.id not in {change.before.id, *trace.known.get("shares", ())}:
                raise await self._superseded()
            if await self._paused(trace):
                continue
            await self._refuse(client, route)
            await self._must_take_all(client)
            share, operations = self._patch(route, split, self._next(split, trace))
            if trace.begun is None:
                trace.intend()
            trace.begin(shares=[*trace.known.get("shares", ()), share.id])
            boundary("canary.noted")
            try:
                await client.patch(self._path, operations)
            except KubernetesError as error:
                if not error.is_conflict:
                    raise
                conflicts += 1
                if conflicts == _CONFLICTS:
                    raise self._unfit("somebody else writes it all the time", permanent=False) from error
                continue
            boundary("canary.staged")
            trace.begin(staged=self._clock.now().isoformat())
        if trace.begun is None:
            trace.intend()
        trace.begin(moved=True)
        boundary("canary.moved")

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        if self._settings.scale_down:
            client = await self._client()
            workload = await self._canary_workload(client)
            if workload is not None and rollout.pods_wanted("", workload):
                await self._refuse_scaling(client, workload)
                path = Workload(client, self._settings.namespace, self._settings.canary_workload).path
                boundary("canary.scaling")
                await client.patch(path, scaled_to_zero(workload))
                boundary("canary.scaled")
        await super()._finish(change, trace, lock)

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        share, begun = await self._present_id(), trace.known
        if trace.done is None and not begun.get("moved") and share in begun.get("shares", ()):
            return Progress.NOT_STARTED
        return progress_of(trace, change, share)

    # -- stages ---------------------------------------------------------------------------------
    async def _paused(self, trace: Trace) -> bool:
        """Whether there was a pause between two stages. After it the check is asked, and when it is bad the rest goes
        at once, also after a crash.
        """
        begun = trace.known
        if not begun.get("staged"):
            return False
        waited = max(self._clock.now() - datetime.fromisoformat(str(begun["staged"])), timedelta())
        if waited < self._settings.every:
            await self._clock.sleep(self._settings.every - waited)
        bad = False
        if self._settings.between and self._ask is not None:
            bad = (await self._ask(self._settings.between)).verdict is Verdict.BAD
        trace.begin(staged="", straight=bad)
        return True

    def _next(self, split: Split, trace: Trace) -> int:
        """The canary's weight at the next stage, which is less than now."""
        if trace.known.get("straight"):
            return 0
        weights = map(split.weight_at, self._settings.stages)
        return next(weight for weight in weights if weight < split.canary[1])

    async def _taken_over(self) -> Object:
        """The route, once its gateways have taken over what it is now."""
        late = self._clock.monotonic() + self._settings.timeout.total_seconds()
        while said := self._unaccepted(route := await self._route()):
            if self._clock.monotonic() > late:
                raise self._unfit(f"{said}, after {format_duration(self._settings.timeout)}", permanent=False)
            await self._clock.sleep(min(_LOOK, self._settings.every))
        return route

    def _patch(self, route: Object, split: Split, weight: int) -> tuple[Release, list[dict[str, Any]]]:
        share, operations = split.moved(weight)
        return share, [{"op": "test", "path": "/metadata/uid", "value": route["metadata"]["uid"]}, *operations]

    # -- what must be so ------------------------------------------------------------------------
    async def _refuse(self, client: KubernetesClient, route: Object) -> None:
        """:raises AdapterError: permanent, somebody else moves the weights."""
        kind, _, name = self._settings.route.partition("/")
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{self._settings.namespace}/rollouts"
        rollouts = await client.items_if_known(path)
        owners = (*owners_of(route, f"f:{self._kind.rules}"), *rollouts_of(rollouts, kind, name))
        if refused := owner_refusals(owners, self._settings.despite):
            raise self._unfit(refused[0], permanent=True)

    async def _must_take_all(self, client: KubernetesClient) -> None:
        """:raises AdapterError: not permanent, the stable workload is not ready for all of the traffic."""
        name = self._settings.stable_workload
        stable = Workload(client, self._settings.namespace, name)
        found = await stable.read()
        counted = rollout.counts(stable.kind, found)
        canary = await self._canary_workload(client)
        needed = max(self._settings.at_least, rollout.available(canary or {}))
        if not counted.done or rollout.available(found) < needed:
            text = f"{name} is not ready for all of the traffic, which takes {needed} pods: {counted.words}"
            raise AdapterError(f"{text}; so it stays where it is", permanent=False)

    async def _canary_workload(self, client: KubernetesClient) -> Object | None:
        """None when it is gone."""
        return await client.if_there(Workload(client, self._settings.namespace, self._settings.canary_workload).path)

    async def _refuse_scaling(self, client: KubernetesClient, workload: Object) -> None:
        """:raises AdapterError: permanent, somebody would scale the canary up again."""
        name = self._settings.canary_workload
        path = f"/apis/keda.sh/v1alpha1/namespaces/{self._settings.namespace}/scaledobjects"
        for each in await client.items_if_known(path):
            if scales(each, *name.split("/")):
                text = f"KEDA's {each['metadata']['name']} would scale it up again; leave `scale_down` out"
                raise AdapterError(f"{name}: {text}", permanent=True)
        if refused := owner_refusals(owners_of(workload, "f:replicas"), self._settings.despite):
            raise AdapterError(f"{name}: {refused[0]}", permanent=True)

    def _unaccepted(self, route: Object) -> str:
        return one_line(unaccepted(route)) if self._kind.resource == "httproutes" else ""

    def _unfit(self, text: str, *, permanent: bool) -> AdapterError:
        return AdapterError(f"{self._settings.route}: {text}", permanent=permanent)

    async def _problems(self) -> list[str]:
        try:
            client = await self._client()
            if found := await lacking.missing_rights(client, self._settings.namespace, rights(self._settings)):
                return found
            route = await self._route()
            self._split(route)
            await self._refuse(client, route)
            if said := self._unaccepted(route):
                raise self._unfit(said, permanent=False)
            await self._must_take_all(client)
        except AdapterError as error:
            return [str(error)]
        return []

    # -- asking ---------------------------------------------------------------------------------
    async def _route(self) -> Object:
        named = f"{self._settings.route} in namespace {self._settings.namespace}"
        return await (await self._client()).existing(self._path, named, "correct its name, or install its CRD")

    def _split(self, route: Object) -> Split:
        settings = self._settings
        try:
            return split_of(route, self._kind, settings.rule, settings.stable, settings.canary)
        except ValueError as error:
            raise self._unfit(f"{error}; correct one of them", permanent=False) from None

    def _check_id(self, release: Release) -> None:
        check_own(release, SHARE, "a share of traffic")
