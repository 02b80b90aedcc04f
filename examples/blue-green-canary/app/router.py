"""Stands where a mesh and its ingress stand: `router.py PORT`, on loopback. `/SERVICE/…` goes to a pod of that Service.

It follows the EndpointSlices of a namespace and the weights of its VirtualServices. `/metrics` is what a mesh tells
Prometheus of every answer, and what probes tell of what the shop rests on. `/edge/exports/close` and `/open` stop new
exports and let them in again.
"""

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API, TOKEN, NAMESPACE = os.environ["API"], os.environ["TOKEN"], os.environ["NAMESPACE"]
PROBED = json.loads(os.environ["PROBED"])
"""What the shop rests on, by name: `HOST:PORT`, or the path of a socket."""
BUCKETS = (0.1, 0.5, 1.0, 2.0, 2.5, 5.0)
USERS_WITHIN = float(os.environ.get("USERS_WITHIN", "60"))
"""Seconds."""
TRIES = 3
"""Pods that are asked when one takes no connection, as a mesh does it."""


def listed(path: str) -> list[Any]:
    request = urllib.request.Request(API + path, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return list(json.load(answer)["items"])


class Ways:
    """Where the traffic goes now."""

    def __init__(self) -> None:
        self.pods: dict[str, list[str]] = {}
        self.weights: dict[str, list[tuple[str, int]]] = {}

    def follow(self) -> None:
        slices = listed(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
        routes = listed(f"/apis/networking.istio.io/v1/namespaces/{NAMESPACE}/virtualservices")
        self.pods = {
            each["metadata"]["labels"]["kubernetes.io/service-name"]: [
                end["addresses"][0] for end in each["endpoints"] if end["conditions"]["ready"]
            ]
            for each in slices
        }
        self.weights = {
            each["metadata"]["name"]: [
                (way["destination"]["host"], way.get("weight", 100)) for way in each["spec"]["http"][0]["route"]
            ]
            for each in routes
        }

    def follow_for_ever(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self.follow()
            time.sleep(0.2)

    def service(self, host: str) -> str:
        """The Service behind a host; of a route's destinations one by its weight."""
        ways = self.weights.get(host)
        return random.choices([way for way, _ in ways], [weight for _, weight in ways])[0] if ways else host


WAYS = Ways()


class Figures:
    """What was answered, for Prometheus."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: Counter[tuple[str, int]] = Counter({("orders", 200): 0})
        self.buckets: Counter[float] = Counter()
        self.seconds = 0.0
        self.users: dict[str, tuple[float, float]] = {}
        """When somebody came last, and when they were last answered badly."""

    def count(self, service: str, status: int, seconds: float, user: str) -> None:
        now = time.monotonic()
        with self.lock:
            self.answers[service, status] += 1
            self.buckets.update(limit for limit in (*BUCKETS, float("inf")) if seconds <= limit)
            self.seconds += seconds
            if user:
                before = self.users.get(user, (now, 0.0))[1]
                self.users[user] = (now, now if status >= 500 else before)

    def text(self) -> str:
        now, name = time.monotonic(), 'service="shop"'
        with self.lock:
            lines = [
                f'http_requests_total{{{name},destination="{service}",code="{status}"}} {count}'
                for (service, status), count in self.answers.items()
            ]
            for limit in (*BUCKETS, float("inf")):
                said = "+Inf" if limit == float("inf") else limit
                lines.append(f'http_request_duration_seconds_bucket{{{name},le="{said}"}} {self.buckets[limit]}')
            seen = [each for each in self.users.values() if now - each[0] < USERS_WITHIN]
        lines.append(f"all_users{{{name}}} {len(seen)}")
        lines.append(f"affected_users{{{name}}} {sum(1 for _, bad in seen if bad and now - bad < USERS_WITHIN)}")
        lines += [f'probe_success{{{name},target="{key}"}} {connects(at):d}' for key, at in PROBED.items()]
        return "\n".join(lines) + "\n"


FIGURES = Figures()


def connects(at: str) -> bool:
    """As the blackbox exporter's tcp_connect."""
    family, address = (socket.AF_UNIX, at) if at.startswith("/") else (socket.AF_INET, _pair(at))
    with socket.socket(family) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def _pair(at: str) -> tuple[str, int]:
    host, _, port = at.rpartition(":")
    return host, int(port)


class Router(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.0"
    closed = False

    def do_GET(self) -> None:
        self.routed()

    def do_POST(self) -> None:
        self.routed()

    def routed(self) -> None:
        host, _, path = self.path[1:].partition("/")
        if host == "metrics":
            return self.answered(200, FIGURES.text().encode())
        if host == "edge":
            Router.closed = {"exports/close": True, "exports/open": False}.get(path, Router.closed)
            return self.answered(200, json.dumps({"closed": Router.closed}).encode())
        began, service = time.monotonic(), WAYS.service(host)
        status, body = self.forwarded(service, path)
        FIGURES.count(service, status, time.monotonic() - began, self.headers.get("X-Visitor", ""))
        return self.answered(status, body)

    def forwarded(self, service: str, path: str) -> tuple[int, bytes]:
        for _ in range(TRIES):
            pods = WAYS.pods.get(service, [])
            if not pods:
                return 503, b"no pod is ready"
            request = urllib.request.Request(f"http://{random.choice(pods)}:8080/{path}", method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status), answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionRefusedError):
                    break
                time.sleep(0.2)  # until its end is heard of
            except OSError:
                break
        return 503, b"no pod answers"

    def answered(self, status: int, body: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    WAYS.follow()
    threading.Thread(target=WAYS.follow_for_ever, daemon=True).start()
    Server(("127.0.0.1", int(sys.argv[1])), Router).serve_forever()
