"""Memory of an idle daemon with 1,000 services, each with a layer, a rule's check and checks of its verification.

Resident memory of the daemon's one process, once it has not grown for some seconds.
"""

import subprocess
import time
from pathlib import Path

from bench import past
from bench.alerts import service_name
from bench.host import BenchError, Host, free_port, serves, service, started, wait_until
from bench.measure import Row, Sizes, middle, span

MOST = 110.0
"""MiB."""
_STILL = 0.5
"""MiB that count as no growth."""
_LIMIT = 60.0


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    port = free_port()
    readings = []
    root.mkdir(parents=True, exist_ok=True)
    with started(["-m", "bench.bare", str(port)], root, "health.log") as health:
        wait_until(lambda: serves(port, health, root / "health.log"), "what the checks ask")
        for number in range(sizes.rounds):
            readings.append(_settled(_host(root / str(number), sizes.services, port), sizes.settle))
        least = _settled(_host(root / "one", 1, port), sizes.settle)
    middling = middle(readings)
    each = (middling - least) * 1024 / (sizes.services - 1)
    return Row(
        what=f"memory, idle, {sizes.services:,} services with layers and checks",
        measured=f"{middling:.0f} MiB",
        floor=f"{least:.0f} MiB with one service",
        rest=f"{each:.1f} KiB a service; resident, settled; rounds {span(readings, '.0f')} MiB",
        must=f"< {MOST:.0f} MiB",
        ok=middling < MOST,
    )


def _host(root: Path, count: int, port: int) -> Host:
    host = Host(root)
    checks = {
        "health": {"http": f"http://127.0.0.1:{port}/healthz", "below": "500ms"},
        "port": {"tcp": f"127.0.0.1:{port}"},
    }
    verify = {"every": "10s", "checks": ["health", "port"]}
    layers = {"code": {"adapter": "fixed"}, "config": {"adapter": "fixed"}}
    services = [service(number, layers, checks=checks, verify=verify) for number in range(count)]
    smoke = {"name": "smoke", "when": {"check": "health", "failures": 3, "every": "1m"}}
    alert = {"name": "errors", "when": {"alert": 'severity="critical"'}}
    host.write_config(services, rules=[alert, smoke])
    names = [service_name(number) for number in range(count)]
    past.release_all(host.journal, names)
    return host


def _settled(host: Host, seconds: float) -> float:
    """MiB, once it has stayed for so many seconds. :raises BenchError: it grows and grows."""
    with host.daemon() as process:
        deadline = time.monotonic() + _LIMIT
        highest, since = 0.0, time.monotonic()
        while time.monotonic() - since < seconds:
            now = resident(process)
            if now > highest + _STILL:
                highest, since = now, time.monotonic()
            if time.monotonic() > deadline:
                raise BenchError(f"the daemon's memory still grows after {_LIMIT:.0f} s: {now:.0f} MiB")
            time.sleep(0.1)
        return max(highest, resident(process))


def resident(process: subprocess.Popen[str]) -> float:
    """MiB that it has in memory now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
