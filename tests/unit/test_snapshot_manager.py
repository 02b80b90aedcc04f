"""Snapshots on a calendar, by hand and elsewhere, in virtual time on a layer in memory."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.adapter import Adapter, Snapshot
from rollbackd.calendar import Calendar
from rollbackd.config.load import load
from rollbackd.execution.layers import Layers
from rollbackd.journal import Entry, Journal
from rollbackd.model import FLEET, Outcome, Release, State, service_stream
from rollbackd.policy.ledger import ServiceLedger, fold_service
from rollbackd.snapshots import NotKept, SnapshotManager
from rollbackd.snapshots.metrics import SnapshotMetrics
from rollbackd.snapshots.offsite import digest_of, signature_of, stem_of, understood
from rollbackd.snapshots.selection import good_releases, spared, to_restore
from rollbackd.state.read_model import ReadModel
from rollbackd.system.spawner import Spawner
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.layer_snapshots import FakeDatabase, FakeKept, FakeRemote, refused

ANN = "unix:ann"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OFFSITE = {"push": ["send", "{file}"], "list": ["list", "remote"], "pull": ["fetch", "{name}", "{directory}"]}
NIGHTLY = {"snapshot": "shop/config", "cron": "0 2 * * *"}


class House:
    """One service with a layer that keeps snapshots, or some; several lives of the keeper on one journal."""

    def __init__(
        self,
        directory: Path,
        *schedules: dict[str, Any],
        layers: Sequence[str] = ("config",),
        database: str = "",
    ) -> None:
        """:param database: a layer that is one."""
        service: dict[str, Any] = {
            "name": "shop",
            "match": {"service": "shop"},
            "layers": {name: {"adapter": "files", "paths": [str(directory / f"{name}.conf")]} for name in layers},
            "verify": {"checks": [{"tcp": "127.0.0.1:1"}]},
        }
        if database:
            service["layers"][database] = {"adapter": "postgres", "dsn": "host=/run/postgresql dbname=shop"}
        daemon = {"mode": "act", "open_on_loopback": True, "scratch": str(directory / "layers")}
        path = directory / "config.yaml"
        path.write_text(json.dumps({"daemon": daemon, "schedules": list(schedules), "services": [service]}))
        self.config = load(path).config
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.read_model = ReadModel(cast("Journal", self.journal))
        self.layers = {name: FakeKept(self.clock) for name in layers}
        if database:
            self.layers[database] = FakeDatabase(self.clock)
        self.layer = self.layers[database or layers[0]]
        self.remote = FakeRemote(clock=self.clock)
        self.tasks: list[asyncio.Task[None]] = []
        self.snapshot_manager = self.new_keeper()

    def new_keeper(self) -> SnapshotManager:
        kept = {name: cast("Adapter", layer) for name, layer in self.layers.items()}
        layers = {"shop": Layers(self.config.services[0], kept)}
        return SnapshotManager(self.config, self.read_model, self.clock, layers, cast("Spawner", self.remote))

    async def live(self) -> None:
        """Begin a life: what the daemon's root tasks do."""
        self.snapshot_manager = self.new_keeper()
        await self.snapshot_manager.open()
        table = Calendar(self.snapshot_manager.planned(), self.clock)
        self.tasks = [asyncio.create_task(self.snapshot_manager.run()), asyncio.create_task(table.run())]
        await self.settle()

    async def end(self) -> None:
        """End it, as a kill does: nothing more is written."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.snapshot_manager.stop()
        self.tasks = []

    async def sent(self, name: str, text: str, layer: str = "config") -> None:
        """A copy that is elsewhere since it was sent from here."""
        self.remote.files[name] = text
        digest = hashlib.sha256(text.encode()).hexdigest()
        await self.say(facts.SnapshotCopied(layer, "kept", name, digest=digest))

    async def settle(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    async def pass_time(self, length: timedelta, step: timedelta = 10 * MINUTE) -> None:
        end = self.clock.now() + length
        while self.clock.now() < end:
            self.clock.advance(min(step, end - self.clock.now()))
            await self.settle()

    async def to(self, hour: int, minute: int = 1) -> None:
        """Until that time of day comes next."""
        now = self.clock.now()
        goal = now.replace(hour=hour, minute=minute)
        await self.pass_time(goal - now if goal > now else goal + DAY - now, HOUR)

    async def say(self, *said: Any) -> None:
        """Facts of the service."""
        await self.read_model.append(*(Entry(service_stream("shop"), fact) for fact in said))

    async def open_incident(self, *, over: bool = False) -> None:
        fact = facts.Ended("shop", "shop-1", Outcome.RECOVERED, True) if over else facts.Opening("shop", "shop-1")
        await self.read_model.append(Entry(FLEET, fact))

    def of(self, kind: type[Any]) -> list[Any]:
        return [record.fact for record in self.journal.records if isinstance(record.fact, kind)]

    def actors(self) -> set[str]:
        return {record.actor for record in self.journal.records}

    @property
    def told(self) -> list[tuple[str, bool]]:
        return [(notice.text, notice.over) for notice in self.of(facts.Notice)]


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes houses, and ends what lives in them. What threads do is done at once: virtual time waits for none."""

    async def at_once(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return work(*given, **named)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    houses: list[House] = []

    def make(directory: Path, *schedules: dict[str, Any], **more: Any) -> House:
        houses.append(House(directory, *schedules, **more))
        return houses[-1]

    yield make
    for house in houses:
        await house.end()


def state(release: str) -> State:
    return State({"config": Release(release)})


# -- on the calendar ----------------------------------------------------------------------------
async def test_a_run_takes_reads_sends_and_drops_and_says_so(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "keep": 2, "offsite": OFFSITE})
    for age in (3, 2, 1):
        house.layer.add(f"old{age}", f"r0{age}", age * DAY)
    await house.live()
    await house.to(2)
    assert [call for call in house.layer.calls if call != "snapshots"] == [
        "take schedule", "verify s4", "export s4", "prune 2",
    ]  # fmt: skip
    (taken,), (verified,) = house.of(facts.Snapshotted), house.of(facts.SnapshotVerified)
    (copied,), (ended,) = house.of(facts.SnapshotCopied), house.of(facts.SnapshotEnded)
    assert (taken.name, taken.release, verified.problems) == ("s4", "r1", ())
    assert copied.copy == f"shop@config@20260303T020000Z@{digest_of('r1')}.snapshot"
    assert (ended.problems, ended.dropped) == ((), ("old2", "old3"))
    assert house.told == []
    await house.to(2)
    assert len(house.of(facts.SnapshotEnded)) == 2


async def test_a_missed_run_is_made_up_for_once_by_the_next_life(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    await house.live()
    await house.to(2)
    await house.end()
    await house.pass_time(timedelta(days=4), HOUR)
    assert house.layer.calls.count("take schedule") == 1
    await house.live()
    assert house.layer.calls.count("take schedule") == 2
    await house.pass_time(HOUR)
    assert house.layer.calls.count("take schedule") == 2


async def test_a_run_waits_while_an_incident_is_at_work(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    await house.live()
    await house.open_incident()
    await house.to(3)
    assert "take schedule" not in house.layer.calls
    await house.open_incident(over=True)
    await house.pass_time(MINUTE, timedelta(seconds=10))
    assert "take schedule" in house.layer.calls


async def test_a_run_makes_way_for_an_incident_and_is_gone_on_with_after_it(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    house.layer.hold_up = asyncio.Event()
    await house.live()
    await house.to(2)
    await house.open_incident()
    await house.pass_time(5 * timedelta(seconds=1), timedelta(seconds=1))
    assert house.layer.kept == []
    house.layer.hold_up.set()
    await house.pass_time(MINUTE, timedelta(seconds=10))
    assert house.of(facts.SnapshotEnded) == []
    await house.open_incident(over=True)
    await house.pass_time(MINUTE, timedelta(seconds=10))
    (begun,), (ended,) = house.of(facts.SnapshotBegun), house.of(facts.SnapshotEnded)
    assert (ended.run, ended.problems) == (begun.run, ())


async def test_a_person_comes_before_the_calendar(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    house.layer.add("good", "r0", DAY)
    house.layer.hold_up = asyncio.Event()
    await house.live()
    await house.to(2)
    restore = asyncio.create_task(house.snapshot_manager.restore("shop", "config", "good", (), ANN))
    await house.pass_time(timedelta(seconds=3), timedelta(seconds=1))
    assert (await asyncio.wait_for(restore, 10)).release == "r0"
    house.layer.hold_up.set()
    await house.pass_time(MINUTE, timedelta(seconds=10))
    assert [fact.what for fact in house.of(facts.SnapshotBegun)] == ["keep", "restore"]
    assert len(house.of(facts.SnapshotEnded)) == 2


async def test_people_hear_of_a_failure_once_and_when_it_is_over(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {"snapshot": "shop/config", "every": "1h", "offsite": OFFSITE})
    house.remote.fails = "send"
    await house.live()
    await house.pass_time(4 * HOUR, MINUTE)
    (said,) = house.told
    assert "snapshots of shop/config: off-site: `send {file}`: exit 1: send: no route to host" in said[0]
    assert not any(call.startswith("prune") for call in house.layer.calls), "nothing is dropped while copies fail"
    house.remote.fails = ""
    await house.pass_time(2 * HOUR, MINUTE)
    assert house.told[1:] == [("snapshots of shop/config are well again", True)]
    names = [fact.name for fact in house.of(facts.Snapshotted)]
    assert len(names) == len(set(names)), "what is tried again takes no second snapshot"


async def test_a_copy_that_did_not_arrive_is_a_failure(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {"snapshot": "shop/config", "every": "1d", "offsite": OFFSITE})
    house.remote.loses = True
    await house.live()
    await house.pass_time(5 * MINUTE, timedelta(seconds=10))
    assert "is not in the list of what is there" in house.told[0][0]


async def test_what_may_pass_is_tried_again_and_what_cannot_is_not(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {"snapshot": "shop/config", "every": "1d"})
    house.layer.errors["take"] = [refused("busy", permanent=False), refused("busy", permanent=False)]
    await house.live()
    await house.pass_time(5 * MINUTE, timedelta(seconds=10))
    assert house.layer.calls.count("take schedule") == 3
    assert house.told == []
    house.layer.errors["take"] = [refused("no such directory"), RuntimeError("an adapter of somebody else's")]
    await house.pass_time(DAY, HOUR)
    assert house.layer.calls.count("take schedule") == 4
    assert "no such directory" in house.told[0][0]


async def test_a_damaged_snapshot_drops_nothing(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {"snapshot": "shop/config", "every": "1d", "keep": 1})
    house.layer.harmed = {"s2"}
    house.layer.add("old", "r0", DAY)
    await house.live()
    assert "snapshot s2: /etc/x: its content is not what was saved" in house.told[0][0]
    assert [one.name for one in house.layer.kept] == ["s2", "old"]


async def test_now_and_then_the_newest_and_the_target_are_tried_out(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "restore_test": "0 4 * * *"})
    house.layer.add("target", "r0", 3 * DAY)
    house.layer.add("between", "r9", 2 * DAY)
    now = house.clock.now()
    await house.say(
        facts.Changed(state("r0"), now - 3 * DAY, now - 3 * DAY),
        facts.MarkedGood(state("r0"), "ran"),
        facts.Changed(state("r1"), now - DAY, now - DAY),
    )
    house.layer.unfit = {"target"}
    await house.live()
    await house.to(5)
    assert [call for call in house.layer.calls if call.startswith("rehearse")] == ["rehearse s3", "rehearse target"]
    assert "snapshot target: no room for it" in house.told[0][0]
    assert {fact.name: fact.rehearsed for fact in house.of(facts.SnapshotVerified)} == {"s3": True, "target": True}
    await house.to(3)
    assert len(house.told) == 1, "a good run does not say that the trial is well again"
    house.layer.unfit = set()
    await house.to(5)
    assert house.told[-1][1]


# -- when something has become good -------------------------------------------------------------
WHEN_GOOD = {"snapshot": "shop/config", "when": "good"}
GLANCE = timedelta(seconds=15)


def runs(release: str) -> facts.Changed:
    return facts.Changed(state(release), START, START)


def is_good(release: str) -> facts.MarkedGood:
    return facts.MarkedGood(state(release), "ran 30m without a trigger and passed its checks")


async def test_the_schema_alone_is_kept_beside_the_copies_and_never_taken_for_one(made: Any, tmp_path: Path) -> None:
    nightly = {"snapshot": "shop/db", "cron": "0 2 * * *", "keep": 9}
    house = made(tmp_path, nightly, nightly | {"kind": "schema", "keep": 2}, database="db")
    await house.live()
    for _ in range(3):
        await house.to(2, 5)
    calls = [call for call in house.layer.calls if call.startswith(("take", "prune"))]
    assert calls.count("take_schema schedule") == 3
    assert calls.count("prune_schemas 2") == 3
    assert (calls.count("take schedule"), calls.count("prune 9")) == (3, 3), "each kind drops its own"
    kinds = [one.kind for one in (await house.snapshot_manager.view("shop", "db")).snapshots]
    assert sorted(kinds) == ["", "", "", "schema", "schema"]
    assert not [call for call in house.layer.calls if call.startswith("verify") and "schema" in call]


async def test_what_becomes_good_is_kept_once(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**WHEN_GOOD, "offsite": OFFSITE})
    house.layer.present = "r1"
    await house.live()
    await house.say(runs("r1"))
    await house.pass_time(HOUR)
    assert house.of(facts.SnapshotBegun) == [], "it is not good yet"
    await house.say(is_good("r1"))
    await house.pass_time(GLANCE, GLANCE)
    (begun,), (taken,) = house.of(facts.SnapshotBegun), house.of(facts.Snapshotted)
    assert (begun.schedule, begun.release) == ("when good", "r1")
    assert (taken.why, taken.release) == ("good", "r1")
    assert len(house.of(facts.SnapshotVerified)) == len(house.remote.files) == 1
    await house.pass_time(DAY, HOUR)
    await house.end()
    await house.live()
    await house.pass_time(DAY, HOUR)
    assert len(house.of(facts.SnapshotBegun)) == 1, "and nothing forgets that, a restart neither"


async def test_what_becomes_good_again_is_read_and_not_taken_again(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, WHEN_GOOD)
    await house.live()
    for release in ("r1", "r2", "r1"):
        house.layer.present = release
        await house.say(runs(release), is_good(release))
        await house.pass_time(MINUTE, GLANCE)
    assert [fact.release for fact in house.of(facts.Snapshotted)] == ["r1", "r2", "r1"]
    assert [call for call in house.layer.calls if call.startswith("take")] == ["take good", "take good"]
    assert [call for call in house.layer.calls if call.startswith("verify")] == ["verify s1", "verify s2", "verify s1"]


async def test_nothing_is_kept_as_good_when_something_else_is_there_by_then(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, WHEN_GOOD)
    house.layer.present = "r2"
    await house.live()
    await house.say(runs("r1"), is_good("r1"))
    await house.pass_time(MINUTE, GLANCE)
    assert house.layer.kept == []
    assert house.told == []
    house.layer.present = "r1"
    await house.pass_time(HOUR)
    assert [one.release for one in house.layer.kept] == ["r1"], "it is tried again"


async def test_what_is_good_and_cannot_be_kept_is_told_and_tried_again_every_hour(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, WHEN_GOOD)
    house.layer.present = "r1"
    house.layer.errors["take"] = [refused("no room"), refused("no room")]
    await house.live()
    await house.say(runs("r1"), is_good("r1"))
    await house.pass_time(30 * MINUTE, MINUTE)
    assert len(house.of(facts.SnapshotBegun)) == 1
    await house.pass_time(2 * HOUR, MINUTE)
    assert [fact.problems for fact in house.of(facts.SnapshotEnded)] == [("no room",), ("no room",), ()]
    assert [over for _, over in house.told] == [False, True]


async def test_a_kill_between_snapshot_and_note_leaves_one_snapshot_of_what_became_good(
    made: Any, tmp_path: Path
) -> None:
    house = made(tmp_path, WHEN_GOOD)
    house.layer.present = "r1"
    await house.say(runs("r1"), is_good("r1"))
    await house.say(facts.SnapshotBegun("config", "run-1", "keep", "when good", release="r1"))
    house.layer.add("taken", "r1", why="good")
    await house.live()
    await house.pass_time(DAY, HOUR)
    assert [one.name for one in house.layer.kept] == ["taken"]
    assert house.of(facts.SnapshotEnded) == [facts.SnapshotEnded("config", "run-1")]


# -- after a kill -------------------------------------------------------------------------------
async def test_what_was_cut_off_is_gone_on_with_and_takes_no_second_snapshot(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    await house.live()
    await house.end()
    fact = facts.SnapshotBegun("config", "run-1", "keep", "0 2 * * *")
    await house.say(fact)
    house.layer.add("taken", "r1", why="schedule")
    await house.live()
    await house.pass_time(MINUTE, timedelta(seconds=10))
    assert "take schedule" not in house.layer.calls
    assert "verify taken" in house.layer.calls
    (ended,) = house.of(facts.SnapshotEnded)
    assert ended == facts.SnapshotEnded("config", "run-1")


async def test_what_this_life_began_is_not_taken_for_cut_off(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {"snapshot": "shop/config", "every": "1d"})
    house.layer.hold_up = asyncio.Event()
    await asyncio.gather(house.snapshot_manager.open(), house.snapshot_manager.open())
    house.tasks = [asyncio.create_task(Calendar(house.snapshot_manager.planned(), house.clock).run())]
    await house.settle()
    house.tasks.append(asyncio.create_task(house.snapshot_manager.run()))
    await house.settle()
    house.layer.hold_up.set()
    await house.pass_time(HOUR)
    assert house.layer.calls.count("take schedule") == 1
    assert len(house.of(facts.SnapshotBegun)) == len(house.of(facts.SnapshotEnded)) == 1


async def test_what_nothing_asks_for_any_more_is_ended(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, NIGHTLY)
    await house.say(
        facts.SnapshotBegun("config", "run-1", "keep", "0 9 * * *"),
        facts.SnapshotBegun("config", "run-2", "keep"),
        facts.SnapshotBegun("gone", "run-3", "keep", "0 2 * * *"),
    )
    await house.live()
    assert {fact.run: fact.problems for fact in house.of(facts.SnapshotEnded)} == {
        "run-1": ("it was cut off, and the calendar has it no more",),
        "run-2": ("it was cut off, and who ordered it heard so",),
    }


async def test_a_restore_that_was_cut_off_is_finished_or_told(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    house.layer.add("one", "r0", DAY)
    begun = [facts.SnapshotBegun("config", f"run-{n}", "restore", name="one", only=("files",)) for n in (1, 2)]
    await house.read_model.append(*(Entry(service_stream("shop"), fact, ANN) for fact in begun))
    house.layer.errors["restore"] = [refused("a file cannot be written")]
    await house.live()
    assert house.layer.present == "r0"
    assert [fact.problems for fact in house.of(facts.SnapshotEnded)] == [("a file cannot be written",), ()]
    (restored,) = house.of(facts.SnapshotRestored)
    assert (restored.name, restored.run) == ("one", "run-2")
    assert "was cut off, and cannot be gone on with: a file cannot be written" in house.told[0][0]
    assert {record.actor for record in house.journal.records if record.stream != FLEET} == {ANN}


# -- by hand ------------------------------------------------------------------------------------
async def test_by_hand_each_thing_has_its_actor(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE})
    await house.live()
    taken = await house.snapshot_manager.take("shop", "config", "checkpoint-7", ANN)
    assert (taken.snapshot.name, taken.problems, len(taken.copies)) == ("checkpoint-7", (), 1)
    checked = await house.snapshot_manager.verify("shop", "config", "checkpoint-7", ANN, rehearse=True)
    assert checked.snapshot.rehearsed
    (difference,) = await house.snapshot_manager.diff("shop", "config", "checkpoint-7", "")
    assert difference.kind == "changed"
    assert await house.snapshot_manager.prune("shop", "config", ANN) == ()
    assert house.actors() == {ANN}
    async with house.snapshot_manager.exported("shop", "config", "checkpoint-7") as file:
        assert file.read_text() == "checkpoint-7"
        file.write_text("from-afar r7")
        brought = await house.snapshot_manager.take_in("shop", "config", file, ANN)
    assert brought.snapshot.release == "r7"
    assert not file.parent.exists()
    view = await house.snapshot_manager.view("shop", "config")
    assert [one.name for one in view.snapshots if one.present] == ["checkpoint-7"]
    assert view.next == datetime(2026, 3, 3, 2, tzinfo=UTC)


async def test_what_cannot_be_done_is_a_sentence_and_its_run_is_ended(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    await house.live()
    house.layer.errors["take"] = [refused("no such directory")]
    with pytest.raises(NotKept, match="no snapshot of shop/config was taken: no such directory"):
        await house.snapshot_manager.take("shop", "config", "", ANN)
    assert [fact.problems for fact in house.of(facts.SnapshotEnded)] == [("no such directory",)]
    with pytest.raises(NotKept, match='no snapshot "x"'):
        await house.snapshot_manager.verify("shop", "config", "x", ANN, rehearse=False)
    with pytest.raises(NotKept, match="keeps no snapshots"):
        await house.snapshot_manager.take("shop", "code", "", ANN)
    house.layer.errors["snapshots"] = [refused("the store is gone")]
    assert (await house.snapshot_manager.view("shop", "config")).problem == "the store is gone"


async def test_an_order_is_carried_out_when_whoever_gave_it_goes_away(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    await house.live()
    house.layer.hold_up = asyncio.Event()
    order = asyncio.create_task(house.snapshot_manager.take("shop", "config", "", ANN))
    await house.settle()
    order.cancel()
    await asyncio.gather(order, return_exceptions=True)
    house.layer.hold_up.set()
    await house.snapshot_manager.stop()
    assert [fact.problems for fact in house.of(facts.SnapshotEnded)] == [()]


async def test_a_restore_uses_the_first_that_is_whole_and_says_what_it_passed_over(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    for age, name in enumerate(("newest", "harmed", "whole", "oldest"), 1):
        house.layer.add(name, f"release of {name}", age * HOUR)
    house.layer.present = "release of newest"
    house.layer.harmed = {"harmed"}
    await house.live()
    done = await house.snapshot_manager.restore("shop", "config", "", (), ANN)
    assert (done.snapshot, house.layer.present) == ("whole", "release of whole")
    assert done.passed_over == ("snapshot harmed: /etc/x: its content is not what was saved",)
    (announced,) = house.of(facts.Announced)
    assert (announced.kind, announced.releases) == ("restore", {"config": "release of whole"})
    with pytest.raises(NotKept, match="name another one"):
        await house.snapshot_manager.restore("shop", "config", "harmed", (), ANN)
    again = await house.snapshot_manager.restore("shop", "config", "", (), ANN)
    assert again.snapshot == "oldest", "never forward again to what was left"


async def test_a_restore_waits_for_no_incident_and_says_so(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    house.layer.add("one", "r0", DAY)
    await house.live()
    await house.open_incident()
    with pytest.raises(NotKept, match="shop-1 is at work; again when it has ended"):
        await house.snapshot_manager.restore("shop", "config", "one", (), ANN)
    assert "restore one" not in house.layer.calls


async def test_when_none_that_is_here_will_do_copies_are_fetched_and_else_a_person_is_asked(
    made: Any, tmp_path: Path
) -> None:
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE})
    await house.live()
    for number in (5, 6, 7):
        name = f"shop@config@2026030{number}T020000Z@{digest_of(f'r{number}')}.snapshot"
        await house.sent(name, f"kept-{number} r{number}")
    house.layer.present = "r7"
    house.remote.files["shop@other@20260309T020000Z@0123456789ab.snapshot"] = "x r9"
    house.layer.errors["import"] = [refused("damaged")]
    done = await house.snapshot_manager.restore("shop", "config", "", (), ANN)
    assert (done.release, done.fetched.partition("T")[0]) == ("r5", "shop@config@20260305")
    assert "damaged" in done.passed_over[0]
    house.layer.kept, house.remote.files = [], {}
    with pytest.raises(NotKept, match="a person is needed"):
        await house.snapshot_manager.restore("shop", "config", "", (), ANN)
    house.remote.fails = "list"
    with pytest.raises(NotKept, match="no route to host"):
        await house.snapshot_manager.restore("shop", "config", "", (), ANN)


async def test_a_copy_of_another_release_than_its_name_says_is_not_used(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE})
    await house.sent(f"shop@config@20260305T020000Z@{digest_of('r5')}.snapshot", "kept r6")
    await house.live()
    with pytest.raises(NotKept, match="another release than its name says"):
        await house.snapshot_manager.restore("shop", "config", "", (), ANN)


# -- copies that somebody else put there --------------------------------------------------------
KEY = "a-key-that-nobody-else-has-0123"
_GOOD = f"shop@config@20260301T020000Z@{digest_of('r0')}"


def _other_bytes(files: dict[str, str], name: str) -> None:
    files[name] += " "


def _another_name(files: dict[str, str], name: str) -> None:
    files[name.replace("20260301", "20260302")] = files.pop(name)


def _a_new_one(files: dict[str, str], name: str) -> None:
    del files[name]
    files[f"{_GOOD}.snapshot".replace("20260301", "20260303")] = "evil r0"


def _many_new_ones(files: dict[str, str], name: str) -> None:
    for day in range(2, 20):
        files[f"{_GOOD}.snapshot".replace("20260301", f"202603{day:02}")] = "evil r0"


def _another_signature(files: dict[str, str], name: str) -> None:
    del files[name]
    files[f"{_GOOD}@{signature_of('another key, as long', _GOOD, 'x')}.snapshot"] = "evil r0"


def _of_another_layer(files: dict[str, str], name: str) -> None:
    stem = _GOOD.replace("@config@", "@other@")
    digest = hashlib.sha256(b"kept r0").hexdigest()
    files[name.replace(name.removeprefix(_GOOD), f"@{signature_of(KEY, stem, digest)}.snapshot")] = files.pop(name)


_FORGERIES = (_other_bytes, _another_name, _a_new_one, _another_signature, _of_another_layer)


@pytest.mark.parametrize("key", [False, True], ids=["known to the journal", "signed"])
@pytest.mark.parametrize("forge", [*_FORGERIES, _many_new_ones, None])
async def test_no_copy_is_taken_in_that_was_not_sent_from_here(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: Any, key: bool
) -> None:
    monkeypatch.setenv("COPIES", KEY)
    offsite = {**OFFSITE, "key": {"env": "COPIES"}} if key else OFFSITE
    house = made(tmp_path, {**NIGHTLY, "offsite": offsite})
    now = house.clock.now()
    await house.say(
        facts.Changed(state("r0"), now - 2 * DAY, now - 2 * DAY), facts.MarkedGood(state("r0"), "ran"),
        facts.Changed(state("r1"), now - DAY, now - DAY),
    )  # fmt: skip
    signature = signature_of(KEY, _GOOD, hashlib.sha256(b"kept r0").hexdigest())
    name = f"{_GOOD}@{signature}.snapshot" if key else f"{_GOOD}.snapshot"
    if key:
        house.remote.files[name] = "kept r0"  # the journal was lost, and the key was not
    else:
        await house.sent(name, "kept r0")
    if forge is not None:
        forge(house.remote.files, name)
    await house.live()
    await house.pass_time(HOUR)
    forged = forge in _FORGERIES
    assert [one.name for one in house.layer.kept] == ([] if forged else ["kept"]), "by itself, for a rollback"
    assert not any(call == "import" for call in house.layer.calls) or not forged
    if forged:
        with pytest.raises(NotKept, match="a person is needed") as refused:
            await house.snapshot_manager.restore("shop", "config", "", (), ANN)
        assert "`rollbackd snapshot import shop config FILE`" in str(refused.value)


async def test_what_is_sent_is_known_to_the_journal_by_its_hash_and_bears_a_signature(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIES", KEY)
    house = made(tmp_path, {**NIGHTLY, "offsite": {**OFFSITE, "key": {"env": "COPIES"}}})
    await house.live()
    await house.to(3)
    ((name, text),) = house.remote.files.items()
    (copied,) = house.of(facts.SnapshotCopied)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert (copied.copy, copied.digest) == (name, digest)
    (copy,) = understood([name], "shop", "config")
    assert copy.signature == signature_of(KEY, copy.stem, digest)
    assert KEY not in repr(house.journal.records)


async def test_a_key_that_is_too_short_to_be_one_sends_nothing_and_says_so(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIES", "short")
    house = made(tmp_path, {**NIGHTLY, "offsite": {**OFFSITE, "key": {"env": "COPIES"}}})
    await house.live()
    await house.to(3)
    assert house.remote.files == {}
    assert any("fewer than 16 characters" in text for ended in house.of(facts.SnapshotEnded) for text in ended.problems)


# -- for a rollback by itself -------------------------------------------------------------------
async def test_a_good_state_that_is_not_here_any_more_is_fetched(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {**NIGHTLY, "offsite": OFFSITE})
    now = house.clock.now()
    for age, release in ((3, "r0"), (2, "r2")):
        await house.say(
            facts.Changed(state(release), now - age * DAY, now - age * DAY), facts.MarkedGood(state(release), "ran")
        )
    await house.say(facts.Changed(state("r1"), now - DAY, now - DAY))
    house.layer.add("here", "r0", 3 * DAY)
    await house.live()
    assert "list" in {argv[0] for argv in house.remote.ran}
    ran = len(house.remote.ran)
    await house.pass_time(10 * MINUTE)
    assert len(house.remote.ran) == ran, "what is not elsewhere either is not looked for all the time"
    await house.sent(f"shop@config@20260228T020000Z@{digest_of('r2')}.snapshot", "kept r2")
    await house.pass_time(2 * HOUR)
    assert {one.release for one in house.layer.kept} == {"r0", "r2"}
    house.layer.kept = []
    house.snapshot_manager.poke("shop")
    await house.settle()
    assert [one.release for one in house.layer.kept] == ["r2"]


# -- values -------------------------------------------------------------------------------------
def _kept(name: str, release: str, hour: int, **more: Any) -> Snapshot:
    return Snapshot(name, release, START + hour * HOUR, **more)


def test_good_states_come_first_and_then_what_is_older_than_what_is_there() -> None:
    kept = [
        _kept("left", "x", 9, why="before"),
        _kept("newer", "n", 8),
        _kept("here", "h", 7),
        _kept("older", "o", 6),
        _kept("broken", "b", 5, restorable=False),
        _kept("good", "g", 4),
        _kept("bad", "q", 3),
        _kept("saved-good", "g2", 2, why="before"),
    ]
    found = to_restore(kept, "h", {"g", "g2"}, {"q"})
    assert [one.name for one in found] == ["good", "saved-good", "older"]
    assert [one.name for one in to_restore(kept, "unknown", (), ())] == ["newer", "here", "older", "good", "bad"]


def test_what_a_rollback_may_need_is_never_dropped() -> None:
    records: list[Any] = []
    ledger = ServiceLedger()
    from rollbackd.facts import Record

    for n, fact in enumerate(
        [
            facts.Changed(state("old"), START, START),
            facts.MarkedGood(state("old"), "ran"),
            facts.Changed(state("bad"), START, START),
            facts.MarkedGood(state("left"), "ran"),
            facts.Quarantined({"config": "left"}, "left behind"),
            facts.Changed(state("now"), START, START),
        ],
        1,
    ):
        records.append(Record(n, "service:shop", n, START, "daemon", fact))
    ledger = fold_service(ledger, records)
    assert good_releases(ledger, "config") == {"old"}
    assert spared(ledger, "config", None) == {"old", "now"}
    assert spared(ledger, "code", None) == frozenset()


def test_a_copy_says_what_it_is_and_anything_else_in_the_list_is_left_alone() -> None:
    one = _kept("snapshot-schedule-20260302T020000Z", "r/1 with anything", 0)
    name = f"{stem_of('shop', 'config', one)}.snapshot"
    assert "/" not in name
    lines = [
        f"   123 2026-03-02 {name}", f"some/where/{name}\r", "-rf", "../../etc/passwd", "", f"{name}.part",
        "shop@config@99999999T999999Z@0123456789ab.snapshot", "shop@config2@20260302T020000Z@0123456789ab.snapshot",
    ]  # fmt: skip
    assert [(copy.name, copy.release) for copy in understood(lines, "shop", "config")] == [
        (name, digest_of(one.release))
    ]


async def test_metrics_say_how_old_the_newest_whole_one_is(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path, {"snapshot": "shop/config", "every": "1d"})
    await house.live()
    await house.pass_time(HOUR)

    def values() -> dict[str, float]:
        found = SnapshotMetrics(house.snapshot_manager, house.clock).collect()
        return {sample.name: sample.value for metric in found for sample in metric.samples}

    assert values() == {"rollbackd_snapshot_verified_age_seconds": 3600.0, "rollbackd_snapshot_ok": 1.0}
    house.layer.harmed = {"s2"}
    await house.pass_time(DAY)
    assert values()["rollbackd_snapshot_ok"] == 0.0
    assert values()["rollbackd_snapshot_verified_age_seconds"] == 25 * 3600


async def test_it_stops_also_when_the_journal_could_never_be_read(made: Any, tmp_path: Path) -> None:
    house = made(tmp_path)
    order = asyncio.create_task(house.snapshot_manager.take("shop", "config", "", ANN))
    await house.settle()
    await asyncio.wait_for(house.snapshot_manager.stop(), 10)
    assert (await asyncio.gather(order, return_exceptions=True))[0].__class__ is asyncio.CancelledError
