"""The journal's disk is full: nothing is taken or begun, what runs is finished, people are told; then all goes on."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.toy import Ear, Toy, toy, webhook
from tests.servers import get_json, wait_until

pytestmark = pytest.mark.needs("root", "mount")


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 40 MiB; it is taken away in all cases."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "rollbackd-test", str(place)], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)


def fill(disk: Path) -> Path:
    """Leave not a byte; the file to remove."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**20, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    assert os.statvfs(disk).f_bavail == 0
    return filler


def post(shop: Toy, number: int, service: str = "shop") -> tuple[int, str]:
    """One more alert, of a name that no rule but ours knows; status and Retry-After."""
    at = datetime.now(UTC) - timedelta(seconds=number)
    try:
        shop.alert("Sick", service, at)
    except OSError:
        status, _, headers = shop.refused("POST", "alerts", webhook("Sick", service, at))
        return status, headers.get("Retry-After", "")
    return 200, ""


def until_refused(shop: Toy, service: str) -> None:
    """The database has some room in its own files: use it up."""
    for number in range(5000):
        status, retry = post(shop, number, service)
        if status == 503:
            assert int(retry) > 0
            return
        assert status == 200
    raise AssertionError("the disk was never full")


@pytest.fixture
def shop(tmp_path: Path, ear: Ear) -> Iterator[Toy]:
    """v1 is good, v2 runs; a second service beside it. The journal is on a small disk."""
    with (
        small_disk(tmp_path / "disk") as disk,
        toy(tmp_path / "shop", ear.url, disk / "journal.db", others=["desk"]) as one,
    ):
        one.start_with_two_states()
        yield one


def readiness(shop: Toy) -> dict[str, Any]:
    """`/readyz`, whatever its status."""
    request = urllib.request.Request(f"http://127.0.0.1:{shop.port}/readyz", headers=shop.headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return dict(json.load(error))


def test_on_a_full_disk_nothing_begins_what_runs_is_finished_and_room_is_enough_to_go_on(shop: Toy, ear: Ear) -> None:
    shop.touch("wait.config")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_call("begin config co-v1")
    filler = fill(shop.journal.parent)
    until_refused(shop, "desk")

    status, said, headers = shop.refused("POST", "services/desk/rollback", {})
    assert status == 503
    assert "its disk is full; free some space" in said or "its disk is nearly full" in said
    assert int(headers["Retry-After"]) > 0
    wait_until(lambda: bool(ear.heard("journal")), "people are told directly")
    assert "rollbackd cannot write its journal" in ear.text()
    assert readiness(shop)["ready"] is False
    assert "the journal cannot be written" in "; ".join(readiness(shop)["problems"])
    assert get_json(f"http://127.0.0.1:{shop.port}/healthz") == {"status": "alive"}

    shop.remove("wait.config")
    assert shop.until_closed(incident)["outcome"] == "recovered"
    assert filler.exists()
    assert not shop.journal.with_name("journal.db.reserve").exists()
    assert shop.calls == [
        "enter", "begin config co-v1", "end config co-v1", "begin code co-v1", "end code co-v1", "leave",
    ]  # fmt: skip
    assert [one["id"] for one in shop.incidents()] == [incident]
    assert post(shop, 6000, "desk")[0] == 503

    filler.unlink()
    wait_until(lambda: "can be written again" in ear.text(), "it is told that it is over")
    wait_until(lambda: bool(ear.heard("recovered")), "what was done meanwhile is told")
    assert readiness(shop)["ready"] is True
    before = len(shop.decisions())
    assert post(shop, 6000, "desk")[0] == 200
    wait_until(lambda: len(shop.decisions()) > before, "the alert that was sent again is judged")
    wait_until(lambda: shop.journal.with_name("journal.db.reserve").exists(), "the reserve is made again")
    assert shop.command("audit").returncode == 0
    assert "Traceback" not in shop.log


def test_killed_on_a_full_disk_it_starts_and_finishes_what_it_had_begun(shop: Toy, ear: Ear) -> None:
    shop.touch("wait.config")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_call("begin config co-v1")
    filler = fill(shop.journal.parent)
    until_refused(shop, "desk")
    shop.stop(kill=True)
    shop.remove("wait.config")
    shop.start()
    assert shop.until_closed(incident)["outcome"] == "recovered"
    assert shop.calls.count("end config co-v1") == 1
    assert post(shop, 6000, "desk")[0] == 503
    wait_until(lambda: bool(ear.heard("journal")), "people are told directly")
    filler.unlink()
    wait_until(lambda: post(shop, 6001, "desk")[0] == 200, "it goes on by itself")
    wait_until(lambda: bool(ear.heard("recovered")), "what was done meanwhile is told")
    assert shop.command("audit").returncode == 0
