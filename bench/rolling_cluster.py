"""A stand-in for the API of a cluster whose one Deployment takes its time to roll out, for kubectl too.

python -m bench.rolling_cluster PORT SECONDS: a rollout takes so long. `/asked` says how many requests of rollbackd's
came since that was asked last.
"""

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import jsonpatch
from aiohttp import web

from bench.cluster import REPLICA_SETS, Api, deployment, pod, replica_set, serve, template

_STEPS = ((0, 3), (1, 3), (1, 2), (2, 3), (2, 2))
"""Pods of the new template, and of both, one step after the other."""
_REVISION = "deployment.kubernetes.io/revision"
_LISTS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]}],
    },
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis/apps/v1": {
        "kind": "APIResourceList",
        "groupVersion": "apps/v1",
        "resources": [
            {
                "name": "deployments",
                "singularName": "deployment",
                "namespaced": True,
                "kind": "Deployment",
                "verbs": ["get", "list", "patch", "watch"],
            }
        ],
    },
}
"""What there is, as kubectl asks for it."""


class RollingApi(Api):
    """The cluster."""

    def __init__(self, takes: float) -> None:
        super().__init__(0, 1, 0)
        self._takes = takes
        self._present = deployment(0)
        self._numbers = {tag: tag for tag in range(1, REPLICA_SETS + 1)}
        """The revision of each template, by the tag of its image."""
        self._told: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._asked = 0
        self._rollouts: set[asyncio.Task[None]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What it says to a request."""
        if request.path == "/asked":
            asked, self._asked = self._asked, 0
            return web.json_response(asked)
        self._asked += request.headers.get("User-Agent") == "rollbackd"
        if request.path in _LISTS:
            return web.json_response(_LISTS[request.path])
        if request.method == "PATCH":
            return await self._patched(request)
        if request.path.endswith("/deployments/web-0"):
            return web.json_response(self._present)
        return await super().answer(request)

    def _list(self, _request: web.Request, kind: str) -> dict[str, Any]:
        named, items = {"deployments": "DeploymentList", "replicasets": "ReplicaSetList"}.get(kind, "List"), []
        if kind == "deployments":
            items = [self._present]
        if kind == "replicasets":
            items = [replica_set(0, tag) for tag in self._numbers]
            for each, number in zip(items, self._numbers.values(), strict=True):
                each["metadata"]["annotations"][_REVISION] = str(number)
                each["spec"]["replicas"] = 0
        if kind == "pods":
            items = [pod(0, self._tag)]
        metadata = {"resourceVersion": self._present["metadata"]["resourceVersion"]}
        group = "v1" if named == "List" else "apps/v1"
        return {"kind": named, "apiVersion": group, "metadata": metadata, "items": items}

    @property
    def _tag(self) -> int:
        image: str = self._present["spec"]["template"]["spec"]["containers"][0]["image"]
        return int(image.rpartition(":")[2])

    async def _patched(self, request: web.Request) -> web.Response:
        after = jsonpatch.apply_patch(self._present, await request.json())
        if request.query.get("dryRun"):
            return web.json_response(after)
        self._present = after
        after["spec"]["template"] = template(0, self._tag)  # as a server has it, whatever its client left out
        after["metadata"]["generation"] += 1
        self._numbers[self._tag] = max(self._numbers.values()) + 1
        await self._tell()
        rollout = asyncio.create_task(self._roll_out())
        self._rollouts.add(rollout)
        rollout.add_done_callback(self._rollouts.discard)
        return web.json_response(self._present)

    async def _roll_out(self) -> None:
        for updated, replicas in _STEPS:
            await asyncio.sleep(self._takes / len(_STEPS))
            status = {"observedGeneration": self._present["metadata"]["generation"], "updatedReplicas": updated}
            self._present = {**self._present, "status": {**self._present["status"], **status, "replicas": replicas}}
            await self._tell()

    async def _tell(self) -> None:
        metadata = self._present["metadata"]
        version = str(int(metadata["resourceVersion"]) + 1)
        self._present = {**self._present, "metadata": {**metadata, "resourceVersion": version}}
        async with self._news:
            self._told.append(self._present)
            self._news.notify_all()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if not (asked := request.query.get("resourceVersion", "")).isdigit():  # kubectl lists then, and comes again
            return web.Response(status=400)
        answer, version = web.StreamResponse(headers={"Content-Type": "application/json"}), int(asked)
        await answer.prepare(request)
        with suppress(ConnectionResetError):  # whoever watched has gone
            while True:
                async with self._news:
                    while _version(self._present) <= version:
                        await self._news.wait()
                for each in self._told:
                    if _version(each) > version:
                        await answer.write(json.dumps({"type": "MODIFIED", "object": each}).encode() + b"\n")
                version = _version(self._told[-1])
        return answer


def _version(of: dict[str, Any]) -> int:
    return int(of["metadata"]["resourceVersion"])


async def _main(port: int, takes: float) -> None:
    await serve(RollingApi(takes), port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
