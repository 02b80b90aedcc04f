"""What a look at the layers becomes: a state, a change, or nothing; and whose change it was."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError
from rollbackd.execution.layers import Layers
from rollbackd.incident.ending import ending
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome, Release, State, incident_stream, service_stream
from rollbackd.signals.state_watcher import StateWatcher
from tests.fakes.clock import START
from tests.unit.house import INCIDENT, V1, V2, House

MINUTE = timedelta(minutes=1)
V3 = Release("v3")


class Watch(House):
    """The house, looked at."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.begin()

    def begin(self) -> None:
        """A new life: what was seen is in the journal alone."""
        self.state_watcher = StateWatcher(
            self.read_model, {"shop": self.factory.build(self.service)}, self.clock, MINUTE
        )

    async def look(self, after: timedelta = MINUTE) -> State | None:
        """Look, so long after the last time."""
        self.clock.advance(after)
        found: list[State | None] = []

        async def look() -> None:
            found.append(await self.state_watcher.look("shop"))

        looking = asyncio.create_task(look())
        await self.until(looking.done)
        await looking
        return found[0]

    def deploy(self, release: Release) -> None:
        for layer in ("config", "code"):
            self.layers[layer].present = release

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Each state's code, and the incident that it is put down to."""
        spells = self.read_model.of("shop").spells
        return [(spell.state.releases["code"].id, spell.incident) for spell in spells]

    async def close(self, outcome: Outcome) -> None:
        """The open incident ends."""
        incident = await self.incident()
        for stream, fact in ending(incident, outcome, "as the test says", self.service.verify, self.clock.now()):
            await self.read_model.append(Entry(stream, fact))


@pytest.fixture
async def watch(tmp_path: Path) -> Watch:
    one = Watch(tmp_path)
    one.deploy(V1)
    await one.look()
    return one


async def test_the_first_look_is_the_first_state(watch: Watch) -> None:
    assert watch.changes == [("v1", "")]
    await watch.look()
    assert watch.changes == [("v1", "")]


async def test_a_change_lies_between_the_last_look_at_the_old_and_the_first_at_the_new(watch: Watch) -> None:
    await watch.look()
    last = watch.clock.now()
    watch.deploy(V2)
    await watch.look()
    spell = watch.read_model.of("shop").spells[-1]
    assert spell.after == last
    assert spell.by == watch.clock.now()
    assert watch.changes == [("v1", ""), ("v2", "")]


async def test_layers_in_transition_are_no_state(watch: Watch) -> None:
    releases = iter((V1, V2, V3, V3))
    code = watch.layers["code"]

    async def current() -> Release:
        return next(releases)

    setattr(code, "current", current)  # noqa: B010
    watch.layers["config"].present = V2
    assert await watch.look() is None
    assert watch.changes == [("v1", "")]
    assert await watch.look() is not None
    assert watch.changes == [("v1", ""), ("v3", "")]


async def test_a_look_that_failed_is_no_change_and_is_named_until_it_works(watch: Watch) -> None:
    async def current() -> Release:
        raise AdapterError("the repository is gone", permanent=True)

    code = watch.layers["code"]
    works = code.current
    setattr(code, "current", current)  # noqa: B010
    assert await watch.look() is None
    assert watch.state_watcher.problems == {"shop": "code: the repository is gone"}
    setattr(code, "current", works)  # noqa: B010
    assert await watch.look() is not None
    assert (watch.state_watcher.problems, watch.changes) == ({}, [("v1", "")])


async def test_nobody_looks_while_an_incident_is_open(watch: Watch) -> None:
    watch.deploy(V2)
    await watch.look()
    await watch.open()
    watch.deploy(V1)
    assert await watch.look() is None
    assert watch.changes == [("v1", ""), ("v2", "")]


async def test_a_quarantined_release_that_runs_again_is_announced(watch: Watch) -> None:
    await watch.read_model.append(Entry(service_stream("shop"), facts.Quarantined({"code": "v2"}, "by unix:ann")))
    watch.deploy(V2)
    await watch.look()
    (notice,) = [one.fact for one in watch.journal.records if isinstance(one.fact, facts.Notice)]
    assert (notice.kind, notice.text) == ("quarantined_release", "shop: a quarantined release runs again: code v2")


async def test_no_ref_marks_a_state_good_in_which_something_is_switched_off(watch: Watch) -> None:
    watch.deploy(Release("v2", good=True))
    stream, state = service_stream("shop"), watch.state
    fact = facts.Changed(state, START, START, INCIDENT, fixed=("config",))
    await watch.read_model.append(Entry(stream, fact))
    await watch.look()
    assert watch.read_model.of("shop").good == {}
    watch.layers["config"].present = V1
    await watch.look()
    assert len(watch.read_model.of("shop").good) == 1


# -- after an incident that did not help --------------------------------------------------------
async def acted(watch: Watch) -> None:
    """v2 came, the incident began, and its first step was cut short: config is v1, code still v2."""
    watch.deploy(V2)
    await watch.look()
    await watch.open()
    await watch.read_model.append(Entry(incident_stream(INCIDENT), facts.ApplyStarted("config")))
    watch.layers["config"].present = V1
    watch.clock.advance(MINUTE)
    await watch.close(Outcome.FAILED)


async def test_what_a_failed_rollback_left_is_put_down_to_it(watch: Watch) -> None:
    await acted(watch)
    await watch.look()
    assert watch.changes == [("v1", ""), ("v2", ""), ("v2", INCIDENT)]


async def test_what_somebody_deploys_later_is_theirs(watch: Watch) -> None:
    await acted(watch)
    await watch.look()
    watch.deploy(V3)
    await watch.look()
    assert watch.changes[-1] == ("v3", "")


async def test_what_somebody_deploys_after_a_look_that_showed_nothing_new_is_theirs(watch: Watch) -> None:
    """The look after the end found the layers as the incident had said; so the change after that is no rollback's."""
    await acted(watch)
    watch.layers["config"].present = V2
    await watch.look()
    watch.deploy(V3)
    await watch.look()
    assert watch.changes == [("v1", ""), ("v2", ""), ("v3", "")]


async def test_an_incident_that_touched_nothing_leaves_nothing(watch: Watch) -> None:
    watch.deploy(V2)
    await watch.look()
    await watch.open()
    await watch.read_model.append(Entry(FLEET, facts.Ended("shop", INCIDENT, Outcome.DECLINED, acted=False)))
    watch.deploy(V3)
    await watch.look()
    assert watch.changes == [("v1", ""), ("v2", ""), ("v3", "")]


async def test_a_new_life_does_not_take_the_time_it_was_away_for_a_look(watch: Watch) -> None:
    watch.begin()
    watch.deploy(V2)
    await watch.look(timedelta(hours=1))
    spell = watch.read_model.of("shop").spells[-1]
    assert spell.after <= START + 2 * MINUTE
    assert spell.by >= START + timedelta(hours=1)


async def test_only_the_looks_that_come_round_may_be_answered_by_what_was_told(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    async def steady(_self: object, _known: str, _clock: object, *, mixed: bool, told: bool) -> None:
        asked.append(told)

    monkeypatch.setattr(Layers, "steady", steady)
    await watch.state_watcher.look("shop")
    await watch.state_watcher.peek("shop")
    for turn in watch.state_watcher.turns():
        await turn.work()
    assert asked == [False, False, True]
