"""The API of one Kubernetes cluster, as raw JSON: a model would drop the fields that it does not know.

Each request has its limits, is sent once, and makes a connection of its own, so that new credentials and certificates
are used at once and none outlives a restart of the server. A question that is refused for a while is asked again.
https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.syntax.units import format_duration, shortened
from rollbackd.system import http_client
from rollbackd.system.clock import Clock
from rollbackd.system.http_client import HttpError, HttpFailure
from rollbackd.system.http_connection import masked, overlaid
from rollbackd.system.spawner import Spawner, one_line
from rollbackd_adapters.kubernetes.credentials import ClusterCredentials, load_credentials

Object = dict[str, Any]
"""An object of the API, or a list of them, as the server gave it."""

_LARGEST = 16 * 2**20
"""Bytes of an answer. An object has 1.5 MiB at most; a page of a list has `_PAGE` of them."""
_LONGEST_EVENT = 4 * 2**20
"""Bytes of one event of a watch: an object, with who manages which of its fields."""
_PAGE = 200
_MOST = 10_000
"""Objects of one list."""
_WORDS = 500
_ASKED_AGAIN = 3
_LONGEST_REST = timedelta(seconds=5)
_KNOWN_FOR = timedelta(minutes=1)
"""How long it is believed that it is still the same cluster."""
_NOT_IDENTIFIED = (
    'the ClusterRole has no line {apiGroups: [""], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}'
    "; add it, since that says which cluster it is"
)
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _GONE, _UNPROCESSABLE = 200, 401, 403, 404, 409, 410, 422
_CHANGING = frozenset({"PATCH", "DELETE"})
_NO_NAME = "-"
"""What no object is called."""
_JSON_PATCH = "application/json-patch+json"
_METADATA = "application/json;as={}ObjectMetadata{};g=meta.k8s.io;v=v1,application/json"


class KubernetesError(AdapterError):
    """The API refused, or did not answer."""

    def __init__(self, message: str, *, permanent: bool, status: int = 0, reason: str = "", said: str = "") -> None:
        super().__init__(message, permanent=permanent)
        self.status = status
        """Of HTTP; 0 where no answer came, so that an order may have been done all the same."""
        self.reason = reason
        self.said = said
        """The server's own words."""
        self.rest: timedelta | None = None
        """How long the server wants to be left alone."""
        self.is_unaccepted = status == _UNAUTHORIZED
        """Whether our credentials were not accepted, or the server's certificate not by us. Nothing was done then, and
        what is read anew may be accepted."""

    @property
    def is_absent(self) -> bool:
        return self.status == _NOT_FOUND

    @property
    def is_too_old(self) -> bool:
        """Whether the server has forgotten the version that was asked for, so that its list is to be asked anew."""
        return self.status == _GONE

    @property
    def is_conflict(self) -> bool:
        """Whether the object is another one by now than the order was made for; a failed `test` answers 422."""
        return self.status in {_CONFLICT, _UNPROCESSABLE}


class KubernetesClient:
    """One cluster."""

    def __init__(self, name: str, settings: ClusterSettings, spawner: Spawner, clock: Clock) -> None:
        self.name = name
        self._settings = settings
        self._spawner = spawner
        self._clock = clock
        self._credentials: ClusterCredentials | None = None
        self._loading = asyncio.Lock()
        self._identified = float("-inf")
        self.request_timeout = settings.request_timeout
        self.ordered: dict[str, float] = {}
        """When something was ordered last of the objects of a list, by its path; monotonic."""
        self.watches: dict[str, Any] = {}
        """Of lists, by their paths: each is a `watch.Watch`."""

    # -- questions ------------------------------------------------------------------------------
    async def get(self, path: str, **query: str) -> Object:
        """One object. :raises KubernetesError: it is not there, or may not be read."""
        return await self._asked("GET", path, query)

    async def metadata(self, path: str) -> Object:
        """One object's metadata alone: all that is ever read of a Secret."""
        return await self._asked("GET", path, {}, {"Accept": _METADATA.format("Partial", "")})

    async def existing(self, path: str, named: str, remedy: str) -> Object:
        """An object that is to be there. :raises AdapterError: not permanent, it is not; what to do."""
        if (found := await self.if_there(path)) is None:
            raise AdapterError(f"cluster {self.name}: there is no {named}; {remedy}", permanent=False)
        return found

    async def if_there(self, path: str) -> Object | None:
        """An object, or None where there is none. :raises KubernetesError: as `get`."""
        try:
            return await self.get(path)
        except KubernetesError as error:
            if not error.is_absent:
                raise
            return None

    async def proxied(self, path: str) -> None:
        """Ask what is behind a proxy of the API, whatever it says. :raises KubernetesError: it did not answer 2xx."""
        where = f"cluster {self.name}: GET {path}"
        async with self._answered(where, "GET", path, {}, {}, None, self.request_timeout) as (answer, credentials):
            if answer.ok:
                return
            said, _ = await http_client.body_of(answer, _LARGEST)
        found = _object(said) or {}
        if found.get("kind") == "Status":  # the API's own
            raise self._refused(where, answer.status, found, credentials, None)
        raise KubernetesError(f"{where} answered {answer.status}", permanent=False, status=answer.status)

    async def items(self, path: str, **query: str) -> list[Object]:
        """All objects of a list, page by page. :raises KubernetesError: as `get`, or they are too many."""
        found: list[Object] = []
        async for page, _ in self.pages(path, **query):
            found += page
        return found

    async def pages(self, path: str, **query: str) -> AsyncIterator[tuple[list[Object], str]]:
        """The same page by page, each with the resource version of the whole list."""
        listed, query = 0, {"limit": str(_PAGE), **query}
        while True:
            page = await self._asked("GET", path, query)
            metadata = page.get("metadata") or {}
            found = [each for each in page.get("items") or () if isinstance(each, dict)]
            listed += len(found)
            yield found, str(metadata.get("resourceVersion") or "")
            following = metadata.get("continue")
            if not following:
                return
            if listed >= _MOST:
                text = (
                    f"cluster {self.name}: GET {path} lists more than {_MOST} objects; is the namespace the right one?"
                )
                raise KubernetesError(text, permanent=False)
            query["continue"] = str(following)

    async def items_if_known(self, path: str) -> list[Object]:
        """All objects of a list whose kind the cluster may not have, such as that of a CRD; none then."""
        try:
            return await self.items(path)
        except KubernetesError as error:
            if not error.is_absent:
                raise
            return []

    async def may(self, verb: str, resource: str, namespace: str, *, group: str = "", name: str = "") -> bool:
        """Whether we have that right; of a resource, or as in `services/proxy` of a part of one.

        :raises KubernetesError: that cannot be asked.
        """
        whole, _, part = resource.partition("/")
        attributes = {"verb": verb, "resource": whole, "namespace": namespace, "group": group, "name": name}
        attributes |= {"subresource": part} if part else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._asked("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}, body=review)
        return bool((answer.get("status") or {}).get("allowed"))

    async def watch(
        self, path: str, version: str, lasting: timedelta, take: Callable[[Object | None], None], **chosen: str
    ) -> None:
        """Hand on what happens to the objects of a list, event by event, until the server ends it.

        https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes

        :param version: the resource version after which it begins.
        :param lasting: how long the server is to tell. It has the time of a request more to end, else it counts as
            dead.
        :param take: gets None once the server has agreed, then each event. It may raise.
        :param chosen: selectors, where not all of the list is meant.
        :raises KubernetesError: refused, broken off, or dead; with status 410 the version is too old.
        """
        seconds = str(round(lasting.total_seconds()))
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": seconds}
        query |= chosen
        where, limit = f"cluster {self.name}: watch of {path}", lasting + self.request_timeout
        async with self._answered(where, "GET", path, query, {}, None, limit) as (answer, credentials):
            if answer.status != _OK:
                said, _ = await http_client.body_of(answer, _LARGEST)
                rest = http_client.retry_after(answer.headers)
                raise self._refused(where, answer.status, _object(said) or {}, credentials, rest)
            take(None)
            async for line in http_client.lines_of(answer, _LONGEST_EVENT):
                event = _object(line)
                if event is None or not isinstance(event.get("object"), dict):
                    raise KubernetesError(f"{where}: what it told is no event", permanent=False)
                if event.get("type") == "ERROR":
                    status = event["object"]
                    code = status.get("code")
                    raise self._refused(where, code if isinstance(code, int) else 0, status, credentials, None)
                take(event)

    async def identify(self) -> None:
        """See that it is the cluster that the configuration means.

        :raises KubernetesError: permanent, it is another one, or may not be asked.
        """
        if self._clock.monotonic() - self._identified < _KNOWN_FOR.total_seconds():
            return
        try:
            uid = (await self.metadata("/api/v1/namespaces/kube-system")).get("metadata", {}).get("uid")
        except KubernetesError as error:
            if error.status != _FORBIDDEN:
                raise
            text = f"cluster {self.name}: {_NOT_IDENTIFIED}"
            raise KubernetesError(text, permanent=error.permanent, status=error.status) from error
        if uid != self._settings.uid:
            text = f"its namespace kube-system has the uid {one_line(str(uid))[:60]}, not {self._settings.uid}"
            raise KubernetesError(
                f"cluster {self.name} is another one than the configuration means: {text}; nothing is done in it, "
                "correct `kubeconfig` and `context`, or `uid`",
                permanent=True,
            )
        self._identified = self._clock.monotonic()

    # -- orders ---------------------------------------------------------------------------------
    async def patch(self, path: str, operations: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> Object:
        """Send a JSON patch (RFC 6902) once; the object as it is after it.

        :param dry_run: let the server say what would become of it, and change nothing.
        :raises KubernetesError: refused; or no answer came, and it may have been done all the same.
        """
        query = {"fieldManager": "rollbackd"} | ({"dryRun": "All"} if dry_run else {})
        return await self._order("PATCH", path, query, {"Content-Type": _JSON_PATCH}, list(operations))

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object with that uid; one that is gone, or is another by now, is left alone."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        try:
            await self._order("DELETE", path, {}, {}, options)
        except KubernetesError as error:
            if error.status not in {_NOT_FOUND, _CONFLICT}:
                raise

    # -- requests -------------------------------------------------------------------------------
    async def _asked(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Object:
        """Ask; once more with new credentials after a 401, and again where the server asks for a rest."""
        for attempt in range(_ASKED_AGAIN):
            try:
                return await self._order(method, path, query, headers or {}, body)
            except KubernetesError as error:
                if error.rest is None or attempt == _ASKED_AGAIN - 1 or error.rest > _LONGEST_REST:
                    raise
                await self._clock.sleep(error.rest)
        raise AssertionError("unreachable")

    async def _order(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Any
    ) -> Object:
        try:
            return await self._send(method, path, query, headers, body)
        except KubernetesError as error:
            if not error.is_unaccepted:
                raise
            return await self._send(method, path, query, headers, body)
        finally:
            if method in _CHANGING and "dryRun" not in query:
                self.ordered[path.rpartition("/")[0]] = self._clock.monotonic()

    async def _send(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Any
    ) -> Object:
        where, limit = f"cluster {self.name}: {method} {path}", self.request_timeout
        async with self._answered(where, method, path, query, headers, body, limit) as (answer, credentials):
            said, whole = await http_client.body_of(answer, _LARGEST)
            status, rest = answer.status, http_client.retry_after(answer.headers)
        if not whole:
            raise KubernetesError(f"{where}: the answer is longer than {_LARGEST // 2**20} MiB", permanent=False)
        found = _object(said)
        if 200 <= status < 300 and found is not None:
            return found
        raise self._refused(where, status, found or {}, credentials, rest)

    @asynccontextmanager
    async def _answered(
        self,
        where: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Any,
        limit: timedelta,
    ) -> AsyncIterator[tuple[http_client.Response, ClusterCredentials]]:
        """The answer to one request, to be read within the block and the limit.

        :raises KubernetesError: there is none, or half of one.
        """
        credentials = await self._current()
        url = f"{credentials.server}{path}?{urlencode(query)}" if query else f"{credentials.server}{path}"
        data = None if body is None else json.dumps(body).encode()
        sent = {"User-Agent": "rollbackd", "Accept": "application/json"}
        sent |= {} if body is None else {"Content-Type": "application/json"}
        sent = overlaid(overlaid(sent, credentials.connection.headers), headers)
        try:
            async with asyncio.timeout(limit.total_seconds()), http_client.lone_session() as session:
                answered = http_client.http_answer(
                    session, method, url, limit=limit, headers=sent, body=data, connection=credentials.connection
                )
                async with answered as answer:
                    yield answer, credentials
        except TimeoutError:
            raise KubernetesError(f"{where}: no answer within {format_duration(limit)}", permanent=False) from None
        except HttpError as failed:
            error = KubernetesError(f"{where}: {failed}", permanent=not failed.transient)
            if failed.failure is HttpFailure.UNTRUSTED:  # there is no connection, so nothing was sent
                error.is_unaccepted, self._credentials = True, None
            raise error from None

    def _refused(
        self, where: str, status: int, said: Object, credentials: ClusterCredentials, rest: timedelta | None
    ) -> KubernetesError:
        """The error of a refusal. Credentials that were not accepted are read anew for the next request."""
        if status == _UNAUTHORIZED:
            self._credentials = None
        words = masked(str(said.get("message") or "the answer is not the API's"), credentials.connection.secrets)
        words = shortened(" ".join(self._spawner.clean(words).split()), _WORDS)
        hint = {
            _UNAUTHORIZED: "; its credentials are not accepted, look at the kubeconfig",
            _FORBIDDEN: "; docs/kubernetes.md has the Role that it needs",
        }.get(status, "")
        text, reason = f"{where} answered {status}: {words}{hint}", str(said.get("reason") or "")
        transient = http_client.is_transient(status) or status in {_UNAUTHORIZED, _CONFLICT, _GONE}
        refused = KubernetesError(text, permanent=not transient, status=status, reason=reason, said=words)
        refused.rest = rest if transient else None
        return refused

    async def _current(self) -> ClusterCredentials:
        async with self._loading:
            known = self._credentials
            if known is None or self._clock.monotonic() >= known.until:
                known = await load_credentials(self.name, self._settings, self._spawner, self._clock)
                if self._credentials is None or self._credentials.server != known.server:
                    self._identified = float("-inf")
                self._credentials = known
            return known


def segment(name: object) -> str:
    """A name that a cluster told, as one segment of a path: whatever stands in it, it leads nowhere else."""
    text = str(name)
    return quote(text, safe="") if text.strip(".") else _NO_NAME


def _object(said: bytes) -> Object | None:
    """The JSON object of an answer; None when it is none."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_Clients = dict[tuple[str, str], KubernetesClient]
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clients] = WeakKeyDictionary()
"""One client for each cluster: its credentials serve all layers."""


def client_of(place: Place, cluster: str) -> KubernetesClient:
    """The client of a cluster. :raises AdapterError: permanent, the configuration names no such cluster."""
    settings = place.clusters.get(cluster)
    if settings is None:
        text = f"the configuration has no cluster {cluster} any more; add it under `clusters`"
        raise AdapterError(text, permanent=True)
    known = _clients.setdefault(asyncio.get_running_loop(), {})
    key = (cluster, settings.model_dump_json())
    if key not in known:
        known[key] = KubernetesClient(cluster, settings, place.spawner, place.clock)
    return known[key]


async def identified_client(place: Place, cluster: str) -> KubernetesClient:
    """The client of a cluster. :raises AdapterError: it is another cluster, or cannot be asked."""
    client = client_of(place, cluster)
    await client.identify()
    return client
