"""Clusters of Kubernetes: what it costs to watch one, what an event costs, what clusters that hang cost the others, and
how long a rollback takes beside kubectl's.

The idle daemon has a service for each Deployment, looked at as often as it is by default. Memory is that of its one
process beyond that of a daemon without a cluster, the library that reads credentials included; processor time is that
of all its threads, once each layer has been looked at twice. A rollback is the step alone, from its plan to its end:
what decides and verifies besides is in other rows. kubectl is Debian's, and has found out before what the cluster has.
"""

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cluster import NAMESPACE, REPLICA_SETS, event, template, uid
from bench.host import BenchError, Host, fixed_services, free_port, processor_time, serves, service, started, wait_until
from bench.measure import Row, Sizes, middle, span
from bench.memory import resident
from rollbackd.adapter import Place
from rollbackd.model import Progress, Release
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.system.tasks import end
from rollbackd.testing import perform, place, planned
from rollbackd_adapters.kubernetes import KubernetesAdapter, KubernetesSettings
from rollbackd_adapters.kubernetes.client import client_of
from rollbackd_adapters.kubernetes.templates import template_id
from rollbackd_adapters.kubernetes.watch import told_of

MOST_MEMORY, MOST_IDLE, MOST_EVENT, MOST_HUNG = 100.0, 5.0, 3.0, 1.2
"""MiB; percent of a processor; times of `json.loads`; times as long as without clusters that hang."""
MOST_BESIDE_KUBECTL, MOST_REQUESTS = 1.1, 15
_TURNS, _LOOKS = 3, 2
"""In turns, so many looks each; the fastest counts, since what else the machine does may slow any of them."""
_AT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web-"


def measure(root: Path, sizes: Sizes) -> Row:
    """An idle daemon that watches."""
    readings = [_idle(root, sizes) for _ in range(sizes.rounds)]
    more, busy = (middle(each) for each in zip(*readings, strict=True))
    memory, shares = zip(*readings, strict=True)
    return Row(
        what=f"{sizes.workloads} Deployments with {REPLICA_SETS} ReplicaSets each, watched, idle",
        measured=f"{more:.0f} MiB more, {busy:.1f} % of a processor",
        floor="0, a daemon with one service and no cluster",
        rest=f"a service each, looked at every {sizes.settle * 6:.0f} s; rounds {span(memory, '.0f')} MiB, "
        f"{span(shares, '.1f')} %",
        must=f"< {MOST_MEMORY:.0f} MiB, < {MOST_IDLE:.0f} %",
        ok=more < MOST_MEMORY and busy < MOST_IDLE,
    )


def measure_event(root: Path, sizes: Sizes) -> Row:
    """Events of a watch, from the connection to the record."""
    readings = [_event(root, sizes) for _ in range(sizes.rounds)]
    ratios = [taken / parsed for taken, parsed in readings]
    taken, parsed = (middle(each) * 1e6 / sizes.events for each in zip(*readings, strict=True))
    return Row(
        what=f"an event of a watch, of {len(event(0, 1)) / 1024:.0f} KiB",
        measured=f"{middle(ratios):.2f}",
        floor=f"1, json.loads of it in {parsed:.0f} us",
        rest=f"{taken:.0f} us of processor time: received, parsed, its record made; rounds {span(ratios, '.2f')}",
        must=f"<= {MOST_EVENT:.0f}",
        ok=middle(ratios) <= MOST_EVENT,
    )


def measure_hung(root: Path, sizes: Sizes) -> Row:
    """Looks at layers of many clusters, of which a tenth hangs."""
    hung = sizes.clusters // 10
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(hung)]
        ports = _stand_in(stack, root, sizes.clusters - hung, 1)
        places = [_place(root, number, port) for number, port in enumerate(ports)]
        away = [_place(root, len(ports) + n, each.getsockname()[1]) for n, each in enumerate(sockets)]
        readings = asyncio.run(_beside(places, away, sizes.rounds))
    ratios = [beside / alone for alone, beside in readings]
    alone, beside = (middle(each) for each in zip(*readings, strict=True))
    ratio = beside / alone
    return Row(
        what=f"looks at {len(places)} clusters, while {hung} others hang",
        measured=f"{ratio:.2f}",
        floor=f"1, {alone * 1000:.0f} ms without those that hang",
        rest=f"{beside * 1000:.0f} ms, all clusters asked at once; rounds {span(ratios, '.2f')}",
        must=f"<= {MOST_HUNG}",
        ok=ratio <= MOST_HUNG,
    )


def measure_rollback(root: Path, sizes: Sizes) -> Row:
    """A rollback of a workload, and `kubectl rollout undo` and `status`, in turns."""
    if shutil.which("kubectl") is None:
        raise BenchError("kubectl is missing; `make servers` installs it")
    with ExitStack() as stack:
        port = _rolling(stack, root, sizes.rollout)
        there = _place(root, 0, port)
        _by_kubectl(root)
        asyncio.run(_by_rollbackd(there, REPLICA_SETS))  # what both find out once is known from here on
        readings = [_in_turns(root, there, port) for _ in range(sizes.rounds)]
    ratios = [ours / theirs for theirs, ours, _ in readings]
    theirs, ours = (middle([each[n] for each in readings]) for n in (0, 1))
    asked = max(each[2] for each in readings)
    return Row(
        what=f"a rollback in Kubernetes whose rollout takes {sizes.rollout:g} s",
        measured=f"{middle(ratios):.2f}, {asked} requests",
        floor=f"1, {theirs:.2f} s of kubectl rollout undo and status",
        rest=f"{ours:.2f} s: planned, tried, set, followed; rounds {span(ratios, '.2f')}",
        must=f"<= {MOST_BESIDE_KUBECTL}, <= {MOST_REQUESTS} requests",
        ok=middle(ratios) <= MOST_BESIDE_KUBECTL and asked <= MOST_REQUESTS,
    )


def _rolling(stack: ExitStack, root: Path, takes: float) -> int:
    """The port of a cluster whose rollouts take so many seconds, that serves until the stack is left."""
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    api = stack.enter_context(started(["-m", "bench.rolling_cluster", str(port), str(takes)], root, "cluster.log"))
    wait_until(lambda: serves(port, api, root / "cluster.log"), "the stand-in for a cluster")
    return port


def _stand_in(stack: ExitStack, root: Path, clusters: int, deployments: int, events: int = 0) -> list[int]:
    """The ports of so many clusters, that serve until the stack is left."""
    ports: list[int] = []
    while len(ports) < clusters:
        ports.append(free_port(*ports))
    root.mkdir(parents=True, exist_ok=True)
    argv = ["-m", "bench.cluster", ",".join(map(str, ports)), str(deployments), str(events)]
    api = stack.enter_context(started(argv, root, "cluster.log"))
    wait_until(lambda: serves(ports[-1], api, root / "cluster.log"), "the stand-in for a cluster")
    return ports


def _settings(root: Path, number: int, port: int) -> dict[str, str]:
    """A cluster, as the configuration has it."""
    path = root / f"kubeconfig-{number}"
    known = {
        "clusters": [{"name": "there", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "us", "user": {"token": "of-the-bench"}}],
        "contexts": [{"name": "there", "context": {"cluster": "there", "user": "us"}}],
    }
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **known}))
    path.chmod(0o600)
    return {"kubeconfig": str(path), "context": "there", "uid": uid(number), "request_timeout": "1m"}


def _layer(number: int) -> dict[str, str]:
    return {"adapter": "kubernetes", "cluster": "prod", "namespace": NAMESPACE, "workload": f"deployment/web-{number}"}


def _place(root: Path, number: int, port: int) -> Place:
    settings = ClusterSettings.model_validate(_settings(root, number, port))
    return replace(place(root / f"layer-{number}"), clusters={"prod": settings})


# -- a rollback ---------------------------------------------------------------------------------
def _in_turns(root: Path, there: Place, port: int) -> tuple[float, float, int]:
    """Seconds of kubectl, then of rollbackd on the way back; and how many requests that took."""
    begun = time.perf_counter()
    _by_kubectl(root)
    by_kubectl = time.perf_counter() - begun
    _asked(port)
    by_rollbackd = asyncio.run(_by_rollbackd(there, REPLICA_SETS))
    return by_kubectl, by_rollbackd, _asked(port)


def _by_kubectl(root: Path) -> None:
    kubectl = ["kubectl", f"--kubeconfig={root / 'kubeconfig-0'}", "--context=there", f"--namespace={NAMESPACE}"]
    for words in ("undo", "status"):
        argv = [*kubectl, f"--cache-dir={root / 'kubectl'}", "rollout", words, "deployment/web-0"]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise BenchError(f"kubectl rollout {words}: {done.stderr.strip()}")


async def _by_rollbackd(there: Place, tag: int) -> float:
    one, target = _adapter(there), Release(template_id(template(0, tag)))
    begun = time.perf_counter()
    key = f"bench-{time.monotonic_ns()}/0/layer"
    if await perform(one, await planned(one, target, key)) is not Progress.DONE:
        raise BenchError("a rollback was not done")
    return time.perf_counter() - begun


def _asked(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/asked", timeout=10) as answer:
        return int(answer.read())


# -- an idle daemon -----------------------------------------------------------------------------
def _idle(root: Path, sizes: Sizes) -> tuple[float, float]:
    """MiB more than without a cluster, and percent of a processor."""
    every = sizes.settle * 6
    without, _ = _figures(_host(root / "without", fixed_services(1), every), 1, sizes.settle)
    with ExitStack() as stack:
        (port,) = _stand_in(stack, root, 1, sizes.workloads)
        services = [service(number, {"web": _layer(number)}) for number in range(sizes.workloads)]
        host = _host(root / "with", services, every, clusters={"prod": _settings(root, 0, port)})
        watched, busy = _figures(host, sizes.workloads, every)
    return watched - without, busy


def _host(root: Path, services: Sequence[dict[str, Any]], every: float, **more: Any) -> Host:
    host = Host(root)
    host.write_config(services, **more)
    config = json.loads(host.config.read_text())
    config["daemon"]["look_every"] = f"{every:.0f}s"
    host.config.write_text(json.dumps(config))
    return host


def _figures(host: Host, services: int, every: float) -> tuple[float, float]:
    """MiB, and percent of a processor over one round of looks, once there have been two."""
    with host.daemon() as process:
        seen = "SELECT count(*) FROM facts WHERE kind = ?"
        wait_until(lambda: host.count(seen, "Changed") == services, "a look at every layer", 300, 0.2)
        time.sleep(2 * every)
        begun, before = time.monotonic(), processor_time(process)
        time.sleep(every)
        busy = (processor_time(process) - before) / (time.monotonic() - begun)
        return resident(process), busy * 100


# -- events -------------------------------------------------------------------------------------
def _event(root: Path, sizes: Sizes) -> tuple[float, float]:
    """Seconds of processor time that all events took, and those of parsing them alone."""
    with ExitStack() as stack:
        (port,) = _stand_in(stack, root, 1, 10, sizes.events)
        taken = asyncio.run(_followed(_place(root, 0, port)))
    lines = [event(number % 10, number) for number in range(sizes.events)]
    begun = time.process_time()
    for line in lines:
        json.loads(line)
    return taken, time.process_time() - begun


async def _followed(there: Place) -> float:
    client = client_of(there, "prod")
    await client.identify()  # which reads the credentials
    path, begun = f"{_AT}0", time.process_time()
    told_of(client, path, there.clock)
    (watch,) = client.watches.values()
    while watch.told("web-0") is not None or not watch.is_fresh:
        await asyncio.sleep(0.05)
    if watch.told("web-1") is None:
        raise BenchError("the events were not taken in")
    return time.process_time() - begun


# -- clusters that hang -------------------------------------------------------------------------
async def _beside(places: Sequence[Place], away: Sequence[Place], rounds: int) -> list[tuple[float, float]]:
    """Seconds of a look at all clusters, alone and beside looks at those that hang, round by round."""
    layers, hung = ([_adapter(each) for each in some] for some in (places, away))
    await _look(layers)
    readings = []
    for _ in range(rounds):
        alone, beside = [], []
        for _ in range(_TURNS):
            alone += [await _look(layers) for _ in range(_LOOKS)]
            waiting = [asyncio.create_task(one.current()) for one in hung]
            beside += [await _look(layers) for _ in range(_LOOKS)]
            if any(task.done() for task in waiting):
                raise BenchError("a cluster that was to hang has answered")
            await end(waiting)
        readings.append((min(alone), min(beside)))
    return readings


def _adapter(there: Place) -> KubernetesAdapter:
    return KubernetesAdapter(KubernetesSettings.model_validate(_layer(0)), there)


async def _look(layers: Sequence[KubernetesAdapter]) -> float:
    begun = time.perf_counter()
    await asyncio.gather(*(one.asked() for one in layers))
    return time.perf_counter() - begun
