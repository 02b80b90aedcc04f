"""The table of hard cases: what is decided in each situation, by the daemon's own parts. `make judgement` prints it."""

from pathlib import Path

import pytest

from tests.unit.judgement.cases import Situation, chapters, play

ALL = [situation for chapter in chapters() for situation in chapter.situations]


@pytest.mark.parametrize("situation", ALL, ids=lambda one: one.name)
async def test_what_is_decided(situation: Situation, tmp_path: Path) -> None:
    played = await play(situation, tmp_path)
    said = "\n".join(map(str, played.told)) or "nothing"
    assert not played.faults, "\n".join([*played.faults, "", "all of it:", said])
