"""A stand-in for the API of a Kubernetes cluster, or of several: Deployments that run, each with ten ReplicaSets.

python -m bench.cluster PORTS DEPLOYMENTS [EVENTS]: the first port is the first cluster's, and so on. A watch has so
many events at once, each about a change of status, then the end of the first Deployment, and then only bookmarks.
"""

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

NAMESPACE = "shop"
REPLICA_SETS = 10
_VERSION = 1_000_000
_DIGEST = f"sha256:{'0' * 64}"


def uid(number: int) -> str:
    """Of a cluster's namespace `kube-system`."""
    return f"11111111-2222-4333-8444-{number:012d}"


def deployment(number: int, version: int = _VERSION) -> dict[str, Any]:
    """As kubectl and its controller leave one: 7 KiB."""
    name = f"web-{number}"
    own = template(number, 10)
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": own}
    applied = json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
    fields: dict[str, Any] = {f"f:field{n}": {"f:name": {}, "f:value": {}, ".": {}} for n in range(40)}
    managed = [
        {"manager": manager, "operation": "Update", "apiVersion": "apps/v1", "fieldsV1": {"f:spec": fields}}
        for manager in ("kubectl", "kube-controller-manager")
    ]
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"{number:08d}-0000-4000-8000-000000000000",
        "resourceVersion": str(version),
        "generation": 10,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {
            "deployment.kubernetes.io/revision": "10",
            "kubectl.kubernetes.io/last-applied-configuration": applied,
        },
        "managedFields": managed,
    }
    status = {
        "observedGeneration": 10,
        **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 2),
        "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec, "status": status}


def event(number: int, version: int, kind: str = "MODIFIED") -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": deployment(number, version)}).encode() + b"\n"


def template(number: int, revision: int) -> dict[str, Any]:
    """Of a Deployment's pods."""
    variables = [{"name": f"SETTING_{n}", "value": f"value {n} of {number}"} for n in range(30)]
    container = {"name": "web", "image": f"registry.example/shop/web:{revision}", "env": variables}
    return {"metadata": {"labels": {"app": f"web-{number}"}}, "spec": {"containers": [container]}}


class Api:
    """One cluster."""

    def __init__(self, number: int, deployments: int, events: int) -> None:
        self._number = number
        self._deployments = deployments
        self._events = events

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What it says to a request of rollbackd's."""
        parts = request.path.strip("/").split("/")
        if request.path == "/healthz":
            return web.Response(text="ok")
        if request.method == "POST":
            return web.json_response({**await request.json(), "status": {"allowed": True}}, status=201)
        if parts[-1] == "kube-system":
            return web.json_response({"metadata": {"uid": uid(self._number)}})
        if request.query.get("watch"):
            return await self._watch(request)
        if parts[-2] == "deployments":
            return web.json_response(deployment(int(parts[-1].rpartition("-")[2])))
        return web.json_response(self._list(request, parts[-1]))

    def _list(self, request: web.Request, kind: str) -> dict[str, Any]:
        items: list[dict[str, Any]] = []
        metadata = {"resourceVersion": str(_VERSION)}
        number = int(request.query.get("labelSelector", "-0").rpartition("-")[2])
        if kind == "deployments":
            begin = int(request.query.get("continue", 0))
            end = min(begin + int(request.query["limit"]), self._deployments)
            items = [deployment(number) for number in range(begin, end)]
            metadata |= {"continue": str(end)} if end < self._deployments else {}
        if kind == "replicasets":
            items = [replica_set(number, revision) for revision in range(1, REPLICA_SETS + 1)]
        if kind == "pods":
            items = [pod(number, 10)]
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        if request.query["resourceVersion"] == str(_VERSION):
            for number in range(self._events):
                await answer.write(event(number % self._deployments, _VERSION + 1 + number))
            if self._events:
                await answer.write(event(0, _VERSION + self._events, "DELETED"))
        await asyncio.sleep(max(0, int(request.query["timeoutSeconds"]) - 2))
        last = {"kind": "Deployment", "metadata": {"resourceVersion": str(_VERSION + self._events)}}
        await answer.write(json.dumps({"type": "BOOKMARK", "object": last}).encode() + b"\n")
        await asyncio.sleep(2)
        return answer


def pod(number: int, revision: int) -> dict[str, Any]:
    """One that runs."""
    status = {"containerStatuses": [{"name": "web", "imageID": f"registry.example/shop/web@{_DIGEST}"}]}
    metadata = {"name": f"web-{number}-x", "uid": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": template(number, revision)["spec"], "status": status}


def replica_set(number: int, revision: int) -> dict[str, Any]:
    """What a Deployment's controller keeps of a revision."""
    name, owner = f"web-{number}-{revision}", f"{number:08d}-0000-4000-8000-000000000000"
    metadata = {
        "name": name,
        "uid": name,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {"deployment.kubernetes.io/revision": str(revision)},
        "ownerReferences": [{"uid": owner, "controller": True}],
    }
    return {"metadata": metadata, "spec": {"template": template(number, revision)}}


async def serve(api: Api, port: int) -> None:
    """Answer from now on, as long as the loop runs."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


async def _main(ports: list[int], deployments: int, events: int) -> None:
    for number, port in enumerate(ports):
        await serve(Api(number, deployments, events), port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _ports, *_numbers = sys.argv[1:]
    asyncio.run(_main([int(port) for port in _ports.split(",")], int(_numbers[0]), int((_numbers[1:] or ["0"])[0])))
