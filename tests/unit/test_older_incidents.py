"""Lists that are longer than one answer: the older ones are asked for by the place of the last one that was shown."""

from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.cli import query_commands
from tests.unit.test_operations import opened


async def test_what_is_before_a_place_is_older_and_nothing_is_left_out_between(tmp_path: Path) -> None:
    house = await opened(tmp_path, ())
    for rule, release in (("broken", "v3"), ("worse", "v4")):
        await house.event(rule)
        await house.pass_(timedelta(minutes=20))
        await house.deploy(release)
    for asked in (house.operations.incidents, house.operations.decisions):
        every: list[Any] = await asked(limit=1000)
        assert len(every) >= 2
        assert [one.seq for one in every] == sorted((one.seq for one in every), reverse=True)
        found, before = list[Any](), 0
        while portion := await asked("shop", limit=1, before=before):
            found += portion
            before = portion[-1].seq
        assert found == [one for one in every if one.service == "shop"]
    await house.stage.down()


class Server:
    """Answers with the newest that were asked for, three at most."""

    def __init__(self, seqs: list[int]) -> None:
        self.seqs = seqs
        self.asked: list[dict[str, Any]] = []

    def get(self, what: str, limit: int, before: int = 0, **query: Any) -> dict[str, Any]:
        assert limit <= 3
        self.asked.append({"limit": limit, "before": before, **query})
        left = [seq for seq in self.seqs if not before or seq < before]
        return {what: [{"seq": seq} for seq in left[:limit]]}


@pytest.mark.parametrize(("limit", "portions"), [(2, [2]), (3, [3]), (5, [3, 2]), (99, [3, 3, 3])])
def test_the_command_asks_for_as_many_portions_as_it_takes(
    limit: int, portions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_commands, "_PORTION", 3)
    server = Server([70, 60, 50, 40, 30, 20, 10])
    session: Any = Namespace(client=server)
    found = query_commands._listed(session, "decisions", limit, service="shop")
    assert [one["seq"] for one in found["decisions"]] == server.seqs[:limit]
    assert [one["limit"] for one in server.asked] == portions
    assert {one["service"] for one in server.asked} == {"shop"}
