"""End-to-end runs that fail after a deployment, as a CI job reports them: by HTTP and by the command line."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.toy import Toy, toy
from tests.servers import wait_until

E2E = {
    "name": "e2e-failed",
    "when": {"event": "e2e_failed", "times": 2, "within": "10m", "where": 'suite="cart"'},
    "impact": {"label": "impact"},
}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Toy]:
    """v1 is good, v2 runs, and the rule counts failed runs."""
    with toy(tmp_path / "shop", rules=[E2E]) as one:
        one.start_with_two_states()
        yield one


def failed(key: str, **more: Any) -> dict[str, Any]:
    labels = {"suite": "cart", "impact": "high"}
    return {"event": "e2e_failed", "service": "shop", "key": key, "text": f"run {key} failed", "labels": labels} | more


def took(accepted: int = 0, duplicates: int = 0) -> dict[str, Any]:
    return {"accepted": accepted, "duplicates": duplicates, "unmatched": 0, "why": []}


def recovered(shop: Toy) -> dict[str, Any]:
    """Wait for the one incident and its end."""
    wait_until(lambda: bool(shop.incidents()), "there is an incident")
    incident = shop.until_closed("shop-1")
    assert (incident["outcome"], shop.runs) == ("recovered", "co-v1")
    return incident


def actions(shop: Toy) -> list[str]:
    return [one["action"] for one in shop.decisions()]


def test_two_failed_runs_roll_a_release_back_and_a_retry_is_none(shop: Toy) -> None:
    assert shop.ask("POST", "signals", failed("job-1")) == took(accepted=1)
    assert shop.ask("POST", "signals", failed("job-1")) == took(duplicates=1)
    other = failed("job-2", labels={"suite": "search"})
    assert shop.ask("POST", "signals", other)["unmatched"] == 1
    assert shop.ask("GET", "services/shop")["health"] == "pending"
    assert (shop.decisions(), shop.calls) == ([], [])

    line = shop.command("event", "e2e_failed", "--service", "shop", "--label", "suite=cart", "--key", "job-3")
    assert (line.returncode, line.stdout) == (0, "e2e_failed is reported\n")
    assert recovered(shop)["rule"] == "e2e-failed"
    (decision,) = shop.decisions()
    assert "run job-1 failed" in json.dumps(decision["evidence"])
    assert "2 times within 10m" in json.dumps(decision["evidence"])

    assert shop.ask("POST", "signals", failed("job-4")) == took(accepted=1)
    shop.until_looked()
    assert actions(shop) == ["roll_back"], "one failed run after the rollback is not yet enough"
    assert shop.ask("POST", "signals", failed("job-5")) == took(accepted=1)
    wait_until(lambda: shop.ask("GET", "incidents/shop-1")["incident"]["outcome"] == "ineffective", "it relapses")


def test_killed_right_after_the_answer_it_is_judged_once_by_the_next_life(shop: Toy) -> None:
    assert shop.ask("POST", "signals", failed("job-1")) == took(accepted=1)
    look = shop.root / "look"
    seeing = look.read_text()
    blind = shop.root / "look.new"
    blind.write_text("#!/bin/sh\nexec sleep 60\n")  # nothing can be decided without a look
    blind.chmod(0o755)
    blind.rename(look)
    assert shop.ask("POST", "signals", failed("job-2")) == took(accepted=1)
    shop.stop(kill=True)
    with closing(sqlite3.connect(shop.journal)) as journal:
        assert journal.execute("SELECT count(*) FROM inbox WHERE NOT handled").fetchone() == (1,)
        assert journal.execute("SELECT count(*) FROM facts WHERE kind = 'Decided'").fetchone() == (0,)
    look.write_text(seeing)

    shop.start()
    recovered(shop)
    assert shop.ask("POST", "signals", failed("job-2")) == took(duplicates=1)
    shop.reboot()
    shop.until_looked()
    assert actions(shop) == ["roll_back"]
    assert [one["id"] for one in shop.incidents()] == ["shop-1"]


def test_what_was_resolved_rolls_nothing_back(shop: Toy) -> None:
    shop.ask("POST", "signals", failed("job-1"))
    shop.ask("POST", "signals", failed("job-1", state="resolved"))
    shop.ask("POST", "signals", failed("job-2"))
    shop.until_looked()
    assert (shop.decisions(), shop.calls) == ([], [])
    status, said, _ = shop.refused("POST", "signals", failed("job-3", at="2020-01-01T00:00:00Z"))
    assert (status, said.partition(";")[0]) == (
        400,
        "e2e_failed: `at` is 2020-01-01 00:00:00+00:00, longer ago than any rule counts",
    )
