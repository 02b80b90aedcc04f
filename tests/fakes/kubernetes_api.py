"""A strict fake of the Kubernetes API, in a thread of its own, with small controllers behind it.

It answers what a real server (1.36) answers as far as rollbackd asks: uids, resource versions, generations, JSON
patches by RFC 6902 whose failed `test` is 422, dry runs, metadata alone, pages of one version of a list, watches with
bookmarks, access reviews, and refusals as Status.
What did not fit the API is in `wrong`; a test asserts that it is empty.
"""

import asyncio
import contextlib
import copy
import json
import re
import ssl
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jsonpatch
from aiohttp import web
from jsonschema import Draft202012Validator

from tests.fakes.kubernetes_controllers import NODES, Controllers, Object
from tests.fakes.kubernetes_schemas import SCHEMAS

_PROXY = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[^/]+)/services/(?:https:)?(?P<name>[a-z0-9-]+):(?P<port>[a-z0-9-]+)/proxy(?P<path>/.*)"
)
_WINDOW = 1000
"""So many events are remembered at least, of all kinds together."""
ADMIN = "token-of-the-admin"
TOKEN = "token-of-rollbackd"
LABEL = {"rollbackd/tests": "all"}
SYSTEM_UID = "11111111-2222-4333-8444-555555555555"
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|scale))?"
)
GROUPS = {
    "": {
        "namespaces": "Namespace",
        "nodes": "Node",
        "pods": "Pod",
        "configmaps": "ConfigMap",
        "secrets": "Secret",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "serviceaccounts": "ServiceAccount",
        "resourcequotas": "ResourceQuota",
        "events": "Event",
        "services": "Service",
    },
    "apps": {
        "deployments": "Deployment",
        "replicasets": "ReplicaSet",
        "statefulsets": "StatefulSet",
        "daemonsets": "DaemonSet",
        "controllerrevisions": "ControllerRevision",
    },
    "batch": {"cronjobs": "CronJob"},
    "autoscaling": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "discovery.k8s.io": {"endpointslices": "EndpointSlice"},
    "keda.sh": {"scaledobjects": "ScaledObject"},
    "networking.istio.io": {"virtualservices": "VirtualService"},
    "gateway.networking.k8s.io": {"httproutes": "HTTPRoute"},
    "argoproj.io": {"rollouts": "Rollout"},
    "authorization.k8s.io": {"selfsubjectaccessreviews": "SelfSubjectAccessReview"},
}
KINDS = {resource: kind for group in GROUPS.values() for resource, kind in group.items()}
CUSTOM = {"keda.sh", "networking.istio.io", "gateway.networking.k8s.io", "argoproj.io"}
"""Groups of CRDs, which a cluster may not have."""
CUSTOM_RESOURCES = {resource for group in CUSTOM for resource in GROUPS[group]}
ADMITTED = {"deployments": "apps", "services": "", "virtualservices": "networking.istio.io"}
"""What a test's webhook is asked about, with the group of each."""
CLUSTER_WIDE = {"namespaces", "nodes", "selfsubjectaccessreviews"}


class Refused(Exception):
    """An answer that is no 2xx."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Happened(NamedTuple):
    """What a watch tells of one object."""

    version: int
    kind: str
    """`ADDED`, `MODIFIED` or `DELETED`."""
    resource: str
    of: Object


class Store:
    """The objects, by namespace, resource and name."""

    def __init__(self) -> None:
        self.version = 1000
        self.happened: list[Happened] = []
        self.forgotten = 0
        """Up to this version nobody knows what happened."""
        self._namespaces: dict[str, dict[str, dict[str, Object]]] = {}
        self._uids: set[str] = set()

    @staticmethod
    def now() -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def all(self, resource: str, namespace: str) -> list[Object]:
        return list(self._namespaces.get(namespace, {}).get(resource, {}).values())

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self._namespaces.get(namespace, {}).get(resource, {}).get(name)

    def has(self, of: Object) -> bool:
        return of["metadata"]["uid"] in self._uids

    def add(self, resource: str, of: Object, uid: str = "") -> Object:
        metadata = of["metadata"]
        metadata.update(uid=uid or str(uuid.uuid4()), creationTimestamp=self.now(), generation=1)
        self._uids.add(metadata["uid"])
        return self._write(resource, of)

    def put(self, resource: str, of: Object) -> Object:
        """Replace it; the generation grows with its spec, the resource version with any change."""
        metadata = of["metadata"]
        before = self.get(resource, metadata.get("namespace", ""), metadata["name"])
        assert before is not None
        if of == before:
            return before
        if of.get("spec") != before.get("spec"):
            metadata["generation"] = before["metadata"]["generation"] + 1
        return self._write(resource, of)

    def remove(self, of: Object) -> None:
        """Delete it; one with finalizers only begins to end, until somebody takes the last of them away."""
        if of["metadata"].get("finalizers"):
            if "deletionTimestamp" not in of["metadata"]:
                self.put(next(each for each, kind in KINDS.items() if kind == of["kind"]), ending(of, self.now()))
            return
        resource = next(each for each, kind in KINDS.items() if kind == of["kind"])
        namespace, uid = of["metadata"].get("namespace", ""), of["metadata"]["uid"]
        self.version += 1
        gone = copy.deepcopy(of)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._note("DELETED", resource, gone)
        del self._namespaces[namespace][resource][of["metadata"]["name"]]
        self._uids.discard(uid)
        if resource == "namespaces":
            self._namespaces.pop(of["metadata"]["name"], None)
        for kind in list(self._namespaces.get(namespace, {})):  # the garbage collector
            for each in self.all(kind, namespace):
                if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences", ())) and self.has(each):
                    self.remove(each)

    def _write(self, resource: str, of: Object) -> Object:
        self.version += 1
        metadata = of["metadata"]
        metadata["resourceVersion"] = str(self.version)
        within = self._namespaces.setdefault(metadata.get("namespace", ""), {}).setdefault(resource, {})
        kind = "MODIFIED" if metadata["name"] in within else "ADDED"
        within[metadata["name"]] = of
        self._note(kind, resource, copy.deepcopy(of))
        return of

    def _note(self, kind: str, resource: str, of: Object) -> None:
        self.happened.append(Happened(self.version, kind, resource, of))
        if len(self.happened) > 2 * _WINDOW:
            self.forgotten = self.happened[_WINDOW - 1].version
            del self.happened[:_WINDOW]

    def compact(self) -> None:
        """Forget what happened until now, as etcd does every few minutes."""
        self.forgotten = self.version
        self.happened.clear()


def ending(of: Object, now: str) -> Object:
    return {**copy.deepcopy(of), "metadata": {**copy.deepcopy(of["metadata"]), "deletionTimestamp": now}}


def defaulted(resource: str, of: Object) -> Object:
    """What a server adds where nothing is said."""
    key: str
    value: object
    spec = of.setdefault("spec", {}) if resource in {"deployments", "statefulsets", "daemonsets"} else {}
    rolling: Object = {"maxUnavailable": "25%", "maxSurge": "25%"}
    if resource == "deployments":
        for key, value in {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600}.items():
            spec.setdefault(key, value)
        strategy = spec.setdefault("strategy", {"type": "RollingUpdate"})
        if strategy["type"] == "RollingUpdate":
            strategy["rollingUpdate"] = {**rolling, **strategy.get("rollingUpdate", {})}
    if resource == "statefulsets":
        spec.setdefault("replicas", 1)
        strategy = spec.setdefault("updateStrategy", {"type": "RollingUpdate"})
        if strategy["type"] == "RollingUpdate":
            strategy["rollingUpdate"] = {"partition": 0, **strategy.get("rollingUpdate", {})}
    if resource == "daemonsets":
        spec.setdefault(
            "updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
        )
    if "template" in spec:
        pod = spec["template"].setdefault("spec", {})
        plain = {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30}
        for key, value in {**plain, "schedulerName": "default-scheduler", "securityContext": {}}.items():
            pod.setdefault(key, value)
        for container in pod.get("containers", ()):
            for key, value in {
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePolicy": "File",
            }.items():
                container.setdefault(key, value)
    if resource == "cronjobs":
        of["spec"].setdefault("suspend", False)
    if resource == "httproutes":
        for parent in of["spec"].get("parentRefs", ()):
            _fill(parent, group="gateway.networking.k8s.io", kind="Gateway")
        for rule in of["spec"].get("rules", ()):
            for match in rule.setdefault("matches", [{}]):
                _fill(match.setdefault("path", {}), type="PathPrefix", value="/")
            for backend in rule.get("backendRefs", ()):
                _fill(backend, group="", kind="Service", weight=1)
    return of


def _fill(of: Object, **values: object) -> None:
    for key, value in values.items():
        of.setdefault(key, value)


def valid(resource: str, of: Object) -> None:
    """:raises Refused: 422, as a server validates it."""
    metadata = of.get("metadata") or {}
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", metadata.get("name", "")):
        raise Refused(422, "Invalid", f"metadata.name: Invalid value: {metadata.get('name')!r}")
    for key, value in {**metadata.get("labels", {}), **metadata.get("annotations", {})}.items():
        if not isinstance(value, str):
            raise Refused(400, "BadRequest", f"{key}: not a string")
    unfit(of)
    template = of.get("spec", {}).get("template")
    if resource in {"deployments", "statefulsets", "daemonsets"}:
        labels = (template.get("metadata") or {}).get("labels") or {}
        if any(labels.get(key) != value for key, value in of["spec"]["selector"]["matchLabels"].items()):
            raise Refused(422, "Invalid", "spec.template.metadata.labels: `selector` does not match template `labels`")
        if not template["spec"].get("containers") or not all(
            each.get("image") for each in template["spec"]["containers"]
        ):
            raise Refused(422, "Invalid", "spec.template.spec.containers: Required value")
        if "$patch" in template:
            raise Refused(400, "BadRequest", 'unknown field "spec.template.$patch"')


def unfit(of: Object) -> None:
    """:raises Refused: 422, its CRD's schema does not have it so."""
    schema = SCHEMAS.get(of["kind"])
    errors = [] if schema is None else list(Draft202012Validator(schema).iter_errors(of))
    if errors:
        raise Refused(422, "Invalid", f"{of['kind']} is invalid: {errors[0].json_path}: {errors[0].message}")


@dataclass
class FakeKubernetes:
    """One cluster."""

    store: Store = field(default_factory=Store)
    denied: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource that rollbackd's token may not."""
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    faults: deque[str] = field(default_factory=deque)
    """What the next patches of rollbackd meet: `lost` (done, not answered), `dropped` (neither), `hang`, `429`, `504`,
    `etcd` (done, though the server does not know)."""
    served: dict[str, Callable[[str], int]] = field(default_factory=dict)
    """What answers behind the proxy, by a Service's `name:port`: the status for a path."""
    absent: set[str] = field(default_factory=set)
    """Groups whose CRDs are not installed."""
    frozen: bool = False
    """The controllers do nothing."""
    admission: list[Callable[[Object, bool], Object]] = field(default_factory=list)
    """Webhooks: they make another object of it, or refuse it."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each of rollbackd's requests."""
    patched: list[str] = field(default_factory=list)
    """The paths of patches by rollbackd that changed something."""
    wrong: list[str] = field(default_factory=list)
    listing: deque[str] = field(default_factory=deque)
    """What the next lists of rollbackd meet: `429`, `503`, or `expired`, which is for the page after the next."""
    watching: deque[str] = field(default_factory=deque)
    """What the next watches of rollbackd meet: `429`, `410`, `reset`; `hang` (no answer at all); `swallowed`: a proxy
    keeps the connection and hands on nothing more."""
    rest: int = 1
    """Seconds of `Retry-After`."""
    watches: list[str] = field(default_factory=list)
    """The paths that rollbackd watches right now, once for each connection."""
    bookmarks: int = 0
    """So many were asked for by a test; each open watch sends one for each."""
    url: str = ""
    page: int = 500

    def __post_init__(self) -> None:
        self._continued: dict[str, tuple[int, list[Object]]] = {}
        self.controllers = Controllers(self.store)
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
        self.store.add("namespaces", made, SYSTEM_UID)
        for name in NODES:
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": LABEL},
                "status": node_status("True"),
            }
            self.store.add("nodes", node)

    def take_down(self, name: str) -> None:
        """A node that does not answer any more."""
        self.controllers.down.add(name)
        self._say_of_node(name, "Unknown")

    def bring_up(self) -> None:
        for name in self.controllers.down:
            self._say_of_node(name, "True")
        self.controllers.down.clear()

    def _say_of_node(self, name: str, ready: str) -> None:
        node = self.store.get("nodes", "", name)
        assert node is not None
        self.store.put("nodes", {**copy.deepcopy(node), "status": node_status(ready)})

    def reconcile(self, namespace: str) -> None:
        if namespace and not self.frozen:
            self.controllers.run(namespace)

    # -- requests -------------------------------------------------------------------------------
    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except Refused as refused:
            headers = {"Retry-After": str(self.rest)} if refused.status in {429, 503} else {}
            return web.json_response(status_of(refused), status=refused.status, headers=headers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        ours = token in self.tokens
        if not ours and token != ADMIN:
            raise Refused(401, "Unauthorized", "Unauthorized")
        if proxy := _PROXY.fullmatch(request.path):
            return self._proxied(request, proxy)
        found = _PATH.fullmatch(request.path)
        group = (found["group"] or "") if found else ""
        if found is None or group not in GROUPS or found["resource"] not in GROUPS[group]:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        resource, namespace, name = found["resource"], found["namespace"] or "", found["name"] or ""
        watching = not name and request.query.get("watch") in {"1", "true"}
        reading = "get" if name else "watch" if watching else "list"
        verb = {"GET": reading, "POST": "create", "PUT": "update"}.get(request.method, request.method.lower())
        if (resource in CLUSTER_WIDE) is bool(namespace):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if ours:
            self.asked.append(f"{'WATCH' if watching else request.method} {request.path}")
            if (verb, resource) in self.denied:
                where = f' in API group "{group}" in the namespace "{namespace}"'
                raise Refused(
                    403,
                    "Forbidden",
                    f'{resource} "{name}" is forbidden: User "rollbackd" cannot {verb} resource "{resource}"{where}',
                )
        if group in self.absent:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        body = await request.json() if request.can_read_body else None
        match request.method:
            case "GET" if name:
                return self._one(request, self._there(resource, namespace, name), ours)
            case "GET" if watching:
                return await self._watch(request, resource, namespace, ours)
            case "GET":
                return self._list(request, resource, namespace, ours)
            case "POST":
                return self._create(request, resource, namespace, body)
            case "PATCH":
                return await self._patch(
                    request, self._there(resource, namespace, name), resource, found["sub"], body, ours
                )
            case "DELETE":
                return self._delete(self._there(resource, namespace, name), body)
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _proxied(self, request: web.Request, asked: re.Match[str]) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if ("get", "services/proxy") in self.denied:
            raise Refused(403, "Forbidden", f'services "{asked["name"]}" is forbidden: cannot get services/proxy')
        self._there("services", asked["namespace"], asked["name"])
        answers = self.served.get(f"{asked['name']}:{asked['port']}")
        if answers is None:
            raise Refused(503, "ServiceUnavailable", f'no endpoints available for service "{asked["name"]}"')
        return web.Response(status=answers(asked["path"]), text="well or not")

    def _there(self, resource: str, namespace: str, name: str) -> Object:
        found = self.store.get(resource, "" if resource in CLUSTER_WIDE else namespace, name)
        if found is None:
            raise Refused(404, "NotFound", f'{resource} "{name}" not found')
        return found

    def _one(self, request: web.Request, found: Object, ours: bool) -> web.Response:
        if "as=PartialObjectMetadata;g=meta.k8s.io;v=v1" in request.headers.get("Accept", ""):
            return web.json_response(
                {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": found["metadata"]}
            )
        if ours and found["kind"] == "Secret":
            self.wrong.append("a Secret's content was asked for")
        return web.json_response(found)

    def _list(self, request: web.Request, resource: str, namespace: str, ours: bool) -> web.Response:
        """A page. The rest of the list is kept as it is now, for whoever goes on with it."""
        fault = self.listing.popleft() if ours and self.listing else ""
        if fault in {"429", "503"}:
            reason = {"429": "TooManyRequests", "503": "ServiceUnavailable"}[fault]
            raise Refused(int(fault), reason, "the server is busy, please try again later")
        if (token := request.query.get("continue")) is None:
            found = [each for each in self.store.all(resource, namespace) if selected(request, each)]
            version = self.store.version
        elif (kept := self._continued.pop(token, None)) is not None:
            version, found = kept
        else:
            raise Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list")
        limit = min(int(request.query.get("limit", self.page)), self.page)
        metadata: Object = {"resourceVersion": str(version)}
        if limit < len(found):
            metadata |= {"continue": str(uuid.uuid4()), "remainingItemCount": len(found) - limit}
            if fault != "expired":
                self._continued[metadata["continue"]] = version, copy.deepcopy(found[limit:])
        items = found[:limit]
        if resource not in CUSTOM_RESOURCES:  # only those of a CRD say of which kind they are
            items = [{key: each[key] for key in each if key not in {"kind", "apiVersion"}} for each in items]
        return web.json_response(
            {"kind": f"{KINDS[resource]}List", "apiVersion": "v1", "metadata": metadata, "items": items}
        )

    async def _watch(self, request: web.Request, resource: str, namespace: str, ours: bool) -> web.StreamResponse:
        """Events until `timeoutSeconds` have passed; a bookmark two seconds before that, as the real one has it."""
        fault = self.watching.popleft() if ours and self.watching else ""
        if fault == "429":
            raise Refused(429, "TooManyRequests", "too many requests, please try again later")
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "reset":
            return drop(request)
        asked = request.query.get("resourceVersion", "")
        if not asked.isdigit():
            raise Refused(400, "BadRequest", f"resourceVersion: Invalid value: {asked!r}: only numbers are known here")
        lasting = int(request.query.get("timeoutSeconds", "1800"))
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        self.watches += [request.path] if ours else []
        try:
            with contextlib.suppress(ConnectionResetError):  # whoever watched has gone
                await self._tell(request, answer, resource, namespace, lasting, fault)
        finally:
            if ours:
                self.watches.remove(request.path)
        return answer

    async def _tell(
        self,
        request: web.Request,
        answer: web.StreamResponse,
        resource: str,
        namespace: str,
        lasting: int,
        fault: str,
    ) -> None:
        async def say(kind: str, of: Object) -> None:
            await answer.write(json.dumps({"type": kind, "object": of}).encode() + b"\n")

        version, told = int(request.query["resourceVersion"]), self.bookmarks
        loop = asyncio.get_running_loop()
        end = loop.time() + lasting
        last_bookmark = end - 2 if lasting > 2 else float("inf")
        while request.transport is not None and (fault == "swallowed" or loop.time() < end):
            await asyncio.sleep(0.01)
            if fault == "swallowed":
                continue
            if version < self.store.forgotten or fault == "410":
                text = f"too old resource version: {version} ({self.store.version})"
                return await say("ERROR", status_of(Refused(410, "Expired", text)))
            new = [each for each in self.store.happened if each.version > version]
            version = self.store.version
            for each in new:
                own = each.resource == resource and each.of["metadata"].get("namespace", "") == namespace
                if own and selected(request, each.of):
                    await say(each.kind, each.of)
            due = loop.time() >= last_bookmark
            if (due or told < self.bookmarks) and request.query.get("allowWatchBookmarks") == "true":
                last_bookmark, told = float("inf") if due else last_bookmark, self.bookmarks
                metadata = {"resourceVersion": str(version), "creationTimestamp": None}
                await say("BOOKMARK", {"kind": KINDS[resource], "apiVersion": "v1", "metadata": metadata, "spec": {}})
        return None

    def _create(self, request: web.Request, resource: str, namespace: str, body: Any) -> web.Response:
        if resource == "selfsubjectaccessreviews":
            wanted = body["spec"]["resourceAttributes"]
            if KINDS.get(wanted["resource"]) is None or wanted["resource"] not in GROUPS[wanted["group"]]:
                self.wrong.append(f"a review of what there is not: {wanted}")
            if (wanted["resource"] in CLUSTER_WIDE) is bool(wanted["namespace"]):
                self.wrong.append(f"a review in the wrong place: {wanted}")
            whole = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
            allowed = (wanted["verb"], whole) not in self.denied
            return web.json_response({**body, "status": {"allowed": allowed}}, status=201)
        made = copy.deepcopy(body)
        if resource not in CLUSTER_WIDE:
            made["metadata"]["namespace"] = namespace
        if self.store.get(resource, made["metadata"].get("namespace", ""), made["metadata"]["name"]):
            raise Refused(409, "AlreadyExists", f'{resource} "{made["metadata"]["name"]}" already exists')
        made = defaulted(resource, made)
        valid(resource, made)
        manager = request.query.get("fieldManager")
        if manager and "template" in made.get("spec", {}):
            made["metadata"]["managedFields"] = [managed(manager, "Update")]
        made = copy.deepcopy(self.store.add(resource, made))
        self.reconcile(namespace)
        return web.json_response(made, status=201)

    async def _patch(
        self, request: web.Request, before: Object, resource: str, sub: str | None, body: Any, ours: bool
    ) -> web.StreamResponse:
        dry = request.query.get("dryRun") == "All"
        fault = self.faults.popleft() if ours and not dry and self.faults else ""
        if fault in {"429", "504"}:
            raise Refused(int(fault), {"429": "TooManyRequests", "504": "Timeout"}[fault], "please try again later")
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "dropped":
            return drop(request)
        after = patched(request.content_type, before, body)
        for key in ("uid", "name", "namespace", "creationTimestamp"):
            if after["metadata"].get(key) != before["metadata"].get(key):
                raise Refused(422, "Invalid", f"metadata.{key}: Invalid value: field is immutable")
        if after["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
            raise Refused(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        if sub == "status":
            after = {**copy.deepcopy(before), "status": after.get("status", {})}
        elif "spec" in before:
            after["status"] = copy.deepcopy(before.get("status", {}))
            after["metadata"]["generation"] = before["metadata"]["generation"]
            for hook in self.admission if resource in ADMITTED else ():
                after = hook(after, dry)
        after = defaulted(resource, after)
        valid(resource, after)
        if dry:
            return web.json_response(after)
        changed = after != before
        stored = copy.deepcopy(self.store.put(resource, after))
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            self.store.remove(after)
        if ours and changed:
            self.patched.append(request.path)
        self.reconcile(after["metadata"].get("namespace", ""))
        if fault == "etcd":
            raise Refused(500, "InternalError", "etcdserver: request timed out")
        return drop(request) if fault == "lost" else web.json_response(stored)

    def _delete(self, found: Object, body: Object | None) -> web.Response:
        uid = ((body or {}).get("preconditions") or {}).get("uid")
        if uid not in {None, found["metadata"]["uid"]}:
            raise Refused(409, "Conflict", "the UID in the precondition does not match")
        self.store.remove(found)
        self.reconcile(found["metadata"].get("namespace", ""))
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})


def node_status(ready: str) -> Object:
    return {"conditions": [{"type": "Ready", "status": ready}]}


def status_of(refused: Refused) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refused),
        "reason": refused.reason,
        "code": refused.status,
    }


def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def managed(manager: str, operation: str) -> Object:
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {"f:template": {}}}}


def patched(content_type: str, before: Object, body: Any) -> Object:
    if content_type == "application/json-patch+json":
        try:
            made = jsonpatch.apply_patch(before, body)
        except jsonpatch.JsonPatchTestFailed as error:
            raise Refused(422, "Invalid", "the server rejected our request due to an error in our request") from error
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise Refused(422, "Invalid", "the server rejected our request due to an error in our request") from error
        return dict(copy.deepcopy(made))
    if content_type == "application/merge-patch+json":
        return dict(merged(copy.deepcopy(before), body))
    raise Refused(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}")


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merged(target.get(key), value)
    return target


def selected(request: web.Request, of: Object) -> bool:
    labels = of["metadata"].get("labels", {})
    for part in filter(None, request.query.get("labelSelector", "").split(",")):
        key, equals, value = part.partition("=")
        if labels.get(key) != value if equals else key not in labels:
            return False
    for part in filter(None, request.query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        found: Any = of
        for step in key.split("."):
            found = (found or {}).get(step)
        if found != value:
            return False
    return True


@contextlib.contextmanager
def fake_kubernetes(tls: ssl.SSLContext | None = None) -> Iterator[FakeKubernetes]:
    """Serve a cluster until the end of the block."""
    fake = FakeKubernetes()
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        ended = asyncio.Event()
        application = web.Application(client_max_size=4 * 2**20)
        application.router.add_route("*", "/{path:.*}", fake.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        running.append((asyncio.get_running_loop(), ended))
        started.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield fake
    finally:
        loop, ended = running[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
