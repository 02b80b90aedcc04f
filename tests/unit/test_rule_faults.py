"""A rule that cannot be judged is told of once for each service, and again when it could be judged between."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rollbackd.signals.rule_faults import RuleFaults

RULE = cast("Any", SimpleNamespace(name="errors"))


class Faults:
    """What a rule says nothing of, and what people were told."""

    def __init__(self) -> None:
        self.unsure: dict[str, str] = {}
        self.told: list[str] = []
        read_model, rule_states = (
            SimpleNamespace(tell=self._tell),
            SimpleNamespace(
                unjudged=lambda _rule, _times=5: dict(self.unsure),
                says_something=lambda _rule, service: service not in self.unsure,
            ),
        )
        self.faults = RuleFaults(cast("Any", read_model), cast("Any", rule_states))

    async def _tell(self, notice: Any) -> None:
        self.told.append(notice.text)

    async def look(self, *unsure: str, faults: tuple[str, ...] = ()) -> list[str]:
        """What is told now, of two looks."""
        self.told.clear()
        self.unsure = dict.fromkeys((*unsure, *faults), "no data")
        for _ in range(2):
            await self.faults.look(RULE, dict.fromkeys(faults, "2 series"))
        return list(self.told)


@pytest.fixture
def rule() -> Faults:
    return Faults()


async def test_another_service_is_told_of_while_the_first_lasts(rule: Faults) -> None:
    assert await rule.look("shop") == ["rule errors cannot be judged: shop: no data"]
    assert await rule.look("shop", "wiki") == ["rule errors cannot be judged: wiki: no data"]
    assert await rule.look("shop", "wiki") == []
    assert await rule.look("wiki") == []
    assert await rule.look("shop", "wiki") == ["rule errors cannot be judged: shop: no data"]


async def test_those_that_are_new_together_are_one_notice(rule: Faults) -> None:
    await rule.look("shop")
    said = ["rule errors cannot be judged: wiki: no data (and 1 more services)"]
    assert await rule.look("shop", "wiki", "blog") == said


async def test_an_answer_that_cannot_be_told_apart_hides_no_service_without_one(rule: Faults) -> None:
    assert await rule.look(faults=("shop",)) == ["rule errors cannot be judged: shop: 2 series"]
    assert await rule.look("wiki", faults=("shop",)) == ["rule errors cannot be judged: wiki: no data"]
