"""The layers of a service: asked all at once, each in its own words when it does not answer."""

import asyncio
import gc
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.adapter import Adapter, AdapterError, Needs
from rollbackd.execution import layers as module
from rollbackd.execution.absent import AbsentLayer
from rollbackd.execution.layers import GUESSED, LayerFactory, Layers, LookFailed, PlanRequest, resolve
from rollbackd.incident.spec import PlanSpec
from rollbackd.model import NO_RELEASE, Change, Problem, Release, State, Traits
from rollbackd.system.spawner import Spawner
from tests.unit.house import V1, V2, FakeLayer, House

LONG = Release("0123456789abcdef0123456789abcdef01234567", "v41")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def of(house: House) -> Layers:
    return house.factory.build(house.service)


def broken(house: House, layer: str, method: str, error: BaseException) -> None:
    async def raises(*_: Any) -> Any:
        raise error

    setattr(house.layers[layer], method, raises)


def meet(together: asyncio.Barrier, layer: FakeLayer, method: str) -> None:
    """Its first answer waits until all have been asked that wait at the barrier."""
    answer = getattr(layer, method)

    async def answers(*given: Any) -> Any:
        setattr(layer, method, answer)
        await together.wait()
        return await answer(*given)

    setattr(layer, method, answers)


# -- looking ------------------------------------------------------------------------------------
async def test_a_look_is_the_releases_of_all_layers_that_have_them(house: House) -> None:
    assert await of(house).look() == State({"config": V2, "code": V2})
    assert await of(house).there() == {"config": (V2, V1), "code": (V2, V1)}


class ToldLayer(FakeLayer):
    """One that was told a release, and that has another one when it is asked."""

    told = V1

    async def current(self) -> Release:
        self.calls.append("told")
        return self.told

    async def asked(self) -> Release:
        self.calls.append("asked")
        return self.present

    async def unwatched(self) -> Sequence[str]:
        return []


def told_layers(house: House) -> tuple[Layers, list[str], State]:
    """Layers of which one was told v1 and has v2; what is asked of it; the state that there is."""
    calls: list[str] = []
    there = of(house)
    layers = replace(there, adapters={**there.adapters, "code": ToldLayer("code", calls)})
    return layers, calls, State({"config": V2, "code": V2})


async def test_what_a_layer_was_told_is_no_answer_for_who_acts(house: House) -> None:
    layers, calls, there = told_layers(house)
    assert await layers.look() == there
    assert await layers.steady(there.key, house.clock) == there
    assert (await layers.releases("code"))[0] == V2
    assert set(calls) == {"asked"}


async def test_what_a_layer_was_told_can_only_say_that_nothing_has_changed(house: House) -> None:
    layers, calls, there = told_layers(house)
    told = await layers.look(told=True)
    assert told == State({"config": V2, "code": V1})
    calls.clear()
    assert await layers.steady(told.key, house.clock, told=True) == told
    assert calls == ["told"]
    calls.clear()
    assert await layers.steady(there.key, house.clock, told=True) == there
    assert calls == ["told", "asked"], "a watch that is behind makes no change of what is known already"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AdapterError("no such repository", permanent=True), "code: no such repository"),
        (TimeoutError(), "code: no answer within 60 s"),
        (KeyError("x"), "code: its adapter failed: KeyError: 'x'"),
    ],
)
async def test_one_layer_that_does_not_answer_makes_it_no_look(house: House, error: Exception, said: str) -> None:
    broken(house, "code", "current", error)
    broken(house, "code", "releases", error)
    for question in (of(house).look(), of(house).there()):
        with pytest.raises(LookFailed) as caught:
            await question
        assert str(caught.value) == said


async def test_a_layer_that_hangs_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs() -> Release:
        await asyncio.Event().wait()
        return V1

    setattr(house.layers["code"], "current", hangs)  # noqa: B010
    monkeypatch.setattr(module, "ASKING", module.ASKING / 1000)
    with pytest.raises(LookFailed, match=r"code: no answer within"):
        await of(house).look()


async def test_before_it_moves_a_layer_may_look_for_as_long_as_its_own_timeout(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASKING", timedelta(milliseconds=20))
    own = SimpleNamespace(timeout=timedelta(seconds=20))
    service = cast("Any", SimpleNamespace(layers={"code": own, "config": SimpleNamespace()}))
    layers = replace(of(house), service=service)
    late = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, late.set)

    async def ready() -> tuple[Problem, ...]:
        await late.wait()
        return ()

    for layer in ("code", "config"):
        setattr(house.layers[layer], "ready", ready)  # noqa: B010
    (problem,) = await layers.ready(["code", "config"])
    assert (problem.layer, problem.text) == ("config", "no answer within 0 s")


async def test_what_a_layer_quotes_is_told_without_secrets(house: House) -> None:
    layers = replace(of(house), clean=Spawner(secrets=["hush-hush"]).clean)
    house.layers["page"].problems = ("it answered hush-hush",)
    assert [one.text for one in await layers.ready(["page"])] == ["it answered [secret]"]
    for error in (AdapterError("it answered hush-hush", permanent=False), KeyError("hush-hush")):
        broken(house, "code", "current", error)
        with pytest.raises(LookFailed, match=r"\[secret\]"):
            await layers.look()


async def test_who_cancels_a_look_is_heard(house: House) -> None:
    broken(house, "code", "current", asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await of(house).look()


@pytest.mark.parametrize(
    "look",
    [
        lambda layers: layers.look(),
        lambda layers: layers.there(),
        lambda layers: layers.releases("code"),
        lambda layers: layers.ready(),
    ],
)
@pytest.mark.filterwarnings("error")
async def test_a_look_that_is_cancelled_before_it_begins_asked_nothing(
    house: House, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that nobody awaits would be a warning of the interpreter, in a log that is JSON."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    for turns in range(6):
        task = asyncio.ensure_future(look(of(house)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    gc.collect()
    assert unraisable == []


# -- readiness and plans ------------------------------------------------------------------------
async def test_problems_are_those_of_the_layers_that_are_named_or_of_all(house: House) -> None:
    house.layers["code"].problems = ("dirty",)
    broken(house, "page", "ready", AdapterError("no nginx", permanent=False))
    assert {(one.layer, one.text) for one in await of(house).ready()} == {("code", "dirty"), ("page", "no nginx")}
    assert await of(house).ready(["config"]) == ()


async def test_a_plan_has_a_step_for_each_layer_that_differs(house: House) -> None:
    present, target = State({"config": V2, "code": V2}), State({"config": V2, "code": V1})
    plan = await of(house).plan("default", PlanRequest(present, target, "shop-1/0"))
    assert [(step.layer, step.before, step.after, step.key) for step in plan.steps] == [
        ("code", V2, V1, "shop-1/0/code")
    ]
    assert [bracket.layer for bracket in plan.brackets] == ["page"]
    assert (await of(house).plan("default", PlanRequest(present, present))).steps == ()


# -- code that goes back alone --------------------------------------------------------------------
class FakeSchema(FakeLayer):
    """A schema of the database `db`, with migrations in /srv/shop."""

    rests_on = (Path("/srv/shop/alembic.ini"),)
    part_of = "db"
    missed: tuple[str, ...] = ("column orders.note is gone",)

    def misfit(self) -> str:
        return ""

    async def unfit(self, release: Release) -> Sequence[str]:
        assert release == V1
        return self.missed


@pytest.mark.parametrize(
    ("moves", "missed", "to", "told"),
    [
        ("/srv/shop", FakeSchema.missed, V1, True),
        ("/srv/shop", (), V1, False),
        ("/srv/shop", FakeSchema.missed, V2, False),
        ("/srv/shop/alembic.ini", FakeSchema.missed, V1, True),
        ("/srv/shop/docs", FakeSchema.missed, V1, False),
        ("/srv/shopping", FakeSchema.missed, V1, False),
    ],
)
async def test_code_that_goes_back_alone_is_irreversible_where_it_would_miss_something(
    house: House, moves: str, missed: tuple[str, ...], to: Release, told: bool
) -> None:
    schema = FakeSchema("schema", house.calls)
    schema.missed = missed
    house.layers |= {"schema": schema}
    house.layers["code"].needs = Needs(moves=(Path(moves),))
    present = State({"config": V2, "code": V2, "schema": V2})
    plan = await of(house).plan("default", PlanRequest(present, State({"config": V1, "code": V1, "schema": to})))
    config, code = plan.steps
    assert (config.layer, config.reversible, config.risks) == ("config", True, ())
    assert code.reversible is not told
    assert code.risks == (("schema does not go back with it: column orders.note is gone",) if told else ())


async def test_what_another_layer_takes_along_has_no_step_of_its_own(house: House) -> None:
    schema = house.layers["schema"] = FakeSchema("schema", house.calls)
    schema.part_of = "config"
    house.service.plans["default"] = PlanSpec(steps=("schema", "config", "code"))
    present, target = (State(dict.fromkeys(("config", "code", "schema"), release)) for release in (V2, V1))
    plan = await of(house).plan("default", PlanRequest(present, target))
    assert [(step.layer, step.risks) for step in plan.steps] == [
        ("config", ("schema comes back with it, at the release that the copy has",)),
        ("code", ()),
    ]
    schema.present = V1
    assert await of(house).brought("config", present) == {"schema": V1}
    assert await of(house).brought("config", target) == {}
    assert await of(house).brought("code", present) == {}


class NamingSchema(FakeSchema):
    """One that the code's releases name."""

    named_in = Path("/srv/shop/REVISION")

    def named(self, text: str) -> Release:
        if text != V1.id:
            raise AdapterError(f"{text!r} is no revision", permanent=True)
        return V1


@pytest.mark.parametrize(
    ("text", "to", "risk"),
    [
        (V1.id, V2, "column orders.note is gone"),  # a good state had the present one, and the release says otherwise
        (V1.id, V1, "column orders.note is gone"),
        ("", V1, "column orders.note is gone"),
        ("", V2, ""),
        ("r%", V2, "REVISION: 'r%' is no revision"),
    ],
)
async def test_a_release_that_names_what_it_was_written_for_is_believed(
    house: House, text: str, to: Release, risk: str
) -> None:
    read: list[Path] = []

    async def reads(release: Release, path: Path) -> str:
        assert release == V1
        read.append(path)
        return text

    house.layers |= {"schema": NamingSchema("schema", house.calls)}
    code: Any = house.layers["code"]
    code.read, code.needs = reads, Needs(moves=(Path("/srv/shop"),))
    present = State({"config": V2, "code": V2, "schema": V2})
    plan = await of(house).plan("default", PlanRequest(present, State({"config": V2, "code": V1, "schema": to})))
    (step,) = plan.steps
    assert step.reversible is not bool(risk)
    assert step.risks == ((f"schema does not go back with it: {risk}",) if risk else ())
    assert read == [NamingSchema.named_in]


@pytest.mark.parametrize("also", ["schema", "db"])
async def test_code_that_goes_back_with_its_schema_misses_nothing(house: House, also: str) -> None:
    house.layers |= {"schema": FakeSchema("schema", house.calls), "db": FakeLayer("db", house.calls)}
    house.layers["code"].needs = Needs(moves=(Path("/srv/shop"),))
    known = {**house.service.layers, also: house.service.layers["code"]}
    plans = {"both": PlanSpec(steps=(also, "code"))}
    house.service = house.service.model_copy(update={"plans": plans, "layers": known})
    old, new = (dict.fromkeys(("code", "schema", "db"), release) for release in (V1, V2))
    plan = await of(house).plan("both", PlanRequest(State(new), State(old)))
    assert [(step.layer, step.reversible) for step in plan.steps] == [(also, True), ("code", True)]


class CarriedSchema(FakeSchema):
    """One whose release the copies of its database are known to have."""

    async def carried_by(self, release: Release) -> Release | None:
        return {V1: V2, V2: V1}.get(release)


_ALONG = "schema comes back with it, at the release that the copy has"
_OTHER = f"schema comes back with it as {V2.name}, and the state that it is to serve has {V1.name}"


@pytest.mark.parametrize(
    ("schema", "db", "wanted", "risks"),
    [
        (CarriedSchema, V1, V1, (_OTHER,)),
        (CarriedSchema, V1, V2, ()),
        (CarriedSchema, Release("nobody knows"), V1, (_ALONG,)),
        (CarriedSchema, V1, None, (_ALONG,)),
        (FakeSchema, V1, V1, (_ALONG,)),
    ],
)
async def test_a_plan_tells_where_a_copy_brings_another_schema_than_its_state_had(
    house: House, schema: type[FakeSchema], db: Release, wanted: Release | None, risks: tuple[str, ...]
) -> None:
    house.layers |= {"schema": schema("schema", house.calls), "db": FakeLayer("db", house.calls)}
    known = {**house.service.layers, "db": house.service.layers["code"]}
    plans = {"data": PlanSpec(steps=("db", "code"))}
    house.service = house.service.model_copy(update={"plans": plans, "layers": known})
    target = {"db": db, "code": V1} | ({"schema": wanted} if wanted else {})
    plan = await of(house).plan("data", PlanRequest(State(dict.fromkeys(("code", "schema", "db"), V2)), State(target)))
    assert [(step.layer, step.reversible, step.risks) for step in plan.steps] == [
        ("db", True, risks),
        ("code", True, ()),
    ]


async def test_what_a_copy_brings_is_no_reason_to_have_no_plan(house: House) -> None:
    house.layers |= {"schema": CarriedSchema("schema", house.calls), "db": FakeLayer("db", house.calls)}
    broken(house, "schema", "carried_by", AdapterError("the server is down", permanent=False))
    known = {**house.service.layers, "db": house.service.layers["code"]}
    plans = {"data": PlanSpec(steps=("db",))}
    house.service = house.service.model_copy(update={"plans": plans, "layers": known})
    old, new = (State(dict.fromkeys(("schema", "db"), release)) for release in (V1, V2))
    (step,) = (await of(house).plan("data", PlanRequest(new, old))).steps
    assert step.risks == (_ALONG,)


async def test_all_layers_plan_their_steps_at_once(house: House) -> None:
    together = asyncio.Barrier(2)
    for name in ("config", "code"):
        layer = house.layers[name]
        meet(together, layer, "plan")
    async with asyncio.timeout(5):
        plan = await of(house).plan("default", PlanRequest(house.state, State({"config": V1, "code": V1})))
    assert [step.layer for step in plan.steps] == ["config", "code"]


async def test_a_layer_without_releases_moves_when_something_before_it_did(house: House) -> None:
    house.layers["code"].traits = Traits(releases=False)
    both = State({"config": V2}), State({"config": V1})
    plan = await of(house).plan("default", PlanRequest(*both))
    assert [(step.layer, step.after) for step in plan.steps] == [("config", V1), ("code", NO_RELEASE)]


async def test_a_step_of_a_fixed_release_is_resolved_among_what_is_there(house: House) -> None:
    present = State({"config": V2, "code": V2})
    for text, after in (("v1", V1), ("v9", None)):
        plans = {**house.service.plans, "fixed": PlanSpec.model_validate([{"code": text}])}
        layers = Layers(house.service.model_copy(update={"plans": plans}), cast("dict[str, Adapter]", house.layers))
        if after is None:
            with pytest.raises(LookFailed, match='code: no release "v9"; the newest are: v2, v1'):
                await layers.plan("fixed", PlanRequest(present, present))
        else:
            assert [step.after for step in (await layers.plan("fixed", PlanRequest(present, present))).steps] == [after]


@pytest.mark.parametrize("method", ["current", "releases", "plan", "ready"])
@pytest.mark.parametrize("error", [AdapterError("odd", permanent=True), OverflowError("odd")])
async def test_ready_asks_all_that_a_rollback_will_ask(house: House, method: str, error: Exception) -> None:
    assert await of(house).ready() == ()
    broken(house, "code", method, error)
    (problem,) = await of(house).ready()
    assert problem.layer == "code"
    assert "odd" in problem.text
    assert not house.layers["code"].calls, "nothing was touched"


async def test_one_release_that_cannot_be_gone_to_makes_nothing_unready(house: House) -> None:
    code = house.layers["code"]
    code.known = (Release("v4"), Release("v3"), V2, V1)
    asked: list[str] = []

    async def plan(target: Release) -> Change:
        asked.append(target.id)
        if target.id != "v3":
            raise AdapterError(f"{target.id} is damaged", permanent=True)
        return Change("code", V2, target)

    code.plan = plan  # type: ignore[method-assign]
    assert await of(house).ready(["code"]) == ()
    assert asked == ["v4", "v3"]
    code.known = (Release("v4"), V2, V1)
    assert [problem.text for problem in await of(house).ready(["code"])] == ["v4 is damaged"]


async def test_a_layer_without_releases_plans_its_step_to_be_ready(house: House) -> None:
    house.layers["code"].traits = Traits(releases=False)
    broken(house, "code", "plan", AdapterError("odd", permanent=True))
    assert [problem.text for problem in await of(house).ready(["code", "page"])] == ["odd"]


async def test_a_layer_that_cannot_plan_its_step_says_why(house: House) -> None:
    broken(house, "code", "plan", AdapterError("v1 is gone", permanent=True))
    with pytest.raises(LookFailed, match="code: v1 is gone"):
        await of(house).plan("default", PlanRequest(State({"code": V2}), State({"code": V1})))


# -- names that people use ----------------------------------------------------------------------
async def test_a_plan_says_which_rules_ask_what_it_switches_off_and_its_return_none(house: House) -> None:
    spec = {"steps": [{"code": "v1"}], "verify": {"skip_rules": "search", "checks": ["health"]}}
    service = house.service.model_copy(update={"plans": {"degrade": PlanSpec.model_validate(spec)}})
    layers, target = house.factory.build(service), State({"config": V2, "code": V2})
    assert (await layers.plan("degrade", PlanRequest(house.state, target))).unasked == ("search",)
    assert (await layers.plan("degrade", PlanRequest(house.state, target, returns=True))).unasked == ()


@pytest.mark.parametrize("text", [LONG.id, "v41", "0123456", "0123456789abcdef"])
def test_a_release_is_found_by_id_label_or_prefix(text: str) -> None:
    assert resolve("code", text, [Release("f" * 40, "v40"), LONG]) is LONG


def test_a_whole_name_wins_over_a_prefix() -> None:
    short = Release("v4")
    assert resolve("code", "v4", [Release("v41"), short]) is short


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v9", 'code: no release "v9"; the newest are: v41 (0123456789ab), v40 (0123fffff), v39 (0123fff00)'),
        ("", 'code: no release ""; the newest are:'),
        ("0123fff", 'code: "0123fff" fits 2 releases; give more of the id'),
        ("0123ff", 'code: no release "0123ff"; the newest are: v41'),
    ],
)
def test_a_name_that_fits_none_or_two_says_so(text: str, said: str) -> None:
    with pytest.raises(LookFailed) as caught:
        resolve("code", text, [LONG, Release("0123fffff", "v40"), Release("0123fff00", "v39")])
    assert said in str(caught.value)


_TEXTS = st.text("0123456789abcdefv.-", max_size=12)
_RELEASES = st.lists(st.builds(Release, id=_TEXTS.filter(bool), label=_TEXTS, names=st.tuples(_TEXTS)), max_size=8)


@given(releases=_RELEASES, text=_TEXTS, cut=st.integers(0, 12))
def test_nothing_is_guessed_for_a_configuration_and_little_for_people(
    releases: list[Release], text: str, cut: int
) -> None:
    for asked in (text, *(release.id[:cut] for release in releases)):
        for whole in (True, False):
            with suppress(LookFailed):
                found = resolve("code", asked, releases, whole=whole)
                called = [release for release in releases if release.is_called(asked)]
                assert found in called or (not whole and len(asked) >= GUESSED and not called)


async def test_a_step_of_a_fixed_release_asks_that_layer_alone_and_guesses_nothing(house: House) -> None:
    broken(house, "config", "releases", AdapterError("down", permanent=False))
    gone = PlanSpec.model_validate([{"code": "v"}])
    there = PlanSpec.model_validate([{"code": "v1"}])
    plans = {**house.service.plans, "gone": gone, "there": there}
    layers = Layers(house.service.model_copy(update={"plans": plans}), cast("dict[str, Adapter]", house.layers))
    way = PlanRequest(house.state, house.state)
    assert [step.after for step in (await layers.plan("there", way)).steps] == [V1]
    assert await layers.unfound() == ('plan gone of shop cannot be run: code: no release "v"; the newest are: v2, v1',)


def test_without_releases_it_says_none() -> None:
    with pytest.raises(LookFailed, match='no release "v1"; the newest are: none'):
        resolve("code", "v1", [])


def test_the_factory_builds_what_the_configuration_names(house: House, tmp_path: Path) -> None:
    spawner = Spawner(tmp_path / "locks", house.clock)
    built = LayerFactory(tmp_path / "scratch", spawner, house.clock).build(house.service)
    assert list(built.adapters) == ["page", "config", "code"]
    assert built.traits["page"] == Traits(releases=False, step=False, bracket=True)
    assert built.traits["code"].step


async def test_what_is_on_another_host_is_neither_looked_at_nor_moved(house: House, tmp_path: Path) -> None:
    spawner = Spawner(tmp_path / "locks", house.clock)
    service = house.service.model_copy(update={"on": "ops-1"})
    here = LayerFactory(tmp_path / "scratch", spawner, house.clock, host="ops-1").build(service)
    assert not any(isinstance(layer, AbsentLayer) for layer in here.adapters.values())
    alone = LayerFactory(tmp_path / "scratch", spawner, house.clock).build(service)
    assert not any(isinstance(layer, AbsentLayer) for layer in alone.adapters.values())
    layers = LayerFactory(tmp_path / "scratch", spawner, house.clock, host="ops-2").build(service)
    assert layers.traits == here.traits
    why = "shop is on ops-1, and this is ops-2: it cannot be rolled back from here"
    with pytest.raises(LookFailed, match=why):
        await layers.look()
    code, change = layers.adapters["code"], Change("code", Release("v2"), Release("v1"))
    assert isinstance(code, AbsentLayer)
    calls = (
        code.current(), code.releases(), code.plan(Release("v1")), code.apply(change), code.progress(change),
        code.ready(), code.inside("k"), code.enter("k"), code.leave("k"),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(AdapterError, match=why) as refused:
            await call
        assert refused.value.permanent
