"""A feature that a plan switches off: that plan expects the degraded answer, all others the whole one."""

from pathlib import Path

import aiohttp
import pytest

from rollbackd.adapter import CheckPlace
from rollbackd.checks.http import HttpCheck, HttpSettings
from rollbackd.model import Outcome, Release, Verdict
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.fakes.pages import saying, serving
from tests.unit.house import House

SWITCHED_OFF = Release("no-search")
WHOLE, DEGRADED = '{"results": 12, "degraded": false}', '{"results": 0, "degraded": true}'
CHECKS = {
    "search": {"http": "http://127.0.0.1:3000/search?q=shoe", "json": {"degraded": False}},
    "no-search": {"http": "http://127.0.0.1:3000/search?q=shoe", "json": {"degraded": True}},
}


@pytest.mark.parametrize("plan_has_its_own", [True, False])
async def test_a_plan_that_switches_off_is_verified_by_its_own_checks(tmp_path: Path, plan_has_its_own: bool) -> None:
    own = {"verify": {"every": "30s", "passes": 2, "deadline": "5m", "checks": ["no-search"]}}
    house = House(
        tmp_path,
        plans={"default": {"steps": [{"config": "no-search"}], **(own if plan_has_its_own else {})}},
        checks=CHECKS,
        verify={"every": "30s", "passes": 2, "deadline": "5m", "checks": ["search"]},
    )
    house.layers["config"].known = (SWITCHED_OFF, *house.layers["config"].known)
    house.check_runner.verdicts["search"] = Verdict.BAD
    await house.open()
    incident = await house.run()
    assert house.calls == ["apply config no-search"]
    assert set(house.check_runner.asked) == {"no-search" if plan_has_its_own else "search"}
    assert incident.outcome is (Outcome.RECOVERED if plan_has_its_own else Outcome.INEFFECTIVE)


@pytest.mark.parametrize(("text", "good"), [(WHOLE, "search"), (DEGRADED, "no-search")])
async def test_each_check_knows_its_own_answer(text: str, good: str) -> None:
    async with aiohttp.ClientSession() as session, serving(saying(text=text)) as url:
        place = CheckPlace("search", "shop", {}, Spawner(), SystemClock(), lambda: session, None)
        for name, check in CHECKS.items():
            result = await HttpCheck(HttpSettings.model_validate({**check, "http": url}), place).run()
            assert result.verdict is (Verdict.GOOD if name == good else Verdict.BAD)
