"""Alerts whose end nobody tells: what Alertmanager does not know of has ended, and a late word of it begins nothing."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.decision.engine import DecisionEngine
from rollbackd.model import Alert
from rollbackd.rules.tracks import Standing
from rollbackd.signals.alertmanager_client import Alertmanager, FiringAlerts, Unreachable
from rollbackd.signals.intake import SignalIntake
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.silences import Silence
from tests.fakes.clock import START
from tests.unit.house import House
from tests.unit.test_intake_events import Bench

MINUTE = timedelta(minutes=1)
NAMES = ("a", "b", "c")
GRAFANAS = "g"
"""What no Alertmanager knows of: it fires until Grafana itself says that it is over."""


def alert(name: str = "a", since: int = 0, ended: int | None = None) -> Alert:
    labels = {"alertname": "Sick", "service": "shop", "part": name}
    ends = None if ended is None else START + ended * MINUTE
    return Alert(f"{ord(name):016x}", labels, {}, START + since * MINUTE, ends)


class FakeAlertmanager:
    """Says what the test says."""

    def __init__(self) -> None:
        self.listed = FiringAlerts()
        self.silenced: list[Silence] = []
        self.down = ""

    def says(self, *alerts: Alert, inhibited: Sequence[Alert] = (), whole: bool = True) -> None:
        self.listed = FiringAlerts(alerts, frozenset(one.fingerprint for one in (*alerts, *inhibited)), whole)

    async def firing(self, _now: Any) -> FiringAlerts:
        return self.listed

    async def silences(self) -> list[Silence]:
        if self.down:
            raise Unreachable(self.down)
        return self.silenced


class Desk(House):
    """The house with an intake, and an Alertmanager when it is wanted."""

    def __init__(self, directory: Path, *, asked: bool = True, **changes: Any) -> None:
        super().__init__(directory, **changes)
        if asked:
            self.config = self.config.model_copy(update={"alertmanager": object()})
        self.alertmanager = FakeAlertmanager()
        self._asked = asked
        self.decision_engine = Bench()
        self._begin()

    def _begin(self) -> None:
        self.rule_states = RuleStates(self.config)
        self.intake = SignalIntake(
            self.read_model,
            self.rule_states,
            cast("DecisionEngine", self.decision_engine),
            self.clock,
            cast("Alertmanager", self.alertmanager) if self._asked else None,
        )

    async def restart(self) -> None:
        """What is in memory is gone; the journal stays."""
        self._begin()
        await self.intake.recall()
        self.clock.advance(MINUTE)

    async def hear(self, *alerts: Alert, **more: bool) -> None:
        await self.intake.receive(alerts, **more)
        await self.settle()
        self.clock.advance(MINUTE)

    async def ask(self) -> None:
        self.clock.advance(MINUTE)
        await self.intake.ask()
        await self.settle()

    def says(self) -> Standing:
        """What the rules say of the service."""
        return self.rule_states.standing("shop", self.clock.now())

    @property
    def notices(self) -> list[facts.Notice]:
        return [one.fact for one in self.journal.records if isinstance(one.fact, facts.Notice)]


async def test_what_alertmanager_does_not_know_of_has_ended_though_it_never_named_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.hear(alert())
    assert desk.says() is Standing.BAD
    await desk.ask()
    assert desk.says() is Standing.GOOD


async def test_what_is_inhibited_goes_on_and_begins_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.hear(alert("a"))
    desk.alertmanager.says(inhibited=[alert("a"), alert("b")])
    await desk.ask()
    assert desk.says() is Standing.BAD
    assert len(desk.decision_engine.considered) == 1
    desk.alertmanager.says()
    await desk.ask()
    assert desk.says() is Standing.GOOD


async def test_an_empty_list_right_after_its_start_is_no_news(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.hear(alert())
    desk.alertmanager.says(whole=False)
    await desk.ask()
    assert desk.says() is Standing.BAD


async def test_what_came_during_the_ask_stays(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def firing(_now: Any) -> FiringAlerts:
        desk.clock.advance(MINUTE)
        await desk.intake.receive([alert()])
        return FiringAlerts()

    desk.alertmanager.firing = firing  # type: ignore[method-assign]
    await desk.ask()
    assert desk.says() is Standing.BAD


async def test_what_grafana_sent_itself_is_known_to_no_alertmanager(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.hear(alert(), elsewhere=True)
    await desk.ask()
    assert desk.says() is Standing.BAD
    await desk.restart()
    await desk.ask()
    assert desk.says() is Standing.BAD, "nor does a restart forget that"
    await desk.hear(alert(ended=3), elsewhere=True)
    assert desk.says() is Standing.GOOD


@pytest.mark.parametrize("first", [True, False])
async def test_a_late_word_of_what_was_resolved_begins_nothing(tmp_path: Path, first: bool) -> None:
    desk = Desk(tmp_path, asked=False)
    if first:
        await desk.hear(alert())
    await desk.hear(alert(ended=1))
    before = len(desk.decision_engine.considered)
    await desk.hear(alert())
    assert desk.says() is Standing.GOOD
    assert len(desk.decision_engine.considered) == before
    assert await desk.journal.unhandled() == [] or first
    await desk.hear(alert(since=2))
    assert desk.says() is Standing.BAD


async def test_the_same_episode_long_after_its_end_fires_again(tmp_path: Path) -> None:
    """Alertmanager took it for ended since Prometheus could not reach it."""
    desk = Desk(tmp_path, asked=False)
    await desk.hear(alert())
    await desk.hear(alert(ended=1))
    desk.clock.advance(10 * MINUTE)
    await desk.hear(alert())
    assert desk.says() is Standing.BAD


async def test_without_its_list_an_alert_that_is_not_repeated_keeps_nothing_from_becoming_good(tmp_path: Path) -> None:
    for asked, standing in ((False, Standing.INCONCLUSIVE), (True, Standing.BAD)):
        directory = tmp_path / str(asked)
        directory.mkdir()
        desk = Desk(directory, asked=asked)
        await desk.hear(alert())
        desk.clock.advance(timedelta(hours=4))
        assert desk.says() is Standing.BAD
        desk.clock.advance(timedelta(hours=2))
        assert desk.says() is standing


WORDS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "fires",
                "resolves",
                "ends unheard",
                "is inhibited",
                "is inhibited no more",
                "Alertmanager starts",
                "we start",
                "ask",
            ]
        ),
        st.sampled_from([*NAMES, GRAFANAS]),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(WORDS)
@example([("fires", GRAFANAS), ("we start", GRAFANAS)])
async def test_after_an_ask_that_is_whole_nothing_fires_but_what_alertmanager_knows_of(
    tmp_path_factory: pytest.TempPathFactory, words: list[tuple[str, str]]
) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    firing: dict[str, Alert] = {}
    inhibited: set[str] = set()
    for minute, (word, name) in enumerate(words):
        elsewhere = name == GRAFANAS
        if word == "fires" and name not in firing:
            firing[name] = alert(name, since=minute)
            if name not in inhibited:
                await desk.hear(firing[name], elsewhere=elsewhere)
        elif word == "resolves" and name in firing and name not in inhibited:
            begun = firing.pop(name)
            over = Alert(begun.fingerprint, begun.labels, {}, begun.starts_at, desk.clock.now())
            await desk.hear(over, elsewhere=elsewhere)
        elif word == "ends unheard" and not elsewhere:
            firing.pop(name, None)
        elif word == "is inhibited" and not elsewhere:
            inhibited.add(name)
        elif word == "is inhibited no more":
            inhibited.discard(name)
        elif word == "Alertmanager starts":
            desk.alertmanager.says(whole=False)
            await desk.ask()
        elif word == "we start":
            await desk.restart()
    its = {name: one for name, one in firing.items() if name != GRAFANAS}
    there = [one for name, one in its.items() if name not in inhibited]
    desk.alertmanager.says(*there, inhibited=[one for name, one in its.items() if name in inhibited])
    await desk.ask()
    known = {one.fingerprint for name, one in firing.items() if name not in inhibited}
    fires = {one.fingerprint for _, entry in desk.rule_states._alerts.items() for one, _ in entry.values()}
    assert known <= fires <= {one.fingerprint for one in firing.values()}


async def test_alertmanager_not_answering_is_told_once_and_when_it_is_over(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.alertmanager.down = "Alertmanager at http://ann:s3cret@am:9093: answered 502 to /api/v2/silences"
    for _ in range(4):
        await desk.ask()
    assert desk.notices == []
    for _ in range(20):
        await desk.ask()
    (told,) = desk.notices
    assert (told.kind, told.over) == ("backend_unreachable", False)
    assert "Alertmanager did not answer 5 times in a row" in told.text
    assert "s3cret" not in told.text
    desk.alertmanager.down = ""
    await desk.ask()
    assert [(one.kind, one.over, one.details) for one in desk.notices[1:]] == [
        ("backend_unreachable", True, told.details)
    ]
    await desk.ask()
    assert len(desk.notices) == 2


async def test_a_silence_that_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    silence = Silence("s1", (), START + timedelta(days=1), "ann", "calm", 'a: "(?=b)": invalid perl operator: (?=')
    desk.alertmanager.silenced = [silence]
    for _ in range(3):
        await desk.ask()
    (told,) = desk.notices
    assert told.kind == "silence_unread"
    assert "a silence by ann counts as matching more than it may mean" in told.text
    assert desk.intake.silences == (silence,)
