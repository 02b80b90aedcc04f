"""What holds a service: files, orders, silences; and which of them a command can lift."""

import gc
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd import facts
from rollbackd.decision.holds import ActiveHolds
from rollbackd.journal import Entry
from rollbackd.model import FLEET, SignalHold, service_stream
from rollbackd.rules.matchers import Matcher, parse_matchers
from rollbackd.signals.host_holds import HostHolds
from rollbackd.signals.signal_files import SignalFiles
from rollbackd.signals.silences import Silence
from tests.fakes.clock import START
from tests.unit.house import House

HOUR = timedelta(hours=1)


class Stops(House):
    """The house with all that can hold it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.signals = directory / "signals"
        self.signals.mkdir(mode=0o770)
        self.silences: tuple[Silence, ...] = ()
        files = SignalFiles(self.signals, self.clock)
        self.holds = ActiveHolds(self.config, self.read_model, files, self.clock, lambda: self.silences)

    async def by_command(self, scope: str = "shop", **more: object) -> None:
        stream = FLEET if scope == "*" else service_stream(scope)
        await self.read_model.append(Entry(stream, facts.Held("it moves", **more), "unix:ann"))  # type: ignore[arg-type]


@pytest.fixture
def stops(tmp_path: Path) -> Stops:
    return Stops(tmp_path)


def silence(matchers: str) -> Silence:
    return Silence("s1", parse_matchers(matchers), START + HOUR, "ann", "calm down")


async def test_nothing_holds_it(stops: Stops) -> None:
    assert stops.holds("shop", {}) == ()
    assert stops.holds.listed() == []
    assert stops.holds.how_to_lift("shop") == "nothing holds shop"
    assert stops.holds.how_to_lift("*") == "nothing holds all services"


async def test_a_hold_by_command_ends_at_its_time(stops: Stops) -> None:
    await stops.by_command(until=START + HOUR)
    assert stops.holds("shop", {}) == ("held by unix:ann: it moves",)
    assert stops.holds("desk", {}) == ()
    (view,) = stops.holds.listed()
    assert (view.scope, view.actor, view.source, view.until) == ("shop", "unix:ann", "api", START + HOUR)
    stops.clock.advance(HOUR)
    assert stops.holds("shop", {}) == ()
    assert stops.holds.listed() == []


async def test_a_hold_of_all_holds_each(stops: Stops) -> None:
    await stops.by_command("*")
    assert stops.holds("shop", {}) == ("all services held by unix:ann: it moves",)
    assert "`rollbackd resume --all` lifts that" in stops.holds.how_to_lift("shop")
    await stops.read_model.append(Entry(FLEET, facts.Unheld(), "unix:ann"))
    assert stops.holds("shop", {}) == ()


async def test_a_file_is_read_afresh_each_time(stops: Stops) -> None:
    (stops.signals / "HOLD.shop").touch()
    (reason,) = stops.holds("shop", {})
    assert reason.startswith("held: HOLD.shop by unix:")
    assert f"rm {stops.signals / 'HOLD.shop'}" in stops.holds.how_to_lift("shop")
    (stops.signals / "HOLD.shop").unlink()
    assert stops.holds("shop", {}) == ()
    (stops.signals / "HOLD").touch()
    assert stops.holds("shop", {}) != ()
    assert f"rm {stops.signals / 'HOLD'}`" in stops.holds.how_to_lift("shop")


@pytest.mark.parametrize(
    ("matchers", "held"),
    [
        ('service="shop"', True),
        ('service="desk"', False),
        ('service="shop", alertname="Sick"', True),
        ('service="shop", alertname="Other"', False),
        ('service=~"shop|desk"', True),
    ],
)
async def test_a_silence_holds_what_it_matches_unless_silences_are_left_out(
    stops: Stops, matchers: str, held: bool
) -> None:
    stops.silences = (silence(matchers),)
    labels = {"alertname": "Sick", "service": "shop"}
    assert stops.holds("shop", labels) == (("silenced in Alertmanager by ann: calm down",) if held else ())
    assert stops.holds("shop", labels, silences=False) == ()


async def test_nothing_is_kept_of_silences_that_are_over(stops: Stops) -> None:
    """A compiled expression may take a MiB, and there may be other ones at each ask, for months."""

    def alive() -> set[str]:
        gc.collect()
        return {one.value for one in gc.get_objects() if isinstance(one, Matcher) and one.value.startswith("over-")}

    for number in range(5):
        matchers = (Matcher("n", "=~", f"over-{number}.*"),)
        for again in range(2):  # as each ask makes it anew
            stops.silences = (Silence("s1", matchers, START + HOUR, "ann", "calm down"),)
            assert len(stops.holds("shop", {"n": f"over-{number + again}"})) == 1 - again
        assert len(alive()) == 1


async def test_all_that_holds_is_listed(stops: Stops) -> None:
    (stops.signals / "HOLD").write_text("reason: night\n")
    await stops.by_command()
    stops.silences = (silence('service="shop"'),)
    assert [(one.scope, one.source) for one in stops.holds.listed()] == [
        ("*", "file"), ("shop", "api"), ("shop", "silence"),
    ]  # fmt: skip
    assert len(stops.holds("shop", {})) == 3


async def test_what_a_file_holds_on_another_host_holds_here_until_its_time(stops: Stops) -> None:
    hold = SignalHold("shop", "unix:ann@ops-2", "HOLD.shop by unix:ann@ops-2", START + HOUR)
    await stops.read_model.append(Entry(FLEET, facts.SignalHolds("ops-2", (hold,))))
    assert stops.holds("shop", {}) == ("held on ops-2: HOLD.shop by unix:ann@ops-2",)
    assert stops.holds("desk", {}) == ()
    assert stops.holds.of_all() == ()
    assert [(one.scope, one.actor, one.source) for one in stops.holds.listed()] == [("shop", hold.actor, "file")]
    assert stops.holds.how_to_lift("shop") == (
        "it is held by the file HOLD.shop on ops-2; remove it there, or where that host is gone, "
        "`rollbackd resume --from ops-2`"
    )
    stops.clock.advance(HOUR)
    assert stops.holds("shop", {}) == ()


async def test_what_files_hold_is_published_when_it_is_news(stops: Stops) -> None:
    files = SignalFiles(stops.signals, stops.clock, "@ops-1")
    published = HostHolds(stops.config, stops.read_model, files)
    here = stops.config.daemon.here
    await published.publish()
    assert stops.journal.records == []
    (stops.signals / "HOLD").write_text("reason: look first")
    await published.publish()
    await published.publish()
    assert len(stops.journal.records) == 1
    (hold,) = stops.read_model.fleet.signal_holds[here]
    assert (hold.scope, hold.actor.endswith("@ops-1"), "look first" in hold.reason) == ("*", True, True)
    assert len(stops.holds("shop", {})) == 1, "its own file is read, and does not count twice"
    (stops.signals / "HOLD").unlink()
    stops.signals.chmod(0o777)
    await published.publish()
    (hold,) = stops.read_model.fleet.signal_holds[here]
    assert (hold.actor, "is open to others" in hold.reason) == ("daemon", True), "one that cannot be trusted holds all"
    stops.signals.chmod(0o770)
