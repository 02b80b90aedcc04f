"""What is asked of everything that a configuration names: each planted fault is found, and nothing else is."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd.adapter import AdapterError, DeliveryError, Message, NotifierSettings
from rollbackd.config.models import Config
from rollbackd.journal import Journal
from rollbackd.model import Release
from rollbackd.signals.alertmanager_routes import routing_of
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates
from rollbackd.trials.live_check import LiveCheck
from rollbackd.trials.receiver_trial import ReceiverTrials
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.unit.house import FakeFactory, FakeLayer, FakePrometheus, configured

SHARE, COUNT = "errors / requests", "sum(requests)"
RULE = {
    "name": "errors",
    "when": {"query": SHARE, "above": "10%", "for": "1m", "samples": {"query": COUNT, "at_least": 50}},
}
SHOP = {"service": "shop"}


@dataclass
class FakeNotifier:
    """A receiver that keeps what it was sent; `refuses` are the numbers of messages that it does not take."""

    keeps_open: bool = False
    refuses: tuple[int, ...] = ()
    sent: list[Message] = field(default_factory=list)
    said: str = ""
    settings_model: ClassVar[type[NotifierSettings]] = NotifierSettings

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) in self.refuses:
            raise DeliveryError("answered 404: no such room", permanent=False)
        self.said = "200 ok"


def trials(notifier: FakeNotifier, journal: MemoryJournal | None = None) -> ReceiverTrials:
    return ReceiverTrials(Config(), {"room": cast("Any", notifier)}, ManualClock(), cast("Journal | None", journal))


async def probes(tmp_path: Path, prometheus: FakePrometheus, layers: Mapping[str, FakeLayer] | None = None) -> Any:
    config = configured(tmp_path, [RULE], prometheus={"url": "http://127.0.0.1:1"})
    made = FakeFactory(layers or {}).build(config.services[0])
    rule_states = RuleStates(config)
    asking = cast("Prometheus", prometheus)
    check = LiveCheck(
        config, asking, None, {"shop": made}, trials(FakeNotifier()), rule_states, ManualClock(), "the daemon"
    )
    return await check.run(messages=True, actor="unix:ann")


@pytest.mark.parametrize(
    ("values", "problem", "result", "text"),
    [
        ([(SHOP, 0.02)], "", "ok", "shop: 1"),
        ([(SHOP, 1.0)], "", "ok", "shop: 1"),
        ([(SHOP, 2.5)], "", "wrong", "a share above 1: 2.5"),
        ([(SHOP, float("nan"))], "", "ok", "shop: 1"),
        ([], "", "wrong", "no series"),
        ([({"service": "shp"}, 0.1)], "", "wrong", "none is of a service"),
        ([], "bad_data: parse error", "wrong", "parse error"),
    ],
)
async def test_a_query_is_judged_by_what_it_answers(
    tmp_path: Path, values: Any, problem: str, result: str, text: str
) -> None:
    prometheus = FakePrometheus()
    prometheus.values = {SHARE: values, COUNT: [(SHOP, 1000.0)]}
    prometheus.problem = {SHARE: problem} if problem else {}
    found = await probes(tmp_path, prometheus)
    asked, samples, *_ = found.probes
    assert (asked.name, asked.result) == ("rule errors", result)
    assert text in asked.text
    assert (samples.name, samples.result) == ("rule errors, samples", "ok"), "a count is no share"
    assert found.fine is (result == "ok")


async def test_layers_and_receivers_are_told_one_by_one(tmp_path: Path) -> None:
    prometheus = FakePrometheus()
    prometheus.values = {SHARE: [(SHOP, 0.1)], COUNT: [(SHOP, 1000.0)]}
    closed = tmp_path / "nowhere" / "repo"
    calls: list[str] = []
    layers = {"code": FakeLayer("code", calls, problems=("no repository",)), "config": FakeLayer("config", calls)}
    layers["config"].resource = f"files:{closed}"
    found = await probes(tmp_path, prometheus, layers)
    told = {(one.part, one.name): (one.result, one.text) for one in found.probes}
    assert told["layer", "shop/code"] == ("wrong", "no repository")
    assert told["layer", "shop/config"] == ("ok", "answers, and can plan a way")
    assert told["receiver", "room"][0] == "ok"
    assert calls == [], "nothing is touched"


class UnwatchedLayer(FakeLayer):
    """One that could be told of changes, if somebody let it."""

    async def asked(self) -> Release:
        return await self.current()

    async def unwatched(self) -> Sequence[str]:
        if self.said:
            raise AdapterError(str(self.said), permanent=False)
        return ["no right to watch"]


@pytest.mark.parametrize(("said", "notes"), [("", ["no right to watch"]), ("no answer", [])])
async def test_what_keeps_a_layer_from_being_told_is_a_note(tmp_path: Path, said: str, notes: list[str]) -> None:
    prometheus = FakePrometheus()
    prometheus.values = {SHARE: [(SHOP, 0.1)], COUNT: [(SHOP, 1000.0)]}
    sick = UnwatchedLayer("config", [], problems=("no repository",))
    found = await probes(tmp_path, prometheus, {"code": UnwatchedLayer("code", [], said=said), "config": sick})
    told = [(one.name, one.result, one.text) for one in found.probes if one.part == "layer"]
    assert ("shop/code", "ok", "answers, and can plan a way") in told
    assert [text for name, result, text in told if (name, result) == ("shop/code", "note")] == notes
    assert [text for name, _, text in told if name == "shop/config"] == ["no repository"], "it has other sorrows"


async def test_a_receiver_that_keeps_troubles_open_has_the_test_closed() -> None:
    journal, notifier = MemoryJournal(ManualClock()), FakeNotifier(keeps_open=True)
    said = await trials(notifier, journal).send("room", "unix:ann")
    assert (said.taken, said.text) == (True, "opened: 200 ok; resolved: 200 ok")
    first, second = notifier.sent
    assert (first.thread, first.resolves, first.severity) == (second.thread, False, "info")
    assert second.resolves
    assert first.source == second.source == Config().daemon.called, "no other daemon's key"
    assert first.title.startswith("TEST: ")
    assert await journal.waiting() == [], "the outbox need not close it"


async def test_killed_between_opening_and_closing_the_outbox_closes_it() -> None:
    journal = MemoryJournal(ManualClock())

    class Killed(BaseException):
        pass

    class Dies(FakeNotifier):
        async def send(self, message: Message) -> None:
            await super().send(message)
            raise Killed

    with pytest.raises(Killed):
        await trials(Dies(keeps_open=True), journal).send("room")
    (left,) = await journal.waiting()
    assert left.key.endswith("/over")


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_refusal_is_no_success(refused: int) -> None:
    journal, notifier = MemoryJournal(ManualClock()), FakeNotifier(keeps_open=True, refuses=(refused,))
    said = await trials(notifier, journal).send("room")
    assert (said.taken, said.text.split("; ")[-1]) == (False, "answered 404: no such room")
    assert len(notifier.sent) == refused
    assert len(await journal.waiting()) == 1, "what may be open is closed later"


# -- routes -------------------------------------------------------------------------------------
def routing(*routes: Mapping[str, Any], url: str = "http://ops-1:9099/api/v1/alerts", **hook: Any) -> Any:
    receivers = [{"name": "people"}, {"name": "us", "webhook_configs": [{"url": url, **hook}]}]
    return routing_of(json.dumps({"route": {"receiver": "people", "routes": list(routes)}, "receivers": receivers}))


def test_the_first_route_that_takes_an_alert_ends_it_unless_it_goes_on() -> None:
    shop, critical = {"service": "shop"}, {"service": "shop", "severity": "critical"}
    first = {"matchers": ['severity="critical"'], "receiver": "people"}
    ours = {"match": {"service": "shop"}, "receiver": "us"}
    assert routing(first, ours).receivers(shop) == {"us"}
    assert routing(first, ours).receivers(critical) == {"people"}
    assert routing({**first, "continue": True}, ours).receivers(critical) == {"people", "us"}
    assert routing(ours).receivers({"service": "desk"}) == {"people"}
    nested = {"match_re": {"service": "sh.*"}, "receiver": "us", "routes": [first]}
    assert routing(nested).receivers(critical) == {"people"}
    assert routing(nested).receivers(shop) == {"us"}


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://ops-1:9099/api/v1/alerts", True),
        ("https://ops.example/rollbackd/api/v1/alerts/", True),
        ("http://ops-1:9100/api/v1/alerts", False),
        ("http://ops-1:9099/hook", False),
        ("http://[::1/api/v1/alerts", False),
    ],
)
def test_our_webhook_is_known_by_its_path_and_port(url: str, ours: bool) -> None:
    assert bool(routing(url=url).posting_to("127.0.0.1:9099")) is ours


def test_what_is_hidden_is_said_and_ends_must_be_sent() -> None:
    assert routing(url="<secret>").hidden == {"us"}
    assert routing(send_resolved=False).ends_unsent == {"us"}
    assert routing().ends_unsent == frozenset()


@settings(max_examples=60)
@given(st.text(max_size=200) | st.recursive(st.none() | st.text(max_size=5), lambda one: st.lists(one) | st.dictionaries(
    st.sampled_from(["route", "receivers", "name", "routes", "matchers", "webhook_configs"]), one)).map(json.dumps))  # fmt: skip
def test_whatever_a_server_says_is_a_routing_or_a_sentence(text: str) -> None:
    with suppress(ValueError):
        assert routing_of(text).receivers({"service": "shop"})
