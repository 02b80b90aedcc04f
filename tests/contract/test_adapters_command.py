"""Adapter `command`: what counts where a script moved the layer and failed, or was cut off, after that."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError, refuses_older
from rollbackd.model import Change, Progress
from rollbackd.testing import finish, killed_at, perform, place, planned
from rollbackd_adapters.command import CommandAdapter, CommandSettings
from rollbackd_adapters.then import environment
from tests.contract.worlds import CommandWorld


def failing_after_it_moved(path: Path, *, progress: bool = False) -> CommandWorld:
    """Its `apply` says in `log` that it moved, and then fails while there is a file `broken`."""
    world = CommandWorld(path, progress=progress)
    apply = Path(world.programs["apply"])
    apply.write_text(apply.read_text() + f"test ! -e {path}/broken || exit 3\n")
    (path / "broken").touch()
    return world


def test_a_script_that_fails_after_it_moved_is_a_failed_step_and_runs_again(tmp_path: Path) -> None:
    world = failing_after_it_moved(tmp_path)
    change = finish(planned(world.adapter(), world.target()))
    with pytest.raises(AdapterError, match="exit 3") as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    assert world.present() == change.after.id
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED, "whatever `current` says"
    (tmp_path / "broken").unlink()
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.finished() == 2, "the next try ran all of it again"


def test_after_a_crash_how_the_script_ended_counts_and_not_what_is_there(tmp_path: Path) -> None:
    """Killed while it runs, and between its end and our note of it."""
    for n in (7, 8, 9):
        world = failing_after_it_moved(tmp_path / str(n))
        change = finish(planned(world.adapter(), world.target()))

        async def life(world: CommandWorld = world, change: Change = change) -> None:
            with suppress(AdapterError):
                await world.adapter().apply(change)

        assert killed_at(n, life, descending=False)
        with pytest.raises(AdapterError, match="exit 3"):
            finish(perform(world.adapter(), change))
        assert world.present() == change.after.id
        assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED
        (world.path / "broken").unlink()
        assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_commands_are_told_who_drives_where_that_may_be_one_of_several(tmp_path: Path) -> None:
    one = place(tmp_path)
    assert "ROLLBACKD_EPOCH" not in environment(one)
    assert environment(replace(one, epoch=7))["ROLLBACKD_EPOCH"] == "7"
    for fenced in (False, True):
        settings = CommandSettings.model_validate(
            {"adapter": "command", "apply": ["true"], "progress": ["true"], "fenced": fenced}
        )
        assert refuses_older(CommandAdapter(settings, one)) is fenced


def test_with_progress_of_its_own_that_decides_also_when_the_script_failed(tmp_path: Path) -> None:
    world = failing_after_it_moved(tmp_path, progress=True)
    change = finish(planned(world.adapter(), world.target()))
    with pytest.raises(AdapterError, match="exit 3"):
        finish(world.adapter().apply(change))
    assert finish(world.adapter().progress(change)) is Progress.DONE, "it says so itself"
    finish(world.adapter().apply(change))
    assert world.finished() == 1


def test_what_nobody_of_us_began_is_done_when_it_is_there(tmp_path: Path) -> None:
    world = CommandWorld(tmp_path)
    change = finish(planned(world.adapter(), world.target()))
    (tmp_path / "present").write_text("v2\n")
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.finished() == 0
