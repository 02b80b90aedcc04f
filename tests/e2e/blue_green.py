"""The example `blue-green-canary` as it is shipped, beside a strict fake of the Kubernetes API and real servers.

Only what says where something is, and waits, are moved. Pods are small processes, a router stands for the mesh, and
visitors count every answer. One world serves all stories of a module.
"""

import os
import pwd
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.clusters import JSON_PATCH, Cluster, fake_cluster
from tests.e2e.everybody import People, reachable
from tests.e2e.kubernetes_node import Node
from tests.e2e.ops_host import EXAMPLES, Host
from tests.servers import (
    ArchivedPostgres,
    Server,
    alertmanager,
    answers,
    archived_postgres,
    free_port,
    prometheus,
    redis_server,
    wait_until,
)

PLACE = EXAMPLES / "blue-green-canary"
TOKENS = ("alertmanager", "security", "tech-desk", "business-desk")
VISITORS = 3
WINDOW = "[4s]"
"""Of queries, in place of a minute."""


class Visitors:
    """Ask the shop all the while, one of them orders, and count every answer."""

    def __init__(self, router: str) -> None:
        self.answers: Counter[int] = Counter()
        self.ordered: list[tuple[datetime, int]] = []
        """Numbers of the orders that were acknowledged, and when."""
        self._router, self._ended, self._lock = router, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._visit, args=(n,), daemon=True) for n in range(VISITORS)]

    def _visit(self, number: int) -> None:
        while not self._ended.wait(0.25):
            status, _ = self.ask("front/", f"visitor-{number}")
            with self._lock:
                self.answers[status] += 1
            if number == 0:
                self._order()

    def _order(self) -> None:
        status, said = self.ask("orders/", "visitor-0", "POST")
        with self._lock:
            self.answers[status] += 1
            if status == 200:
                self.ordered.append((datetime.now(UTC), int(said)))

    def ask(self, path: str, visitor: str = "", method: str = "GET") -> tuple[int, str]:
        """Status and text; 0 when nobody answers."""
        request = urllib.request.Request(f"{self._router}/{path}", headers={"X-Visitor": visitor}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def lost(self) -> tuple[int, int]:
        """How many answers were no good ones, and how many there were."""
        with self._lock:
            return sum(n for status, n in self.answers.items() if status != 200), self.answers.total()

    @contextmanager
    def coming(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(timeout=20)


def _nothing() -> Any:
    """Every field of a host has a default."""
    return None


@dataclass
class Shop(Host):
    """The namespace, rollbackd beside it, and everybody who is told."""

    cluster: Cluster = field(default_factory=_nothing)
    people: People = field(default_factory=People)
    archived: ArchivedPostgres = field(default_factory=_nothing)
    namespace: str = ""
    router: str = ""
    redis: str = ""
    sessions: ExitStack = field(default_factory=ExitStack)
    """Ends Redis."""
    metrics: Server = field(default_factory=_nothing)
    visitors: Visitors = field(default_factory=_nothing)

    # -- the namespace --------------------------------------------------------------------------
    def path(self, kind: str, name: str = "") -> str:
        """Of an object, or of all of a kind."""
        group = {"deployments": "/apis/apps/v1", "virtualservices": "/apis/networking.istio.io/v1"}.get(kind, "/api/v1")
        return f"{group}/namespaces/{self.namespace}/{kind}/{name}".rstrip("/")

    def patch(self, kind: str, name: str, at: str, value: object) -> None:
        operation = {"op": "replace", "path": at, "value": value}
        self.cluster.api("PATCH", self.path(kind, name), [operation], JSON_PATCH)

    def apply_manifests(self) -> None:
        for each in yaml.safe_load_all((PLACE / "manifests.yaml").read_text()):
            self.cluster.api("POST", self.path(f"{each['kind'].lower()}s"), each)
        for name in ("api-blue", "api-green", "api-hotfix", "front", "front-canary", "orders"):
            self.until_rolled_out(name)

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        """Sessions are gone until the end of the block."""
        self.sessions.close()
        try:
            yield
        finally:
            port = int(self.redis.rpartition(":")[2])
            self.sessions.enter_context(redis_server(self.root / "redis-again", port=port))

    def roll_out(self, workload: str, tag: str) -> None:
        """CI rolls a release out, and waits for it."""
        image = f"registry.example/shop/{workload.partition('-')[0]}:{tag}"
        self.patch("deployments", workload, "/spec/template/spec/containers/0/image", image)
        self.until_rolled_out(workload)

    def until_rolled_out(self, name: str) -> None:
        def done() -> bool:
            found = self.cluster.api("GET", self.path("deployments", name))
            status, wanted = found.get("status", {}), found["spec"]["replicas"]
            numbers = [status.get(key) for key in ("replicas", "updatedReplicas", "availableReplicas")]
            return numbers == [wanted] * 3 and status.get("observedGeneration") == found["metadata"]["generation"]

        wait_until(done, f"{name} is rolled out", 60)

    def image(self, workload: str) -> str:
        found = self.cluster.api("GET", self.path("deployments", workload))
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]

    @property
    def colour(self) -> str:
        return str(self.cluster.api("GET", self.path("services", "api"))["spec"]["selector"]["color"])

    def switch(self, colour: str) -> None:
        """CI sends the traffic to another colour."""
        self.patch("services", "api", "/spec/selector/color", colour)

    @property
    def weights(self) -> list[int]:
        found = self.cluster.api("GET", self.path("virtualservices", "front"))
        return [each["weight"] for each in found["spec"]["http"][0]["route"]]

    def split(self, canary: int) -> None:
        """CI gives the canary a share of the front end's traffic."""
        for n, weight in enumerate((100 - canary, canary)):
            self.patch("virtualservices", "front", f"/spec/http/0/route/{n}/weight", weight)

    # -- its life -------------------------------------------------------------------------------
    def lay_out(self) -> None:
        """The example's places as they are here, and the secrets."""
        server, root = self.archived.server, str(self.root)
        self.moves = {
            "host=/run/postgresql": f"host={server.socket} port={server.port}",
            "127.0.0.1:6379": self.redis,
            "http://127.0.0.1:9090": self.metrics.url,
            "namespace: shop": f"namespace: {self.namespace}",
            "uid: 0b8f3c52-7e0f-4c1c-9a55-3d3f5d1c2a10": f"uid: {self.cluster.settings.uid}",
            "/etc/rollbackd/kubeconfig": str(self.cluster.kubeconfig),
            "context: prod": f"context: {self.cluster.context}",
            ".shop.example/": "/",
            "/etc/rollbackd": root,
            "/var/lib/rollbackd": root,
            "/var/log/shop": root,
            "/srv/copies": f"{root}/copies",
            "mail.example.com:587": self.people.server,
            "https://status.example": self.people.base,
        }
        for name in ("api", "api-blue", "api-green", "api-hotfix", "front", "orders", "edge"):
            self.moves |= {f"http://{name}/": f"{self.router}/{name}/"}
        for name in TOKENS:
            self.secret(name)
        for name, text in (
            ("slack-webhook", self.people.base + self.people.slack.path),
            ("status-token", "Bearer the status page's"),
        ):
            (self.root / name).write_text(text)
            (self.root / name).chmod(0o600)

    def sooner(self) -> dict[str, Any]:
        """The shipped configuration with seconds for minutes, and without what this host lacks."""
        config = self.loaded()
        (service,) = config["services"]
        config["daemon"]["look_every"] = "1s"
        config["prometheus"]["poll_every"] = "500ms"
        config["windows"] = [{"days": "mon-sun", "from": "00:00", "to": "24:00", "zone": "UTC"}]
        errors = config["rules"][0]["when"]
        errors |= {"query": errors["query"].replace("[1m]", WINDOW), "for": "1s"}
        layers = service["layers"]
        layers["colour"]["every"] = layers["weights"]["every"] = "200ms"
        for name in ("front", "orders", "resting"):
            layers[name]["every"] = "100ms"
        layers["exports"]["every"] = "100ms"
        config["groups"]["tech"].append(f"unix:{pwd.getpwuid(os.geteuid()).pw_name}")
        layers["db"]["pgbackrest"] = self.archived.settings
        between = service["checks"]["canary"]
        between["query"] = between["query"].replace("[1m]", WINDOW)
        service["verify"] |= {"settle": "200ms", "every": "300ms", "deadline": "60s"}
        config["limits"] = {
            "cooldown": "0s",
            "per_service": {"rollbacks": 99, "per": "1h"},
            "fleet": {"rollbacks": 99, "per": "1h"},
        }
        for receiver in config["notify"]["receivers"]:
            if "email" in receiver:
                receiver["email"]["security"] = "none"
        return config

    def as_new(self) -> None:
        """All is well, and rollbackd knows that state as a good one."""
        for name in ("api-blue", "api-green", "front", "front-canary", "orders"):
            if self.image(name) != "v1":
                self.roll_out(name, "v1")
        if self.weights != [100, 0]:
            self.split(0)
        if self.colour != "blue":
            self.switch("blue")
        self.until_state(colour="blue", weights="0")
        wait_until(lambda: self.firing() == [], "no alert fires", 60)
        self.said("good", "shop")

    def until_state(self, **releases: str) -> None:
        """Until rollbackd has seen these releases run, by layer."""
        wait_until(lambda: releases.items() <= self.present("shop").items(), f"{releases} is seen", 60)

    def firing(self) -> list[str]:
        """What Prometheus finds wrong with the shop."""
        with urllib.request.urlopen(f"{self.metrics.url}/api/v1/alerts", timeout=10) as answer:
            found = yaml.safe_load(answer.read())["data"]["alerts"]
        return sorted({each["labels"]["alertname"] for each in found})

    def newest(self, after: str = "") -> str:
        """Wait for an incident that is not this one, nor older; its name."""

        def found() -> str:
            names = [one["id"] for one in self.incidents()]
            return names[0] if names and names[0] != after else ""

        wait_until(lambda: bool(found()), "an incident", 60)
        return found()

    @property
    def last(self) -> str:
        """The newest incident, or nothing."""
        return next((one["id"] for one in self.incidents()), "")

    def answer(self, incident: str, who: str) -> str:
        """Somebody says yes; what is still missing, in words, or why it does not count."""
        try:
            return str(self.ask("POST", f"incidents/{incident}/approve", {}, f"the token {who}")["missing"])
        except urllib.error.HTTPError as error:
            with error:
                return str(yaml.safe_load(error.read())["detail"])

    def report(self, event: str, who: str = "security") -> None:
        """Somebody's program says that this happened."""
        self.ask("POST", "signals", {"event": event, "service": "shop"}, f"the token {who}")

    def fact(self, incident: str, kind: str) -> dict[str, Any]:
        """The first of its kind."""
        return next(one for one in self.records(incident) if one["kind"] == kind)

    def moved_layers(self, incident: str) -> list[str]:
        """Layers that were begun to be moved, in order."""
        return [one["fact"]["layer"] for one in self.records(incident) if one["kind"] == "ApplyStarted"]


def alert_rules() -> dict[str, Any]:
    """The shipped rules, with seconds for minutes."""
    found: dict[str, Any] = yaml.safe_load((PLACE / "alerts/alerts.yaml").read_text())
    (troubles,) = (group for group in found["groups"] if group["name"] == "shop-troubles")
    for rule in troubles["rules"]:
        rule["expr"] = rule["expr"].replace("[1m]", WINDOW)
        rule["for"] = "500ms"
    return {"groups": [troubles]}


@contextmanager
def shop_world(root: Path) -> Iterator[Shop]:
    """The shop as new, with visitors."""
    with (
        archived_postgres() as archived,
        ExitStack() as sessions,
        fake_cluster() as cluster,
        reachable() as people,
    ):
        redis = sessions.enter_context(redis_server(root / "redis"))
        archived.server.run(PLACE / "database.sql")
        host = Shop(
            root / "host",
            example="blue-green-canary",
            cluster=cluster,
            people=people,
            archived=archived,
            namespace=cluster.namespace(),
            sessions=sessions,
            redis=f"127.0.0.1:{redis}",
            router=f"http://127.0.0.1:{free_port()}",
        )
        host.prepare()
        database = archived.server.dsn("shop", "shop")
        given = {"REDIS": host.redis, "BACK_END": f"{host.router}/api", "DATABASE": database, "SLOW_SECONDS": "2.2"}
        log = host.root / "shop.log"
        log.touch()
        with Node(cluster, host.namespace, PLACE / "app/shop.py", log, os.environ | given), _routed(host):
            host.apply_manifests()
            host.visitors = Visitors(host.router)
            with host.visitors.coming(), _watched(host):
                yield host


@contextmanager
def _routed(host: Shop) -> Iterator[None]:
    """The router, before the pods are."""
    place = host.root / "router"
    place.mkdir()
    socket = f"{host.archived.server.socket}/.s.PGSQL.{host.archived.server.port}"
    probed = f'{{"redis": "{host.redis}", "postgres": "{socket}"}}'
    env = {
        "API": host.cluster.api.url,
        "TOKEN": host.cluster.api.token,
        "NAMESPACE": host.namespace,
        "PROBED": probed,
        "USERS_WITHIN": "4",
    }
    argv = [sys.executable, "-I", str(PLACE / "app/router.py"), host.router.rpartition(":")[2]]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | env)
    try:
        wait_until(lambda: answers(f"{host.router}/metrics"), "the router")
        yield
    finally:
        process.kill()
        process.wait(timeout=10)


@contextmanager
def _watched(host: Shop) -> Iterator[None]:
    """Prometheus, Alertmanager, and rollbackd, which has seen that all is well."""
    webhook = f"http://127.0.0.1:{host.port}/api/v1/alerts"
    with (
        alertmanager(host.root / "alertmanager", webhook=webhook, token="the token alertmanager") as alerting,
        prometheus(
            host.root / "prometheus",
            targets=[host.router.removeprefix("http://")],
            rules=alert_rules(),
            alertmanager=alerting.address,
            every="500ms",
        ) as host.metrics,
    ):
        host.lay_out()
        host.write(host.sooner())
        try:
            host.start()
            host.until_state(colour="blue", weights="0")
            yield
        finally:
            host.stop()
