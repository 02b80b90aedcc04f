"""Evidence: asked once while a rollback does not help and once after a bad end, also by the next life; it decides nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.config.load import ConfigErrors
from rollbackd.facts import Closed, EvidenceTaken, Round
from rollbackd.model import Outcome, Verdict
from tests.unit.house import configured
from tests.unit.judgement.stage import Stage
from tests.unit.test_operations import MINUTE, House, opened

HOST = {"command": ["uptime"], "lines": 3}


@asynccontextmanager
async def shop(place: Path, *, evidence: bool = True) -> AsyncIterator[House]:
    given = {"evidence": ["host", "health"]} if evidence else {}
    checks = {"health": {"command": ["true"]}, "host": HOST}
    place.mkdir(exist_ok=True)
    house = await opened(place, (), shop={"checks": checks, **given})
    yield house
    await house.stage.down()


def sick(stage: Stage) -> None:
    """Nothing helps the service; its host is well."""
    stage.world.checks["shop", "health"] = (Verdict.BAD, "")


async def test_it_is_taken_while_figures_stay_bad_and_after_the_end(tmp_path: Path) -> None:
    async with shop(tmp_path / "a") as house, shop(tmp_path / "b", evidence=False) as other:
        for one in (house, other):
            sick(one.stage)
            await one.event("broken")
            await one.pass_(timedelta(hours=1))
        during, after = house.written(EvidenceTaken)
        assert (during.at_end, after.at_end) == (False, True)
        assert [(one.name, one.verdict) for one in after.results] == [("host", Verdict.GOOD), ("health", Verdict.BAD)]
        kinds = [type(one.fact) for one in house.stage.journal.records]
        first = kinds.index(EvidenceTaken)
        assert kinds[:first].count(Round) == 2, "two bad rounds: figures that stay bad"
        assert kinds.index(Closed) < len(kinds) - 1 - kinds[::-1].index(EvidenceTaken)
        detail = await house.operations.incident("shop-1")
        assert [one.name for one in detail.incident.evidence] == ["host", "health"]
        assert other.written(EvidenceTaken) == []
        same = [[(type(one), getattr(one, "outcome", "")) for one in each.written(Closed)] for each in (house, other)]
        assert same[0] == same[1] == [(Closed, Outcome.INEFFECTIVE)], "nothing is decided by it"


async def test_none_is_taken_of_a_rollback_that_helped(tmp_path: Path) -> None:
    async with shop(tmp_path) as house:
        await house.event("broken")
        await house.pass_(timedelta(hours=1))
        assert [one.outcome for one in house.written(Closed)] == [Outcome.RECOVERED]
        assert house.written(EvidenceTaken) == []


@pytest.mark.parametrize(("away", "taken"), [(MINUTE, 1), (timedelta(hours=1), 0)])
async def test_the_next_life_takes_what_a_kill_kept_from_being_taken(
    tmp_path: Path, away: timedelta, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path) as house:
        sick(house.stage)
        monkeypatch.setattr(
            house.stage.daemon.evidence_taker._wanted, "put_nowait", lambda _: None
        )  # it is killed there
        await house.event("broken")
        while not house.written(Closed):
            await house.pass_(MINUTE)
        await house.stage.down()
        await house.pass_(away)
        await house.stage.up()
        await house.pass_(MINUTE)
        assert [one.at_end for one in house.written(EvidenceTaken)] == [True] * taken
        await house.stage.down()
        await house.stage.up()
        await house.pass_(MINUTE)
        assert len(house.written(EvidenceTaken)) == taken, "once"


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    assert configured(tmp_path, evidence=["health", HOST]).services[0].evidence[0] == "health"
    for evidence, said in (
        (["nowhere"], 'unknown check "nowhere"'),
        ([{"query": "up", "above": 0}], "this asks Prometheus and none is configured"),
        ([{"nonsense": 1}], "no kind of check"),
    ):
        with pytest.raises(ConfigErrors) as raised:
            configured(tmp_path, evidence=evidence)
        assert said in str(raised.value)
