"""Floods from outside, at a real daemon: who gives orders is heard, and nothing waits longer than a moment.

That no turn of the event loop takes longer than its bound is looked at in every end-to-end test.
"""

import gzip
import json
import re
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.e2e.toy import REPO, Ear, Toy, toy, webhook
from tests.servers import wait_until

_HEAD = b"POST /api/v1/alerts HTTP/1.1\r\nHost: localhost\r\n"
_OURS = resource.getrlimit(resource.RLIMIT_NOFILE)


def _start_with(one: Toy, files: int) -> None:
    """The daemon with few descriptors, which it may not raise; v1 is good, v2 runs."""
    argv = ["prlimit", f"--nofile={files}:{files}", sys.executable, "-m", "rollbackd", "run", "--config"]
    with (one.root / "log").open("ab") as log:
        one.daemon = subprocess.Popen(
            [*argv, str(one.root / "config.yaml")], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=REPO
        )
    one.until_up()
    one.until_seen("co-v1")
    one.ask("POST", "services/shop/good", {})
    one.deploy("v2")
    one.until_seen("co-v2")


@contextmanager
def _connections(one: Toy, count: int, said: bytes) -> Iterator[None]:
    """So many connections that say this much and then nothing, opened again when they are closed."""
    soft, hard = _OURS
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 500)), hard))
    made = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", one.port), timeout=5))
            made[-1].setblocking(False)
            made[-1].send(said)
        yield
    finally:
        for connection in made:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, _OURS)


def _worst(one: Toy, seconds: float) -> float:
    """The longest that `/healthz` took, on the network and on the socket, less what other programs held up."""
    daemon = one.daemon
    assert daemon is not None
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        for family, address in ((socket.AF_INET, ("127.0.0.1", one.port)), (socket.AF_UNIX, str(one.root / "socket"))):
            began, held_up = time.monotonic(), _without_processor(daemon.pid)
            with socket.socket(family, socket.SOCK_STREAM) as wire:
                wire.settimeout(10)
                wire.connect(address)
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert wire.recv(100).split()[1] == b"200"
            worst = max(worst, time.monotonic() - began - (_without_processor(daemon.pid) - held_up))
        time.sleep(0.05)
    return worst


def _without_processor(daemon: int) -> float:
    """Seconds that its event loop and this thread wanted to run and a busy machine did not let them."""
    waits = (Path(path, "schedstat").read_text().split()[1] for path in (f"/proc/{daemon}", "/proc/thread-self"))
    return sum(int(wait) for wait in waits) / 1e9


_SOON = 3.0
"""Seconds; on an idle machine it is a hundredth of that, and the loop's own turns are measured."""


@pytest.mark.parametrize("files", [256, 1024])
@pytest.mark.parametrize(
    "said",
    [b"", _HEAD[:-2], _HEAD + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
def test_idle_connections_stop_nobody(tmp_path: Path, ear: Ear, files: int, said: bytes) -> None:
    with toy(tmp_path / "shop", told=ear.url) as one:
        one.configure(daemon={"tokens": [], "open_on_loopback": True, **_desk(one)})
        _start_with(one, files)
        with _connections(one, 1100, said):
            (one.signals / "ROLLBACK.shop").write_text("reason: by hand\n")
            assert _worst(one, 3) < _SOON
            wait_until(lambda: one.runs == "co-v1", "it went back")
            one.alert()
        one.until_closed("shop-1")
        assert not re.search("Too many open files", one.log)
        assert all(json.loads(line) for line in one.log.splitlines())
        assert len(one.log) < 200_000


def _desk(one: Toy) -> dict[str, object]:
    return {"tokens": [{"name": "desk", "role": "operator", "token": {"file": str(one.root / "token")}}]}


_NOW = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
_TINY = '{"status":"firing","labels":{"alertname":"Sick","service":"shop","n":"%d"},"startsAt":"NOW"}'.replace(
    "NOW", _NOW
)


def _hook(*alerts: str) -> bytes:
    return ('{"version":"4","alerts":[' + ",".join(alerts) + "]}").encode()


def _long(number: int, length: int) -> str:
    return _TINY.replace('"n":"%d"', f'"n":"{number}","long":"{"x" * length}"')


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, lambda: _hook(*(_TINY % number for number in range(220_000)))),
        (200, lambda: _hook(*(_TINY % number for number in range(10_000)))),
        (413, lambda: _hook(_long(1, 31 * 2**20))),
        (200, lambda: _hook(*(_long(number, 2**20 - 1000) for number in range(31)))),
        (413, lambda: _hook(_TINY.replace("firing", "\\ud800" * 5_000_000))),
        (413, lambda: gzip.compress(_hook(*(_TINY % number for number in range(220_000))))),
        (413, lambda: gzip.compress(b" " * 2**30)),
    ],
    ids=["220,000", "10,000", "a label of 31 MB", "31 labels of 1 MB", "half characters", "packed", "bomb"],
)
def test_large_bodies_hold_up_no_order(shop: Toy, status: int, body: Callable[[], bytes]) -> None:
    data = body()
    headers = {**shop.headers, "Content-Encoding": "gzip"} if data[:2] == b"\x1f\x8b" else shop.headers
    url = f"http://127.0.0.1:{shop.port}/api/v1/alerts"
    with ThreadPoolExecutor(2) as pool:
        posting = [pool.submit(_status, urllib.request.Request(url, data, headers)) for _ in range(2)]
        (shop.signals / "ROLLBACK.shop").write_text("reason: by hand\n")
        assert _worst(shop, 4) < _SOON
        assert {one.result() for one in posting} <= {status, 503}
    wait_until(lambda: shop.runs == "co-v1", "it went back")


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_twenty_thousand_files_hold_up_no_order(shop: Toy, ear: Ear) -> None:
    for number in range(10_000):
        (shop.signals / f"ROLLBACK.nobody{number:05}").touch()
        (shop.signals / f"HOLD.nobody{number:05}").touch()
    (shop.signals / "ROLLBACK.shop").write_text("reason: by hand\n")
    assert _worst(shop, 5) < _SOON
    wait_until(lambda: shop.runs == "co-v1", "it went back")
    shop.until_closed("shop-1")
    (shop.signals / "HOLD.shop").write_text("reason: enough\n")
    wait_until(lambda: any(hold["scope"] == "shop" for hold in shop.ask("GET", "holds")["holds"]), "it is held")
    assert "there are more than 500 files in the signals directory" in shop.log
    assert len([one for one in ear.fake.once if "holds nothing" in json.dumps(one)]) <= 15


def test_many_services_sick_at_once_are_one_message_on_every_channel(tmp_path: Path, ear: Ear) -> None:
    """They are decided on one after the other, and told together; in words of one's own it is one SMS."""
    names = [f"s{number}" for number in range(12)]
    room = {"name": "room", "webhook": {"url": ear.url}}
    sms = {"name": "sms", "webhook": {"url": ear.url}, "says": {"refused": "$service needs you"}}
    with toy(tmp_path / "shop", told=ear.url) as shop:
        layer = {"adapter": "command", "current": ["echo", "v1"], "releases": ["echo", "v1"], "apply": ["true"]}
        one = {**shop.service(), "layers": {"code": layer}, "plans": {"default": ["code"]}}
        path = shop.configure(daemon={"look_every": "1m"}, notify={"receivers": [room, sms]})
        config = yaml.safe_load(path.read_text())
        config["services"] = [{**one, "name": name, "match": {"service": name}} for name in names]
        path.write_text(yaml.safe_dump(config))
        shop.start()
        wait_until(lambda: all(shop.ask("GET", f"services/{name}")["present"] for name in names), "all are seen", 120)
        body = webhook("Sick", names[0], datetime.now(UTC))
        (alert,) = body["alerts"]
        labels = [{**alert["labels"], "service": name} for name in names]
        body["alerts"] = [{**alert, "labels": own, "fingerprint": f"{n:016x}"} for n, own in enumerate(labels)]
        shop.ask("POST", "alerts", body)
        wait_until(lambda: len(shop.decisions()) == len(names), "all are decided on", 60)

        def titles() -> tuple[list[str], list[str]]:
            found = [one["title"] for one in ear.heard("refused")]
            return [one for one in found if "needs you" not in one], [one for one in found if "needs you" in one]

        def people() -> tuple[int, int]:
            said, short = titles()
            counted = [re.match(r"(\d+) × need a person, decided alike: ", one) for one in said]
            more = [re.search(r"and (\d+) more", one) for one in short]
            alone = sum(one.count("needs you") for one in short)
            return sum(int(one[1]) if one else 1 for one in counted), alone + sum(int(one[1]) for one in more if one)

        wait_until(lambda: people() == (len(names), len(names)), "each is told of once on every channel", 60)
        said, short = titles()
        assert len(said) <= 3, "as many as a machine that is too busy to decide on all within seconds makes of them"
        assert len(short) <= 3
        assert max(map(len, short)) <= 160
