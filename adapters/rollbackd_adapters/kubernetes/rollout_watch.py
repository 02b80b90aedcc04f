"""Follows a rollout to its end, and sees early that it will never come."""

from collections.abc import Collection
from datetime import timedelta

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd_adapters.kubernetes import rollout
from rollbackd_adapters.kubernetes.client import Object, segment
from rollbackd_adapters.kubernetes.nodes import down_nodes
from rollbackd_adapters.kubernetes.settings import KubernetesSettings
from rollbackd_adapters.kubernetes.templates import label_of, template_id
from rollbackd_adapters.kubernetes.workload import Revision, Workload, present_template
from rollbackd_adapters.kubernetes.workload_news import WorkloadNews

_LOOKS = 3
"""So often the pods of a rollout that stands still are looked at within `failing_for`."""


class RolloutWatch:
    """Follows one rollout to its end."""

    def __init__(self, settings: KubernetesSettings, place: Place, workload: Workload) -> None:
        self._settings = settings
        self._place = place
        self._workload = workload
        self._client = workload.client
        self._failing: tuple[str, float] = ("", 0.0)
        self._next_look = float("-inf")
        self._said = ""
        self._only_pods_end = False
        """All is counted as done; of the end of pods nobody is told."""
        self.down: list[str] = []
        """Nodes that are down, whose pods were not waited for."""

    async def until_done(self, release: str, deadline: str, present: Object | None = None) -> None:
        """Wait for the rollout of that release.

        :param deadline: what the workload said of its deadline before the change: that is not about this rollout.
        :param present: the workload as the change left it; None: it is asked.
        :raises AdapterError: permanent when pods of the target do not come up, or somebody else moved the workload.
        """
        clock = self._place.clock
        late = clock.monotonic() + self._settings.timeout.total_seconds()
        news = WorkloadNews(self._workload, clock, self._settings.timeout)
        present = present or await self._workload.read()
        try:
            while words := await self._look(present, release, deadline):
                left = late - clock.monotonic()
                if left <= 0:
                    limit = format_duration(self._settings.timeout)
                    down = f"; down: {', '.join(self.down)}" if self.down else ""
                    text = f"{self._settings.workload} is not rolled out after {limit}: {words}{down}"
                    raise AdapterError(text, permanent=False)
                present = await self._next(news, present, timedelta(seconds=left))
        finally:
            await news.end()

    async def _next(self, news: WorkloadNews, present: Object, left: timedelta) -> Object:
        """The workload as it is next, at the latest when the time that is left is over."""
        clock, every = self._place.clock, min(self._settings.every, left)
        if self._only_pods_end:
            await clock.sleep(every)
            return await self._workload.read()
        until_look = timedelta(seconds=max(0.0, self._next_look - clock.monotonic()))
        return await news.next(present, every, min(max(every, until_look), left))

    async def _look(self, present: Object, release: str, deadline: str) -> str:
        """What is left to do; nothing when it is done."""
        if template_id(present_template(present)) != release:
            text = f"{self._settings.workload} got another template during its rollout: somebody else moved it"
            raise AdapterError(f"{text}, and it is left to them", permanent=True)
        counted = rollout.counts(self._workload.kind, present)
        now = self._place.clock.monotonic()
        moved, self._said = counted.words != self._said, counted.words
        self._only_pods_end = counted.done
        if not counted.done and (moved or now < self._next_look):
            return counted.words
        self._next_look = now + self._settings.failing_for.total_seconds() / _LOOKS
        pods = await self._workload.selected_pods(present)
        if counted.done and len({self._hash_of(pod) for pod in pods}) == 1:
            return ""  # all that is there is of the revision that is updated
        return await self._look_closely(present, release, deadline, pods, counted)

    async def _look_closely(
        self, present: Object, release: str, deadline: str, pods: list[Object], counted: rollout.RolloutCounts
    ) -> str:
        """What is left to do, by the pods of each revision."""
        revisions = await self._workload.revisions(present)
        target = next((each for each in revisions if each.id == release), None)
        if target is None:
            return counted.words
        pods = self._workload.own_pods(present, pods, revisions)
        kept = self._kept(present, pods)
        left = rollout.others(pods, self._workload.hash_label, target.pod_hash, kept)
        if counted.done and not left:
            return ""
        if self._workload.kind == "daemonset":
            self.down = await down_nodes(self._client, pods)
            if self.down and rollout.done_but_for(present, pods, target.pod_hash, self.down):
                return ""
        await self._fail_early(present, target, pods, deadline)
        if self._settings.unstick:
            await self._unstick(pods, left)
        return f"{counted.words}, pods of another revision: {', '.join(left)}" if counted.done else counted.words

    def _hash_of(self, pod: Object) -> str:
        return str((pod["metadata"].get("labels") or {}).get(self._workload.hash_label))

    def _kept(self, present: Object, pods: list[Object]) -> set[str]:
        """Pods of a StatefulSet that keep their revision, by name."""
        if self._workload.kind != "statefulset":
            return set()
        partition = rollout.partition_of(present)
        return {pod["metadata"]["name"] for pod in pods if rollout.ordinal(pod) < partition}

    async def _fail_early(self, present: Object, target: Revision, pods: list[Object], deadline: str) -> None:
        """:raises AdapterError: permanent, when the target's pods have been failing for long enough."""
        on_down = set(self.down)
        own = [pod for pod in pods if self._hash_of(pod) == target.pod_hash and rollout.node_of(pod) not in on_down]
        trouble = next(rollout.troubles(own), None)
        words = str(trouble) if trouble else self._refused(target, pods)
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

    def _refused(self, target: Revision, pods: list[Object]) -> str:
        """Why its pods are not even made; nothing while others end, since a full quota has room only after that."""
        if any(pod["metadata"].get("deletionTimestamp") for pod in pods):
            return ""
        return rollout.refused_pods(target.keeper)

    async def _unstick(self, pods: list[Object], left: Collection[str]) -> None:
        """Delete the last pod that is left of an older revision and not ready, while no other ends."""
        if any(pod["metadata"].get("deletionTimestamp") for pod in pods):
            return
        stuck = [pod for pod in pods if pod["metadata"]["name"] in left and not rollout.is_ready(pod)]
        if stuck:
            pod = max(stuck, key=rollout.ordinal)
            path = f"/api/v1/namespaces/{self._settings.namespace}/pods/{segment(pod['metadata']['name'])}"
            boundary("kubernetes.unstick")
            await self._client.delete(path, pod["metadata"]["uid"])
