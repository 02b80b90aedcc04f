"""Workloads of Kubernetes: Deployment, StatefulSet and DaemonSet go back to a pod template that they had.

A release is the content of the pod template. It is set by one JSON patch, which compares the workload's uid and the
template that was planned from; then the rollout is followed to its end. Templates that were seen are kept first, so
that the cluster's history limit takes none. Replicas and all else stay.
https://kubernetes.io/docs/concepts/workloads/controllers/
"""

import json
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from rollbackd.adapter import AdapterError, Discovered, Place, Settings
from rollbackd.model import NO_RELEASE, Change, Progress, Release
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.kubernetes import lacking, rollout
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object
from rollbackd_adapters.kubernetes.config_maps import ConfigMaps, held_by, refusals
from rollbackd_adapters.kubernetes.discovery import discovered
from rollbackd_adapters.kubernetes.image_history import ImageHistory
from rollbackd_adapters.kubernetes.nodes import down_nodes, down_told
from rollbackd_adapters.kubernetes.owners import owner_refusals, owners_of, rivals
from rollbackd_adapters.kubernetes.rollout_watch import RolloutWatch
from rollbackd_adapters.kubernetes.settings import KubernetesSettings
from rollbackd_adapters.kubernetes.template_history import KnownTemplate, TemplateHistory
from rollbackd_adapters.kubernetes.templates import (
    Template,
    digests_of,
    images,
    label_of,
    restarted,
    template_id,
    with_digests,
)
from rollbackd_adapters.kubernetes.watched_layer import WatchedLayer
from rollbackd_adapters.kubernetes.workload import (
    Workload,
    is_marked,
    known_template,
    patch_of,
    path_of,
    present_template,
)
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, progress_of

__all__ = ["KubernetesAdapter", "KubernetesSettings"]

_NO_DRY_RUN = "does not support dry run"
_COMPARED = (("metadata", "uid"), ("spec", "template"))
_TRIES = 5
"""Looks, when a controller writes the status at the same instant."""


class KubernetesAdapter(WatchedLayer[KubernetesSettings]):
    """One workload."""

    settings_model: ClassVar[type[Settings]] = KubernetesSettings

    def __init__(self, settings: KubernetesSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"kubernetes:{settings.cluster}/{settings.namespace}/{settings.workload}"
        self._kind = settings.workload.partition("/")[0]
        self._path = path_of(settings.namespace, settings.workload)
        self._is_watched = not settings.config_maps
        self._history = TemplateHistory(place.scratch)
        self._images = ImageHistory(place.scratch)
        self._seen: tuple[Object, KnownTemplate] | None = None
        """What `_progress` saw last. `_move` follows at once, and its patch compares it."""
        self._left: Object | None = None
        """The workload as `_move` left it; `_finish` follows."""
        self._told_last: tuple[bytes, Release] | None = None
        """What a watch told, once all of it is remembered, and the release that it is."""

    async def asked(self) -> Release:
        present, known = await self._look(await self._workload())
        await self._remember(present, known)
        return self._release(known)

    async def _of(self, told: bytes) -> Release:
        if self._told_last is not None and self._told_last[0] == told:
            return self._told_last[1]
        present = json.loads(told)
        known = known_template(present)
        if await self._remember(present, known):
            self._told_last = (told, self._release(known))
        return self._release(known)

    async def releases(self) -> Sequence[Release]:
        workload = await self._workload()
        return [self._release(known) for known in (await self._known(workload, await workload.read())).values()]

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        dropped = await in_thread(self._history.forget, last or self._settings.keep, spare)
        await in_thread(self._images.forget, dropped)
        return dropped

    async def plan(self, target: Release) -> Change:
        self._check_id(target)
        workload = await self._workload()
        present, before = await self._look(workload)
        after = await self._target(workload, present, before, target)
        risks = await self._risks(workload, present, before, after) if before.id != target.id else []
        return Change(self._place.layer, self._release(before), self._release(after), risks=tuple(risks))

    async def _move(self, change: Change, trace: Trace, _lock: Lock) -> None:
        workload = await self._workload()
        client = workload.client
        present, before = self._seen or await self._look(workload)
        mark = f"{change.key} {change.after.id}"
        if (not is_marked(present, mark)) if before.config else before.id == change.before.id:
            after = await self._target(workload, present, before, change.after)
            self._refuse(present)
            template = await self._template(before, after)
            if trace.begun is None:  # else what counts for nothing is what stood there before the first life
                _, became = await self._tried(workload, present, template, mark)
                parts = {"before": before.parts, "after": after.parts}
                trace.intend(deadline=rollout.deadline_mark(present), became=became, parts=parts)
            boundary("kubernetes.begun")
            await self._write_config_maps(client, after)
            present = await self._set(workload, present, template, mark)
            boundary("kubernetes.patched")
        self._left = present
        trace.begin(moved=True, became=template_id(present_template(present)))
        boundary("kubernetes.moved")

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        """The change is done when its rollout is."""
        watch, left = RolloutWatch(self._settings, self._place, await self._workload()), self._left
        self._left = None
        await watch.until_done(str(trace.known.get("became")), str(trace.known.get("deadline")), left)
        trace.begin(down=watch.down)
        await super()._finish(change, trace, lock)

    async def note(self, key: str) -> str:
        """The nodes that are down, which were not waited for."""
        change = Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key)
        down = Trace(self._place.scratch, change).known.get("down") or []
        return f"not waited for, since they are down: {', '.join(down)}" if down else ""

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        self._seen = await self._look(await self._workload())
        present = self._seen[1]
        begun, found = trace.known, present.id
        if begun and trace.done is None and not begun.get("moved") and _is_between(begun, present):
            return Progress.NOT_STARTED
        if begun and template_id(present.template) == begun.get("became"):
            found = change.after.id  # an admission webhook made another template of it, as its dry run had said
        return progress_of(trace, change, found)

    @staticmethod
    async def discover(place: Place, cluster: str, namespace: str, label: str = "") -> Sequence[Discovered]:
        return await discovered(place, cluster, namespace, label)

    # -- planning -------------------------------------------------------------------------------
    async def _risks(
        self, workload: Workload, present: Object, before: KnownTemplate, after: KnownTemplate
    ) -> list[str]:
        """What people should know of the way to that template.

        :raises AdapterError: it cannot be gone to; permanent where that lies in the workload itself.
        """
        self._refuse(present)
        client, namespace = workload.client, self._settings.namespace
        missing = await lacking.missing_objects(client, namespace, after.template, self._settings.config_maps)
        full = await lacking.over_quota(client, namespace, present, after.template)
        if full and not lacking.spare_of(present):
            missing += [f"{text}; raise it, or let the rollout take pods away first (maxUnavailable)" for text in full]
        if missing:
            raise self._unfit("; ".join(missing), permanent=False)
        pods = await workload.selected_pods(present)
        await self._remember_digests(before, pods)
        told = [*rivals(present, self._settings.workload), *self._told(present)]
        told += [f"{text}: it takes pods away first" for text in full]
        told += [*await self._told_images(after), *await self._told_config_maps(client, before, after)]
        if self._kind == "daemonset":
            told += down_told(present, await down_nodes(client, pods))
        said, _ = await self._tried(workload, present, await self._template(before, after), "planned")
        return [*told, *said]

    async def _told_images(self, after: KnownTemplate) -> list[str]:
        """Tags that have moved; with `pin` the images whose digest is not known."""
        if not self._settings.pin:
            return await in_thread(self._images.moved, after.id, after.template)
        known = await in_thread(self._images.digests, after.id)
        return [
            f"the digest of {image} is not known, so it goes back by its tag"
            for name, image in images(after.template).items()
            if name not in known and "@" not in image
        ]

    async def _told_config_maps(
        self, client: KubernetesClient, before: KnownTemplate, after: KnownTemplate
    ) -> list[str]:
        """ConfigMaps that change. :raises AdapterError: one would be refused."""
        changed = [name for name, held in after.config.items() if held != before.config.get(name)]
        if not changed:
            return []
        maps = self._config_maps(client)
        present = await maps.read()
        for name in changed:
            await maps.write(present[name], after.config[name], dry_run=True)
        return [f"ConfigMap {', '.join(changed)} goes back first, and pods that run see it until they are replaced"]

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
        if refused := owner_refusals(owners_of(present), self._settings.despite):
            raise self._unfit(refused[0], permanent=True)

    def _told(self, present: Object) -> list[str]:
        found = []
        if (present["spec"].get("strategy") or {}).get("type") == "Recreate":
            found.append("all pods end before the first new one starts (Recreate): that is an outage")
        if partition := rollout.partition_of(present):
            found.append(f"pods with an ordinal below {partition} stay as they are (partition)")
        if self._settings.unstick:
            found.append("a pod of an older revision that is not ready, and blocks the others, is deleted (unstick)")
        return found

    async def _tried(self, workload: Workload, present: Object, template: Template, mark: str) -> tuple[list[str], str]:
        """What the server says of the very patch, without doing it: risks, and the release that would come of it.

        :raises KubernetesError: it would be refused.
        """
        wanted = template_id(template)
        try:
            answer = await self._set(workload, present, template, mark, dry_run=True)
        except KubernetesError as error:
            if _NO_DRY_RUN in error.said:
                return [f"whether it is admitted is known only when it is done: {error.said}"], wanted
            raise
        became = template_id(present_template(answer))
        text = "an admission webhook makes another template of it than it was; that one is rolled out"
        return ([] if became == wanted else [text]), became

    async def _set(
        self, workload: Workload, present: Object, template: Template, mark: str, *, dry_run: bool = False
    ) -> Object:
        """Send the patch. While there are no annotations any write of the status stands against it: look again then.

        :raises KubernetesError: it is refused, or somebody else moved the workload.
        """
        for tries in range(1, _TRIES + 1):
            try:
                return await workload.client.patch(workload.path, patch_of(present, template, mark), dry_run=dry_run)
            except KubernetesError as error:
                if not error.is_conflict or present["metadata"].get("annotations") or tries == _TRIES:
                    raise
                again = await workload.read()
                if any(again[part].get(key) != present[part].get(key) for part, key in _COMPARED):
                    raise
                present = again
        raise AssertionError("unreachable")

    def _unfit(self, text: str, *, permanent: bool) -> AdapterError:
        return AdapterError(f"{self._settings.workload}: {text}", permanent=permanent)

    # -- templates ------------------------------------------------------------------------------
    async def _as_known(self, client: KubernetesClient, present: Object) -> KnownTemplate:
        """What runs. :raises AdapterError: a ConfigMap that goes back with it is not there, or never can."""
        known = known_template(present)
        if not self._settings.config_maps:
            return known
        found = await self._config_maps(client).read()
        if refused := refusals(found, self._settings.despite):
            raise self._unfit("; ".join(refused), permanent=True)
        return known._replace(config={name: held_by(each) for name, each in found.items()})

    async def _look(self, workload: Workload) -> tuple[Object, KnownTemplate]:
        present = await workload.read()
        return present, await self._as_known(workload.client, present)

    async def _known(
        self, workload: Workload, present: Object, now: KnownTemplate | None = None
    ) -> dict[str, KnownTemplate]:
        """All that can be gone back to, newest first, by the ids of their releases."""
        seen = [now or await self._as_known(workload.client, present)]
        if not self._settings.config_maps:  # else nobody knows what they held then
            seen += [each.known for each in await workload.revisions(present)]
        await in_thread(self._history.remember, seen, self._clock.now())
        found: dict[str, KnownTemplate] = {}
        for known in (*seen, *await self._recalled()):
            found.setdefault(known.id, known)
        return found

    async def _recalled(self) -> list[KnownTemplate]:
        """What was seen earlier, with just those ConfigMaps."""
        wanted = set(self._settings.config_maps)
        return [known for known in await in_thread(self._history.recall) if known.config.keys() == wanted]

    async def _target(self, workload: Workload, present: Object, now: KnownTemplate, target: Release) -> KnownTemplate:
        """What is gone back to; the cluster is asked only when it is not known here.

        :raises AdapterError: permanent, nobody knows it.
        """
        for known in (now, *await self._recalled()):
            if known.id == target.id:
                return known
        found = await self._known(workload, present, now)
        if target.id not in found:
            raise AdapterError(f"{one_line(target.name)}{self._unknown}", permanent=True)
        return found[target.id]

    async def _template(self, before: KnownTemplate, after: KnownTemplate) -> Template:
        """The template to set: by digest if that is wanted. Pods read a ConfigMap anew only when they are replaced."""
        template = after.template
        if self._settings.pin:
            template = with_digests(template, await in_thread(self._images.digests, after.id))
        if template_id(before.template) == template_id(template):
            return restarted(template, self._clock.now().isoformat(timespec="seconds"))
        return template

    async def _remember(self, present: Object, known: KnownTemplate) -> bool:
        """Keep a template, and what its images ran; whether that is known of all of them."""
        await in_thread(self._history.remember, [known], self._clock.now())
        if await self._is_known(known):
            return True
        await self._remember_digests(known, await (await self._workload()).selected_pods(present))
        return await self._is_known(known)

    async def _is_known(self, known: KnownTemplate) -> bool:
        return images(known.template).keys() <= (await in_thread(self._images.digests, known.id)).keys()

    async def _remember_digests(self, known: KnownTemplate, pods: Sequence[Object]) -> None:
        await in_thread(self._images.remember, known.id, digests_of(known.template, pods))

    def _config_maps(self, client: KubernetesClient) -> ConfigMaps:
        return ConfigMaps(client, self._settings.namespace, self._settings.config_maps)

    async def _write_config_maps(self, client: KubernetesClient, after: KnownTemplate) -> None:
        if not after.config:
            return
        maps = self._config_maps(client)
        for name, present in (await maps.read()).items():
            if held_by(present) != after.config[name]:
                await maps.write(present, after.config[name])
                boundary("kubernetes.config_map")

    def _release(self, known: KnownTemplate) -> Release:
        return Release(known.id, label_of(known.template, known.revision), known.created)

    # -- asking ---------------------------------------------------------------------------------
    async def _workload(self) -> Workload:
        return Workload(await self._client(), self._settings.namespace, self._settings.workload)

    async def _problems(self) -> list[str]:
        try:
            workload = await self._workload()
            settings = self._settings
            wanted = lacking.rights(self._kind, unstick=settings.unstick, config_maps=bool(settings.config_maps))
            if found := await lacking.missing_rights(workload.client, settings.namespace, wanted):
                return found
            present = await workload.read()
            self._refuse(present)
            await self._as_known(workload.client, present)
        except AdapterError as error:
            return [str(error)]
        return []


def _is_between(begun: Mapping[str, Any], present: KnownTemplate) -> bool:
    """Whether each part is where a change began or where it goes."""
    ways = begun.get("parts") or {}
    before, after = ways.get("before", {}), {**ways.get("after", {})}
    known = [{before.get(part), after.get(part), "" if part else begun.get("became")} for part in present.parts]
    return before.keys() == present.parts.keys() and all(map(operator.contains, known, present.parts.values()))
