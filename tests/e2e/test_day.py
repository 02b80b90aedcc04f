"""Time: a day of polls, bakes and reminders in the real daemon, and clocks that are set or stand still.

A day at 60 times the speed is 24 minutes, too long for a test. So one script of some 300 polls is told twice, at the
same time, to two daemons: with a poll every 15 s at 60 times the speed, which makes 75 minutes, and with everything
nineteen times as long at 1140 times the speed, which makes a day. Both live through the same seconds of real time, and
must come to the same decisions; what is different is how often each of their loops turns meanwhile.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.toy import Ear, Toy, listening, toy
from tests.servers import wait_until

HOUR = 3600


@dataclass
class Oracle:
    """A Prometheus that answers what the test says, and counts."""

    url: str = ""
    sickness: Callable[[], float] = lambda: 0.0
    down: bool = False
    polls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str) -> tuple[int, Any]:
        if path.endswith("query_range"):
            return 200, {"status": "success", "data": {"resultType": "matrix", "result": []}}
        if path.endswith("rules"):
            return 200, {"status": "success", "data": {"groups": []}}
        with self.lock:
            self.polls += 1
        if self.down:
            return 503, {"status": "error", "errorType": "unavailable", "error": "starting up"}
        series = {"metric": {"service": "shop"}, "value": [0, str(self.sickness())]}
        return 200, {"status": "success", "data": {"resultType": "vector", "result": [series]}}

    def until(self, polls: int) -> None:
        """Wait for so many polls since the start."""
        wait_until(lambda: self.polls >= polls, f"poll {polls}", 90)

    def until_more(self, polls: int) -> None:
        self.until(self.polls + polls)


@contextmanager
def oracle() -> Iterator[Oracle]:
    one = Oracle()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = one.answer(self.path.partition("?")[0])
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def seconds(count: float) -> str:
    return f"{count * 1000:.0f}ms"


@contextmanager
def town(root: Path, ear: Ear, prometheus: Oracle, unit: float, **changes: Any) -> Iterator[Toy]:
    """A shop whose every length of time is a multiple of `unit`, the seconds between two polls."""
    many = {"rollbacks": 100, "per": "365d"}
    given: dict[str, Any] = {
        "daemon": {"look_every": seconds(2 * unit), "remind_every": seconds(30 * unit)},
        "prometheus": {"url": prometheus.url, "poll_every": seconds(unit)},
        "rules": [{"name": "sick", "when": {"query": "sickness", "above": 0.1, "for": seconds(4 * unit)}}],
        "limits": {
            "common_cause": False,
            "cooldown": seconds(10 * unit),
            "change_window": seconds(60 * unit),
            "stale_after": seconds(60 * unit),
            "per_service": many,
            "fleet": many,
        },
        "asking": {"expires": seconds(90 * unit)},
        "bake": seconds(30 * unit),
        "verify": {
            "settle": seconds(unit),
            "every": seconds(2 * unit),
            "passes": 2,
            "deadline": seconds(60 * unit),
            "watch": seconds(10 * unit),
            "checks": ["health"],
        },
    }
    with toy(root, told=ear.url, **{**given, **changes}) as one:
        one.layer_knows("v4")
        yield one


# -- a day --------------------------------------------------------------------------------------
def live_through_it(shop: Toy, prometheus: Oracle, speed: float) -> dict[str, Any]:
    """The script; what was decided, done and told."""
    sick: set[str] = set()
    prometheus.sickness = lambda: 0.5 if shop.runs in sick else 0.01
    shop.start("--speed", str(speed))
    until_good(shop, "co-v1")

    shop.deploy("v2")  # a bad release is rolled back
    shop.until_seen("co-v2")
    sick.add("co-v2")
    until_incidents(shop, 1)
    prometheus.until_more(15)

    shop.deploy("v3")  # a good one bakes
    until_good(shop, "co-v3")
    prometheus.until_more(40)

    sick.add("co-v3")  # it falls sick, long after the last change: a person is asked, and reminded, and says nothing
    until_decided(shop, "ask")
    prometheus.until_more(110)
    assert shop.until_closed("shop-2", 60)["outcome"] == "expired"
    sick.discard("co-v3")
    prometheus.until_more(10)

    shop.ask("PUT", "holds/shop", {"reason": "the night shift sleeps"})
    shop.deploy("v4")  # bad, and held
    shop.until_seen("co-v4")
    sick.add("co-v4")
    until_decided(shop, "hold")
    prometheus.until_more(10)
    shop.ask("DELETE", "holds/shop", {})
    until_incidents(shop, 3)
    prometheus.until_more(15)

    prometheus.down = True
    prometheus.until_more(10)
    prometheus.down = False
    prometheus.until_more(5)
    return summary(shop)


def until_good(shop: Toy, code: str) -> None:
    """Wait until what runs has baked."""

    def good() -> bool:
        present = shop.ask("GET", "services/shop")["present"]
        return present is not None and present["ids"]["code"] == code and bool(present["good"])

    wait_until(good, f"{code} is good", 60)


def until_incidents(shop: Toy, count: int) -> None:
    try:
        wait_until(lambda: len(shop.incidents()) == count, f"incident {count}", 60)
    except AssertionError as error:
        raise AssertionError(f"{error}; {shop.command('decisions').stdout}") from error
    assert shop.until_closed(f"shop-{count}", 60)["outcome"] == "recovered", shop.command("decisions").stdout


def until_decided(shop: Toy, word: str) -> None:
    """Wait until the newest decision says this, or a guard of this name stands against it."""
    wait_until(lambda: any(word in one for one in decided(shop)[-1:]), f"it is decided: {word}", 60)


def decided(shop: Toy) -> list[tuple[str, ...]]:
    """Action, then the guards against it, then what it goes back to."""
    return [
        (one["action"], *(finding["guard"] for finding in one["findings"] if finding["against"]), one["target"])
        for one in shop.decisions()
    ]


def summary(shop: Toy) -> dict[str, Any]:
    states = shop.ask("GET", "states?service=shop")["states"][::-1]
    return {
        "decisions": decided(shop),
        "incidents": [(one["id"], one["outcome"], one["rule"]) for one in shop.incidents()[::-1]],
        "states": [state["ids"]["code"] for state in states],
        "good": sorted({state["ids"]["code"] for state in states if state["good"]}),
        "quarantined": sorted({state["ids"]["code"] for state in states if state["quarantined"]}),
    }


def hours(shop: Toy) -> float:
    """From the first decision to the last."""
    times = [datetime.fromisoformat(one["at"]) for one in shop.decisions()]
    return (max(times) - min(times)).total_seconds() / HOUR


V1, V3 = "code co-v1, config co-v1", "code co-v3, config co-v3"
EXPECTED = {
    "decisions": [
        ("roll_back", V1),
        ("ask", "change", V1),
        ("refuse", "hold", V3),
        ("roll_back", V3),
    ],
    "incidents": [
        ("shop-1", "recovered", "sick"),
        ("shop-2", "expired", "sick"),
        ("shop-3", "recovered", "sick"),
    ],
    "states": ["co-v1", "co-v2", "co-v1", "co-v3", "co-v4", "co-v3"],
    "good": ["co-v1", "co-v3"],
    "quarantined": ["co-v2", "co-v4"],
}


@pytest.mark.timeout(400)
def test_a_day_and_75_minutes_of_the_same_script_come_to_the_same_decisions(tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    def tell(name: str, unit: float, speed: float) -> None:
        with (
            listening() as ear,
            oracle() as prometheus,
            town(tmp_path / name, ear, prometheus, unit) as shop,
        ):
            found[name] = live_through_it(shop, prometheus, speed)
            wait_until(lambda: len(ear.heard("backend_unreachable")) == 2, "Prometheus answers again", 90)
            events = Counter(event for event, _ in ear.events)
            heard = ("opened", "recovered", "asks", "expired")
            found[f"{name} told"] = {event: events[event] for event in heard}
            found[f"{name} reminded"] = [title for event, title in ear.events if event == "reminder"]
            found[f"{name} hours"] = hours(shop)
            found[f"{name} polls"] = prometheus.polls
            found[f"{name} audit"] = shop.command("audit").returncode
            assert "Traceback" not in shop.log

    threads = [
        threading.Thread(target=tell, args=("75 minutes", 15, 60)),
        threading.Thread(target=tell, args=("day", 15 * 19, 60 * 19)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=380)
    print(json.dumps(found, indent=1))
    assert found.get("75 minutes") == EXPECTED
    assert found.get("day") == EXPECTED
    for name in ("75 minutes", "day"):
        told = found[f"{name} told"]
        assert (told["opened"], told["recovered"], told["asks"], told["expired"]) == (2, 2, 1, 1)
        reminded = found[f"{name} reminded"]
        asked = [title for title in reminded if "shop approval pending" in title]
        assert 2 <= len(asked) <= 3, "of the question after 30 and 60 polls, and once when little time is left"
        assert "are left" in asked[-1]
        assert 1 <= len(reminded) - len(asked) <= 4, "of its end, until shop is well again"
        assert found[f"{name} polls"] > 250
        assert found[f"{name} audit"] == 0
    assert found["75 minutes hours"] > 0.5
    assert found["day hours"] > 10


# -- clocks that are set, or stand still --------------------------------------------------------
@dataclass
class Shift:
    """How far wall time is from the system's."""

    file: Path

    def __post_init__(self) -> None:
        self.file.write_text("0")

    def by(self, length: timedelta) -> None:
        """From now on."""
        new = self.file.with_name("shift.new")
        new.write_text(str(length.total_seconds()))
        new.rename(self.file)


@contextmanager
def shifted(root: Path, ear: Ear, prometheus: Oracle, **changes: Any) -> Iterator[tuple[Toy, Shift]]:
    """A shop at 60 times the speed, whose clock can be set."""
    with town(root, ear, prometheus, 15, **changes) as shop:
        shift = Shift(root / "shift")
        prometheus.sickness = lambda: 0.5 if shop.runs == "co-v2" else 0.01
        shop.start("--speed", "60", "--shift", str(shift.file))
        yield shop, shift


def against(shop: Toy) -> list[str]:
    """The guards against the newest decision; none when there is no decision."""
    return list(decided(shop)[-1][1:-1]) if shop.decisions() else []


def test_a_clock_set_back_an_hour_stops_no_poll_and_asks_and_loses_nothing(tmp_path: Path, ear: Ear) -> None:
    with oracle() as prometheus, shifted(tmp_path / "shop", ear, prometheus) as (shop, shift):
        until_good(shop, "co-v1")
        shift.by(timedelta(hours=-1))
        prometheus.until_more(20)
        assert "set back by 1h" in json.dumps(ear.until_heard("clock"))
        prometheus.down = True  # else it is bad, on a busy machine, before anybody has seen what was deployed
        shop.deploy("v2")
        shop.until_seen("co-v2")
        prometheus.down = False
        wait_until(lambda: "clock" in against(shop), "a person is asked")
        assert [one["status"] for one in shop.incidents()] == ["asking"]
        wait_until(lambda: bool(ear.heard("asks")), "that is told at once, not an hour later")
        until_incidents(shop, 1)
        assert shop.runs == "co-v1"


def test_what_was_pending_when_the_clock_was_set_back_comes_due_all_the_same(tmp_path: Path, ear: Ear) -> None:
    rules = [{"name": "sick", "when": {"query": "sickness", "above": 0.1, "for": "5m"}}]
    with oracle() as prometheus, shifted(tmp_path / "shop", ear, prometheus, rules=rules) as (shop, shift):
        until_good(shop, "co-v1")
        shop.deploy("v2")
        wait_until(lambda: shop.ask("GET", "services/shop")["health"] == "pending", "it is pending")
        shift.by(timedelta(hours=-1))
        prometheus.until_more(1)
        before = prometheus.polls
        wait_until(lambda: bool(ear.heard("asks")), "a person is asked")
        assert prometheus.polls - before < 60
        assert "clock" in against(shop)


def test_the_time_of_a_suspended_machine_is_noticed_and_counts_for_nothing(tmp_path: Path, ear: Ear) -> None:
    with (
        oracle() as prometheus,
        shifted(tmp_path / "shop", ear, prometheus, bake="20m") as (shop, shift),
    ):

        def baked() -> float:
            return float(shop.ask("GET", "services/shop")["baked"])

        wait_until(lambda: baked() > 0.2, "it bakes")
        before = baked()
        shift.by(timedelta(hours=8))
        assert "set forward by 8h, or we slept" in json.dumps(ear.until_heard("clock"))
        assert baked() < before + 0.3
        assert [state["good"] for state in shop.ask("GET", "states?service=shop")["states"]] == [""]
        until_good(shop, "co-v1")
