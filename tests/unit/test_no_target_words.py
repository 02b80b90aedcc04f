"""Why there is nothing to go back to, in the words that fit: quarantined, or not long enough without trouble."""

from datetime import timedelta
from pathlib import Path

from rollbackd.model import Request
from tests.unit.test_operations import opened

TAIL = "; name one with --to, or mark one with `rollbackd good shop REF`"


async def test_what_a_rollback_left_is_quarantined_and_did_not_run_too_short(tmp_path: Path) -> None:
    house = await opened(tmp_path, ())
    await house.event("broken")
    await house.pass_(timedelta(minutes=20))
    plan = await house.operations.plan(Request("shop", "unix:ann"))
    said = "no good state to go back to: quarantined, since a rollback from there helped: code v2, config c1"
    assert [one for one in plan.problems if "no good" in one] == [said + TAIL]
    await house.deploy("v3")
    await house.pass_(timedelta(minutes=1))
    await house.deploy("v1")
    await house.pass_(timedelta(minutes=1))
    plan = await house.operations.plan(Request("shop", "unix:ann"))
    assert [one for one in plan.problems if "no good" in one] == [
        f"{said}; no other one ran for 30m without a trigger{TAIL}"
    ]
    await house.stage.down()
