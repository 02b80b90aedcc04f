"""Workloads of Kubernetes: Deployment, StatefulSet and DaemonSet go back to a pod template that they had.

A release is the content of the pod template. It is set by one JSON patch, which compares the workload's uid and the
template that was planned from; then the rollout is followed to its end. Templates that were seen are kept first, so
that the cluster's history limit takes none. Replicas and all else stay.
https://kubernetes.io/docs/concepts/workloads/controllers/
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import Change, Progress, Release
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.kubernetes import lacking, rollout
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object, identified_client
from rollbackd_adapters.kubernetes.owners import owners_of, rivals
from rollbackd_adapters.kubernetes.settings import KubernetesSettings
from rollbackd_adapters.kubernetes.template_history import KnownTemplate, TemplateHistory
from rollbackd_adapters.kubernetes.templates import Template, label_of, template_id
from rollbackd_adapters.kubernetes.workload import (
    Revision,
    Workload,
    known_template,
    patch_of,
    present_template,
)
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, progress_of

__all__ = ["KubernetesAdapter", "KubernetesSettings"]

_NO_DRY_RUN = "does not support dry run"


class KubernetesAdapter(StepAdapter[KubernetesSettings]):
    """One workload."""

    settings_model: ClassVar[type[Settings]] = KubernetesSettings

    def __init__(self, settings: KubernetesSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"kubernetes:{settings.cluster}/{settings.namespace}/{settings.workload}"
        self._kind = settings.workload.partition("/")[0]
        self._history = TemplateHistory(place.scratch)

    async def current(self) -> Release:
        present = known_template(await (await self._workload()).read())
        await in_thread(self._history.remember, [present], self._clock.now())
        return self._release(present)

    async def releases(self) -> Sequence[Release]:
        return [self._release(known) for known in (await self._known()).values()]

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        return await in_thread(self._history.forget, last or self._settings.keep, spare)

    async def plan(self, target: Release) -> Change:
        self._check_id(target)
        workload = await self._workload()
        present = await workload.read()
        known = await self._known(workload, present)
        if target.id not in known:
            raise AdapterError(f"{one_line(target.name)}{self._unknown}", permanent=True)
        template = known[target.id].template
        before = self._release(known_template(present))
        risks = await self._risks(workload, present, template) if before.id != target.id else []
        return Change(self._place.layer, before, self._release(known[target.id]), risks=tuple(risks))

    async def _move(self, change: Change, trace: Trace, _lock: Lock) -> None:
        workload = await self._workload()
        present = await workload.read()
        if template_id(present_template(present)) == change.before.id != change.after.id:
            template = await self._template(workload, present, change.after)
            self._refuse(present)
            client = await self._client()
            patch = patch_of(present, template, f"{change.key} {change.after.id}")
            if trace.begun is None:  # else what counts for nothing is what stood there before the first life
                _, became = await self._tried(client, workload, patch, change.after.id)
                trace.intend(deadline=rollout.deadline_mark(present), became=became)
            boundary("kubernetes.begun")
            present = await client.patch(workload.path, patch)
            boundary("kubernetes.patched")
        trace.begin(moved=True, became=template_id(present_template(present)))
        boundary("kubernetes.moved")

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        """The change is done when its rollout is."""
        await RolloutWatch(self._settings, self._place, await self._workload(), await self._client()).until_done(
            str(trace.known.get("became")), str(trace.known.get("deadline"))
        )
        await super()._finish(change, trace, lock)

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        present = await (await self._workload()).read()
        found = template_id(present_template(present))
        begun = trace.begun
        if begun is not None and found == begun.get("became"):
            found = change.after.id  # an admission webhook made another template of it, as its dry run had said
        return progress_of(trace, change, found)

    # -- planning -------------------------------------------------------------------------------
    async def _risks(self, workload: Workload, present: Object, template: Template) -> list[str]:
        """What people should know of the way to that template.

        :raises AdapterError: it cannot be gone to; permanent where that lies in the workload itself.
        """
        self._refuse(present)
        client, namespace = await self._client(), self._settings.namespace
        missing = await lacking.missing_objects(client, namespace, template)
        full = await lacking.over_quota(client, namespace, present, template)
        if full and not lacking.spare_of(present):
            missing += [f"{text}; raise it, or let the rollout take pods away first (maxUnavailable)" for text in full]
        if missing:
            raise self._unfit("; ".join(missing), permanent=False)
        told = [*rivals(present), *(f"{text}: it takes pods away first" for text in full), *self._told(present)]
        said, _ = await self._tried(client, workload, patch_of(present, template, "planned"), template_id(template))
        return [*told, *said]

    def _refuse(self, present: Object) -> None:
        """:raises AdapterError: its controller would not do it, or somebody else would take it back."""
        spec, metadata = present["spec"], present["metadata"]
        if metadata.get("deletionTimestamp"):
            raise self._unfit("it is being deleted", permanent=True)
        if spec.get("paused"):
            raise self._unfit("it is paused; kubectl rollout resume it", permanent=False)
        if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
            text = "its pods are replaced only when somebody deletes them (OnDelete); set its updateStrategy"
            raise self._unfit(text, permanent=True)
        for owner in owners_of(present):
            if owner.kind not in self._settings.despite:
                raise self._unfit(owner.refusal, permanent=True)

    def _told(self, present: Object) -> list[str]:
        found = []
        if (present["spec"].get("strategy") or {}).get("type") == "Recreate":
            found.append("all pods end before the first new one starts (Recreate): that is an outage")
        if partition := rollout.partition_of(present):
            found.append(f"pods with an ordinal below {partition} stay as they are (partition)")
        if self._settings.unstick:
            found.append("a pod of an older revision that is not ready, and blocks the others, is deleted (unstick)")
        return found

    async def _tried(
        self, client: KubernetesClient, workload: Workload, patch: Sequence[Mapping[str, Any]], wanted: str
    ) -> tuple[list[str], str]:
        """What the server says of the very patch, without doing it: risks, and the release that would come of it.

        :raises KubernetesError: it would be refused.
        """
        try:
            answer = await client.patch(workload.path, patch, dry_run=True)
        except KubernetesError as error:
            if _NO_DRY_RUN in error.said:
                return [f"whether it is admitted is known only when it is done: {error.said}"], wanted
            raise
        became = template_id(present_template(answer))
        text = "an admission webhook makes another template of it than it was; that one is rolled out"
        return ([] if became == wanted else [text]), became

    def _unfit(self, text: str, *, permanent: bool) -> AdapterError:
        return AdapterError(f"{self._settings.workload}: {text}", permanent=permanent)

    # -- templates ------------------------------------------------------------------------------
    async def _known(self, workload: Workload | None = None, present: Object | None = None) -> dict[str, KnownTemplate]:
        """All templates that can be gone back to, newest first, by the ids of their releases."""
        workload = workload or await self._workload()
        present = present or await workload.read()
        seen = [known_template(present), *(each.known for each in await workload.revisions(present))]
        await in_thread(self._history.remember, seen, self._clock.now())
        found: dict[str, KnownTemplate] = {}
        for known in (*seen, *await in_thread(self._history.recall)):
            found.setdefault(template_id(known.template), known)
        return found

    async def _template(self, workload: Workload, present: Object, target: Release) -> Template:
        known = await self._known(workload, present)
        if target.id not in known:
            raise AdapterError(f"{one_line(target.name)}{self._unknown}", permanent=True)
        return known[target.id].template

    def _release(self, known: KnownTemplate) -> Release:
        return Release(template_id(known.template), label_of(known.template, known.revision), known.created)

    # -- asking ---------------------------------------------------------------------------------
    async def _client(self) -> KubernetesClient:
        return await identified_client(self._place, self._settings.cluster)

    async def _workload(self) -> Workload:
        return self._workload_of(await self._client())

    def _workload_of(self, client: KubernetesClient) -> Workload:
        return Workload(client, self._settings.namespace, self._settings.workload)

    async def _problems(self) -> list[str]:
        try:
            client = await self._client()
            wanted = lacking.rights(self._kind, unstick=self._settings.unstick)
            if found := await lacking.missing_rights(client, self._settings.namespace, wanted):
                return found
            present = await self._workload_of(client).read()
            self._refuse(present)
        except AdapterError as error:
            return [str(error)]
        return []


class RolloutWatch:
    """Follows one rollout to its end."""

    def __init__(
        self, settings: KubernetesSettings, place: Place, workload: Workload, client: KubernetesClient
    ) -> None:
        self._settings = settings
        self._place = place
        self._workload = workload
        self._client = client
        self._failing: tuple[str, float] = ("", 0.0)

    async def until_done(self, release: str, deadline: str) -> None:
        """Wait for the rollout of that release.

        :param deadline: what the workload said of its deadline before the change: that is not about this rollout.
        :raises AdapterError: permanent when pods of the target do not come up, or somebody else moved the workload.
        """
        clock = self._place.clock
        late = clock.monotonic() + self._settings.timeout.total_seconds()
        while True:
            words = await self._look(release, deadline)
            if not words:
                return
            if clock.monotonic() > late:
                limit = format_duration(self._settings.timeout)
                text = f"{self._settings.workload} is not rolled out after {limit}: {words}"
                raise AdapterError(text, permanent=False)
            await clock.sleep(self._settings.every)

    async def _look(self, release: str, deadline: str) -> str:
        """What is left to do; nothing when it is done."""
        present = await self._workload.read()
        if template_id(present_template(present)) != release:
            text = f"{self._settings.workload} got another template during its rollout: somebody else moved it"
            raise AdapterError(f"{text}, and it is left to them", permanent=True)
        counted = rollout.counts(self._workload.kind, present)
        revisions = await self._workload.revisions(present)
        target = next((each for each in revisions if each.id == release), None)
        if target is None:
            return counted.words
        pods = await self._workload.pods(present, revisions)
        kept = self._kept(present, pods)
        label = self._workload.hash_label
        left = rollout.others(pods, label, target.pod_hash, kept)
        if counted.done and not left:
            return ""
        await self._fail_early(present, target, pods, deadline)
        if self._settings.unstick:
            await self._unstick(pods, left)
        return f"{counted.words}, pods of another revision: {', '.join(left)}" if counted.done else counted.words

    def _kept(self, present: Object, pods: list[Object]) -> set[str]:
        """Pods that keep their revision, by name."""
        partition = rollout.partition_of(present) if self._workload.kind == "statefulset" else 0
        return {pod["metadata"]["name"] for pod in pods if rollout.ordinal(pod) < partition}

    async def _fail_early(self, present: Object, target: Revision, pods: list[Object], deadline: str) -> None:
        """:raises AdapterError: permanent, when the target's pods have been failing for long enough."""
        label = self._workload.hash_label
        own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(label) == target.pod_hash]
        trouble = next(rollout.troubles(own), None)
        words = str(trouble) if trouble else rollout.refused_pods(target.keeper)
        passed = rollout.deadline_mark(present)
        if not words and passed and passed != deadline:
            words = "its progress deadline is exceeded"
        now = self._place.clock.monotonic()
        since = self._failing[1] if words and self._failing[0] else now
        self._failing = (words, since)
        if words and now - since >= self._settings.failing_for.total_seconds():
            uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in own}
            uid = uids.get(trouble.pod, "") if trouble else target.uid
            evidence = self._place.spawner.clean(await self._workload.events(uid))
            text = f"{self._settings.workload} does not come up as {label_of(target.known.template)}: {words}"
            raise AdapterError(text, permanent=True, evidence=evidence)

    async def _unstick(self, pods: list[Object], left: Collection[str]) -> None:
        """Delete the last pod that is left of an older revision and not ready, while no other ends."""
        if any(pod["metadata"].get("deletionTimestamp") for pod in pods):
            return
        stuck = [pod for pod in pods if pod["metadata"]["name"] in left and not rollout.is_ready(pod)]
        if stuck:
            pod = max(stuck, key=rollout.ordinal)
            name = quote(str(pod["metadata"]["name"]), safe="")
            path = f"/api/v1/namespaces/{self._settings.namespace}/pods/{name}"
            boundary("kubernetes.unstick")
            await self._client.delete(path, pod["metadata"]["uid"])
