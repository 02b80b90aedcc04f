"""Half an hour of metrics of services in every kind of health, for the shipped rule packs, in the OpenMetrics format."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.servers import sample

START = datetime(2025, 6, 1, 12, tzinfo=UTC)
SPAN, STEP = timedelta(minutes=30), timedelta(seconds=15)
END = START + SPAN
TURN = START + timedelta(minutes=15)
"""When what turns goes bad."""
BUCKETS = (0.1, 0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Health:
    """How a service fares, per second; None: it has no such series at all."""

    answers: float | None = 20.0
    errors: float | None = 0.0
    seconds: float = 0.3
    """How long each answer takes."""
    up: float | None = 1.0


SERVICES = {
    "healthy": Health(errors=0.2),
    "flawless": Health(errors=None),
    "failing": Health(errors=15.0),
    "at-the-limit": Health(answers=18.0, errors=2.0),
    "slow": Health(seconds=3.0),
    "idle": Health(answers=0.0),
    "idle-flawless": Health(answers=0.0, errors=None),
    "rare": Health(answers=0.05, errors=0.05),
    "gone": Health(answers=None, errors=None, up=0.0),
    "half-up": Health(up=0.5),
    "unknown": Health(answers=None, errors=None, up=None),
    "turning": Health(),
}


@dataclass(frozen=True)
class Line:
    """One series: a value that grows."""

    name: str
    labels: dict[str, str]
    value: float = 0.0
    """At the start."""
    grows: float = 0.0
    """Per second."""
    turned: float | None = None
    """Per second from `TURN` on."""
    begins: datetime = START

    def at(self, when: datetime) -> float:
        before = min(when, TURN) - START
        after = max(when - TURN, timedelta())
        later = self.grows if self.turned is None else self.turned
        return self.value + self.grows * before.total_seconds() + later * after.total_seconds()


def counters(service: str, name: str, label: str, rates: dict[str, float], **turned: float) -> list[Line]:
    """A counter with a label: its values, how often each comes per second, and from `TURN` on."""
    return [
        Line(name, {"service": service, label: value}, 0, rate, turned.get(f"turned_{value}"))
        for value, rate in rates.items()
    ]


def hosts() -> Iterator[Line]:
    """For the pack `saturation`: hosts, by how idle and how free they are, and containers."""
    gib = 2**30

    def host(service: str, idle: float, free: float, disk: float, filling: float = 0.0) -> Iterator[Line]:
        for cpu in ("0", "1"):
            yield Line("node_cpu_seconds_total", {"service": service, "cpu": cpu, "mode": "idle"}, 0, idle)
            yield Line("node_cpu_seconds_total", {"service": service, "cpu": cpu, "mode": "user"}, 0, 1 - idle)
        yield Line("node_memory_MemTotal_bytes", {"service": service}, 16 * gib)
        yield Line("node_memory_MemAvailable_bytes", {"service": service}, free * 16 * gib)
        for fstype, left in (("ext4", disk), ("squashfs", 0.0)):
            labels = {"service": service, "fstype": fstype, "mountpoint": f"/{fstype}"}
            yield Line("node_filesystem_size_bytes", labels, 100 * gib)
            yield Line("node_filesystem_avail_bytes", labels, left * 100 * gib, -filling if left else 0.0)

    def container(service: str, cpu: float, quota: float, memory: float, limit: float) -> Iterator[Line]:
        labels = {"service": service, "container": "app", "instance": "h1"}
        yield Line("container_cpu_usage_seconds_total", {**labels, "cpu": "total"}, 0, cpu)
        yield Line("container_spec_cpu_period", labels, 100_000)
        if quota:
            yield Line("container_spec_cpu_quota", labels, quota)
        yield Line("container_memory_working_set_bytes", labels, memory * gib)
        yield Line("container_spec_memory_limit_bytes", labels, limit * gib)

    yield from host("roomy", 0.8, 0.5, 0.5)
    yield from host("full", 0.05, 0.05, 0.05)
    yield from host("leaking", 0.8, 0.5, 0.4, filling=40 * gib / 7200)
    yield from host("boxed", 0.8, 0.5, 0.5)
    yield from container("boxed", 1.9, 200_000, 0.95, 1)
    yield from host("unlimited", 0.8, 0.5, 0.5)
    yield from container("unlimited", 1.9, 0, 15, 0)
    yield Line(
        "node_filesystem_avail_bytes",
        {"service": "young", "fstype": "ext4"}, gib, -gib / 600, begins=END - timedelta(minutes=5),
    )  # fmt: skip
    yield Line("node_filesystem_size_bytes", {"service": "young", "fstype": "ext4"}, 10 * gib)


def doors() -> Iterator[Line]:
    """For the pack `auth`."""
    logins, renewals, answers = "auth_logins_total", "auth_session_refreshes_total", "http_requests_total"
    yield from counters("calm", answers, "code", {"200": 20.0, "401": 0.2})
    yield from counters("calm", logins, "result", {"success": 1.0, "failure": 0.05})
    yield from counters("calm", renewals, "result", {"success": 1.0})
    yield from counters("locked", answers, "code", {"200": 10.0, "401": 6.0, "403": 4.0})
    yield from counters("locked", logins, "result", {"success": 0.2, "failure": 1.0})
    yield from counters("locked", renewals, "result", {"failure": 1.0})
    yield from counters("peaking", answers, "code", {"200": 20.0, "401": 0.2}, turned_401=3.0)
    yield from counters("asleep", answers, "code", {"200": 0.0, "401": 0.0})
    yield from counters("asleep", logins, "result", {"success": 0.0, "failure": 0.001})
    yield from counters("asleep", renewals, "result", {"success": 0.0, "failure": 0.001})


def databases() -> Iterator[Line]:
    """For the pack `database`."""

    def server(service: str, instance: str, used: float, lag: float, deadlocks: float, up: float = 1.0) -> list[Line]:
        place = {"service": service, "instance": instance}
        return [
            Line("pg_up", place, up),
            Line("pg_stat_database_numbackends", {**place, "datname": "a"}, used / 2),
            Line("pg_stat_database_numbackends", {**place, "datname": "b"}, used / 2),
            Line("pg_settings_max_connections", place, 100),
            Line("pg_replication_lag_seconds", place, lag),
            Line("pg_stat_database_deadlocks", {**place, "datname": "a"}, 7, deadlocks),
        ]

    attempts = "db_connection_attempts_total"
    yield from counters("steady", attempts, "result", {"ok": 5.0})
    yield from server("steady", "p", 60, 0, 0)
    yield from server("steady", "r", 60, 2, 0)
    yield from counters("strained", attempts, "result", {"ok": 5.0, "error": 0.5})
    yield from server("strained", "p", 20, 0, 0.05)
    yield from server("strained", "r", 95, 120, 0, up=0)
    yield from counters("resting", attempts, "result", {"ok": 0.0, "error": 0.0})
    yield from server("resting", "p", 0, 0, 0)


def pods() -> Iterator[Line]:
    """For the pack `kubernetes`: as kube-state-metrics tells it, which knows no services; two of them tell the same."""

    def pod(name: str, number: int, ready: float = 1.0, waits: str = "", phase: str = "Running") -> Iterator[Line]:
        for teller in ("a", "b"):
            place = {"namespace": "shop", "pod": f"{name}-{number}", "instance": teller}
            yield Line("kube_pod_labels", {**place, "label_app_kubernetes_io_name": name}, 1)
            yield Line("kube_pod_status_ready", {**place, "condition": "true"}, ready)
            yield Line("kube_pod_status_ready", {**place, "condition": "false"}, 1 - ready)
            yield Line("kube_pod_status_phase", {**place, "phase": phase}, 1)
            if waits:
                waiting = {**place, "container": "app", "reason": waits}
                yield Line("kube_pod_container_status_waiting_reason", waiting, 1)

    for number in range(2):
        yield from pod("web", number)
        yield from pod("starting", number, waits="ContainerCreating")
    yield from pod("crashing", 0)
    yield from pod("crashing", 1, ready=0, waits="CrashLoopBackOff")
    yield from pod("pulling", 0)
    yield from pod("pulling", 1, ready=0, waits="ImagePullBackOff")
    yield from pod("batch", 0)
    yield from pod("batch", 1, ready=0, phase="Succeeded")


def figures() -> Iterator[Line]:
    """For the pack `business`, whose past is a quarter of an hour ago here."""

    def service(name: str, signups: float, activations: float, later: float, flow: float, flow_later: float) -> None:
        lines.append(Line("signups_total", {"service": name}, 0, signups))
        lines.append(Line("activations_total", {"service": name}, 0, activations, later))
        lines.append(Line("key_flow_completed_total", {"service": name}, 0, flow, flow_later))

    lines: list[Line] = []
    service("thriving", 0.5, 0.25, 0.2, 2.0, 3.0)
    service("dropping", 0.5, 0.25, 0.1, 2.0, 0.0)
    service("tiny", 0.01, 0.01, 0.0, 0.01, 0.0)
    yield from lines
    yield Line("signups_total", {"service": "lost"}, 0, 0.5)
    yield Line("activations_total", {"service": "lost"}, 0, 0.25, 0.0)
    newborn = END - timedelta(minutes=10)
    yield Line("signups_total", {"service": "newborn"}, 0, 0.5, begins=newborn)
    yield Line("key_flow_completed_total", {"service": "newborn"}, 0, 0.5, begins=newborn)


def history() -> str:
    """All of it. A metric's samples stand together, as the format asks."""
    lines: dict[str, list[str]] = {}
    for line in (*hosts(), *doors(), *databases(), *pods(), *figures()):
        text = sample(line.name, line.labels)
        said = lines.setdefault(line.name, [])
        said += [f"{text} {line.at(at)!r} {at.timestamp()}" for at in _times() if at >= line.begins]
    totals: dict[tuple[str, str], float] = {}

    def say(name: str, value: float, at: datetime, **labels: str) -> None:
        lines.setdefault(name, []).append(f"{sample(name, labels)} {value!r} {at.timestamp()}")

    def count(key: tuple[str, str], more: float) -> float:
        totals[key] = totals.get(key, 0.0) + more
        return totals[key]

    for at in _times():
        for service, health in SERVICES.items():
            errors = 10.0 if service == "turning" and at > TURN else health.errors
            if health.answers is not None:
                total = count((service, "200"), health.answers * STEP.total_seconds())
                say("http_requests_total", total, at, service=service, code="200")
                for limit in (*BUCKETS, float("inf")):
                    inside = total if health.seconds <= limit else 0.0
                    le = "+Inf" if limit == float("inf") else str(limit)
                    say("http_request_duration_seconds_bucket", inside, at, service=service, le=le)
            if errors is not None:
                more = count((service, "503"), errors * STEP.total_seconds())
                say("http_requests_total", more, at, service=service, code="503")
            if health.up is not None:
                for instance in ("a", "b"):
                    is_up = 1.0 if health.up == 1.0 or (health.up == 0.5 and instance == "a") else 0.0
                    say("up", is_up, at, service=service, instance=instance)
    return "\n".join(line for each in lines.values() for line in each) + "\n"


def _times() -> Iterator[datetime]:
    return (START + number * STEP for number in range(int(SPAN / STEP) + 1))
