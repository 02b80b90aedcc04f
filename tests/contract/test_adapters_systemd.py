"""Units of systemd: the contract on a real process 1, and what the contract does not ask."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import NO_RELEASE, Progress
from rollbackd.system import boundary
from rollbackd.testing import (
    KEY,
    BracketContract,
    BracketWorld,
    StepContract,
    World,
    finish,
    kill,
    perform,
    place,
    planned,
)
from rollbackd_adapters.systemd import SystemdAdapter, SystemdSettings
from tests.contract.systemd_worlds import TEMPLATE, Instance, StoppedWorld, UnitsWorld, reached
from tests.contract.worlds import script
from tests.e2e.debian import PROGRAMS, Machine, wait_for

pytestmark = [
    pytest.mark.needs(*PROGRAMS),
    pytest.mark.timeout(600),  # the first test makes the Debian
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with reached(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


class OnTheMachine:
    @pytest.fixture(autouse=True)
    def _on(self, machine: Machine) -> None:
        self.machine = machine


class TestRestart(OnTheMachine, StepContract):
    def make_world(self, path: Path) -> World:
        return UnitsWorld(self.machine, path)


class TestReload(OnTheMachine, StepContract):
    def make_world(self, path: Path) -> World:
        return UnitsWorld(self.machine, path, "reload")


class TestStopped(OnTheMachine, BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return StoppedWorld(self.machine, path)


# -- a step -------------------------------------------------------------------------------------
def layer(path: Path, *units: Instance | str, **settings: Any) -> SystemdAdapter:
    names = [unit if isinstance(unit, str) else unit.name for unit in units]
    model = SystemdSettings.model_validate({"adapter": "systemd", "units": names, "settle": "50ms", **settings})
    return SystemdAdapter(model, place(path))


def instances(machine: Machine, number: int, template: str = "world") -> list[Instance]:
    made = [Instance(machine, template) for _ in range(number)]
    for unit in made:
        unit.start()
    return made


def fails(adapter: SystemdAdapter, match: str) -> AdapterError:
    change = finish(planned(adapter, NO_RELEASE))
    with pytest.raises(AdapterError, match=match) as failed:
        finish(adapter.apply(change))
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    return failed.value


def test_units_are_restarted_in_order_and_a_retry_goes_on_with_the_one_that_failed(
    machine: Machine, tmp_path: Path
) -> None:
    first, second, third = instances(machine, 3)
    second.say("fails")
    adapter = layer(tmp_path, first, second, third)
    change = finish(planned(adapter, NO_RELEASE))
    with pytest.raises(AdapterError, match=rf"systemctl restart {second.name}: exit 1: Job for {second.name} failed"):
        finish(adapter.apply(change))
    assert [unit.logged("start") for unit in (first, second, third)] == [2, 2, 1]
    second.unsay("fails")
    finish(layer(tmp_path, first, second, third).apply(change))
    assert [unit.logged("start") for unit in (first, second, third)] == [2, 3, 2]
    entered = [int(unit.property("ActiveEnterTimestampMonotonic")) for unit in (first, second, third)]
    assert entered == sorted(entered)


@pytest.mark.parametrize("late", [False, True], ids=["it is up again", "it still starts"])
def test_what_systemd_goes_on_with_when_all_of_ours_is_killed_is_not_asked_for_twice(
    machine: Machine, tmp_path: Path, late: bool
) -> None:
    world = UnitsWorld(machine, tmp_path)
    change = finish(planned(world.adapter(), NO_RELEASE))
    world.unit.say("waits")
    life = os.fork()
    if life == 0:
        with suppress(BaseException):  # pytest must not run on in here
            finish(world.adapter().apply(change))
        os._exit(0)
    wait_for(lambda: world.finished() == 1, "systemd has begun")
    kill(life, descending=True)
    os.waitpid(life, 0)
    wait_for(
        lambda: finish(world.adapter().progress(change)) is Progress.NOT_STARTED, "the last that was killed is gone"
    )
    looks = count(1)

    def hook(name: str) -> None:
        if name == "process.before" and next(looks) == 4:
            world.unit.unsay("waits")

    if late:
        boundary.hook = hook
    else:
        world.unit.unsay("waits")
        wait_for(world.unit.is_active, "it is up")
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.finished() == 1


def test_what_the_unit_wrote_last_is_the_evidence_without_its_secrets(machine: Machine, tmp_path: Path) -> None:
    (unit,) = instances(machine, 1)
    unit.say("says", "cannot read its database, password=hunter2\n")
    unit.say("fails")
    error = fails(layer(tmp_path, unit), "systemctl restart")
    assert not error.permanent
    assert "cannot read its database, password=[secret]" in error.evidence


def test_what_crashed_too_often_to_be_started_is_started_all_the_same(machine: Machine, tmp_path: Path) -> None:
    unit = Instance(machine, "loops")
    unit.say("fails")
    unit.start()
    wait_for(lambda: unit.property("ActiveState") == "failed", "systemd gave up")
    unit.unsay("fails")
    finish(layer(tmp_path, unit).apply(finish(planned(layer(tmp_path, unit), NO_RELEASE))))
    assert unit.is_active()


def test_a_unit_that_flaps_has_failed(machine: Machine, tmp_path: Path) -> None:
    (unit,) = instances(machine, 1, "loops")
    unit.say("ends")
    fails(
        layer(tmp_path, unit, settle="1s"),
        rf"{unit.name} is .*(auto-restart|did not stay up|start-limit-hit|exit-code)",
    )


def test_one_whose_start_outlasts_the_limit_is_waited_for_by_the_next_attempt(machine: Machine, tmp_path: Path) -> None:
    (unit,) = instances(machine, 1)
    unit.say("waits")
    change = finish(planned(layer(tmp_path, unit), NO_RELEASE))
    with pytest.raises(AdapterError, match=r"took longer than its limit, 300ms") as failed:
        finish(layer(tmp_path, unit, timeout="300ms").apply(change))
    assert not failed.value.permanent
    unit.unsay("waits")
    finish(layer(tmp_path, unit).apply(change))
    assert unit.is_active()
    assert unit.logged("start") == 2, "once before and once for the change"


def test_one_that_systemd_skips_for_its_conditions_was_not_restarted(machine: Machine, tmp_path: Path) -> None:
    unit = Instance(machine, "skipped")
    assert "unmet condition" in fails(layer(tmp_path, unit), f"{unit.name} is inactive").evidence
    assert unit.logged("start") == 0


def test_one_that_runs_to_its_end_and_is_skipped_was_not_restarted(machine: Machine, tmp_path: Path) -> None:
    settings = {"adapter": "systemd", "units": ["unless.service"], "settle": "0s"}
    machine.run("systemctl", "start", "wants-unless.target")  # what nothing wants is unloaded at once, and forgotten
    for n, skipped in enumerate((False, True, False)):
        adapter = SystemdAdapter(SystemdSettings.model_validate(settings), place(tmp_path / f"{n}"))
        change = finish(planned(adapter, NO_RELEASE, KEY))
        if skipped:
            machine.write("/run/worlds/unless", "")
            with pytest.raises(AdapterError, match=r"unless.service is inactive .*, skipped: it has a condition that"):
                finish(adapter.apply(change))
            assert finish(adapter.progress(change)) is Progress.NOT_STARTED
            machine.run("rm", "/run/worlds/unless")
        finish(adapter.apply(change))
        assert finish(adapter.progress(change)) is Progress.DONE


@pytest.mark.parametrize("template", ["once", "stays"])
def test_what_only_runs_to_its_end_has_to_end_well(machine: Machine, tmp_path: Path, template: str) -> None:
    unit = Instance(machine, template)
    unit.say("good")
    unit.start()
    adapter = layer(tmp_path, unit)
    finish(adapter.apply(finish(planned(adapter, NO_RELEASE))))
    assert unit.logged("start") == 2
    unit.say("fails")
    other = layer(tmp_path / "other", unit)
    fails(other, "exit 1")


def test_a_reload_that_the_unit_refuses_is_a_failure(machine: Machine, tmp_path: Path) -> None:
    (unit,) = instances(machine, 1)
    unit.say("fails")
    fails(layer(tmp_path, unit, action="reload"), rf"systemctl reload {unit.name}: exit 1")
    assert unit.is_active()


def test_what_cannot_reload_is_restarted_where_that_is_allowed(machine: Machine, tmp_path: Path) -> None:
    can, cannot = instances(machine, 1)[0], instances(machine, 1, "loops")[0]
    adapter = layer(tmp_path, can, cannot, action="reload-or-restart")
    finish(adapter.apply(finish(planned(adapter, NO_RELEASE))))
    assert [can.logged("start"), can.logged("reload"), cannot.logged("start")] == [1, 1, 2]
    assert "cannot be reloaded; give it ExecReload=" in finish(layer(tmp_path, cannot, action="reload").ready())[0].text


def test_what_systemd_does_not_have_or_may_not_start_is_said_before_anything_is_asked(
    machine: Machine, tmp_path: Path
) -> None:
    (unit,) = instances(machine, 1)
    machine.run("systemctl", "mask", "--runtime", unit.name)
    missing = layer(tmp_path, "no-such-thing.service")
    assert "systemd knows no such unit; install it, or correct `units`" in finish(missing.ready())[0].text
    assert fails(missing, "systemd knows no such unit").permanent
    assert fails(layer(tmp_path, unit), "is masked; `systemctl unmask").permanent
    assert unit.logged("start") == 1


def test_a_systemd_that_does_not_answer_is_not_waited_for(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unit,) = instances(machine, 1)
    script(tmp_path / "bin" / "systemctl", "exec sleep 1000")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr("rollbackd_adapters.systemd.manager._ASK", timedelta(milliseconds=200))
    error = fails(layer(tmp_path, unit), "took longer than its limit; does the system bus answer")
    assert not error.permanent


# -- a bracket ----------------------------------------------------------------------------------
def test_exactly_what_was_stopped_is_started_again(machine: Machine, tmp_path: Path) -> None:
    (runs,), rests = instances(machine, 1), Instance(machine)
    adapter = layer(tmp_path, runs, rests)
    finish(adapter.enter(KEY))
    assert not runs.is_active()
    finish(layer(tmp_path, runs, rests).leave(KEY))
    assert runs.is_active()
    assert rests.logged("start") == 0


def test_one_that_crashed_by_itself_is_started_too_since_the_release_did_that(machine: Machine, tmp_path: Path) -> None:
    unit = Instance(machine, "loops")
    unit.say("fails")
    unit.start()
    wait_for(lambda: unit.property("ActiveState") == "failed", "systemd gave up")
    finish(layer(tmp_path, unit).enter(KEY))
    assert finish(layer(tmp_path, unit).inside(KEY))
    unit.unsay("fails")
    finish(layer(tmp_path, unit).leave(KEY))
    assert unit.is_active()
    assert not finish(layer(tmp_path, unit).inside(KEY))


def test_what_stays_active_after_its_end_is_stopped_and_started_like_any_other(
    machine: Machine, tmp_path: Path
) -> None:
    unit = Instance(machine, "stays")
    unit.say("good")
    unit.start()
    finish(layer(tmp_path, unit).enter(KEY))
    assert not unit.is_active()
    assert finish(layer(tmp_path, unit).inside(KEY))
    finish(layer(tmp_path, unit).leave(KEY))
    assert unit.is_active()
    assert not finish(layer(tmp_path, unit).inside(KEY))


def test_units_are_up_again_before_the_gate_asks_them() -> None:
    assert SystemdSettings.model_validate({"adapter": "systemd", "units": ["a.service"]}).leave == "steps"


def test_a_bracket_over_nothing_that_runs_is_entered_all_the_same(machine: Machine, tmp_path: Path) -> None:
    rests = Instance(machine)
    adapter = layer(tmp_path, rests)
    finish(adapter.enter(KEY))
    assert finish(adapter.inside(KEY))
    finish(adapter.leave(KEY))
    assert not finish(adapter.inside(KEY))
    assert rests.logged("start") == 0


def test_what_somebody_started_meanwhile_does_not_keep_the_rest_stopped(machine: Machine, tmp_path: Path) -> None:
    first, second = instances(machine, 2)
    adapter = layer(tmp_path, first, second)
    finish(adapter.enter(KEY))
    first.start()
    assert finish(adapter.inside(KEY)), "the other is still to be started"
    finish(adapter.enter(KEY))
    assert not first.is_active(), "entering again means all of it"
    finish(adapter.leave(KEY))
    assert first.is_active()
    assert second.is_active()


def test_units_that_cannot_be_stopped_together_are_not_left_stopped_in_part(machine: Machine, tmp_path: Path) -> None:
    obeys, stays = Instance(machine), Instance(machine)
    stays.say("stays")
    for unit in (obeys, stays):
        unit.start()
    adapter = layer(tmp_path, stays, obeys, timeout="300ms")
    with pytest.raises(AdapterError, match=rf"systemctl stop {stays.name}: took longer than its limit"):
        finish(adapter.enter(KEY))
    assert obeys.logged("start") == 2
    assert obeys.is_active()
    assert not finish(adapter.inside(KEY))
    stays.unsay("stays")


def test_a_unit_that_a_socket_would_wake_is_not_stopped_alone(machine: Machine, tmp_path: Path) -> None:
    socket, service = "woken@1.socket", "woken@1.service"
    machine.run("systemctl", "start", socket, service)
    with pytest.raises(AdapterError, match=f"{service} would be started again by {socket}; add that") as refused:
        finish(layer(tmp_path, service).enter(KEY))
    assert refused.value.permanent
    together = layer(tmp_path, socket, service)
    finish(together.enter(KEY))
    states = machine.run("systemctl", "is-active", socket, service, check=False).stdout.split()
    assert states == ["inactive", "inactive"]
    finish(together.leave(KEY))
    assert machine.run("systemctl", "is-active", socket, service).stdout.split() == ["active", "active"]


# -- what systemd moves besides -------------------------------------------------------------------
DRAGGING = ("requires", "part", "bound")


def _lives(machine: Machine) -> dict[str, str]:
    """The instances that are loaded, and what runs of each."""
    shown = machine.run("systemctl", "show", "--property=Id,InvocationID,ActiveState", "*@*.service").stdout
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    return {block["Id"]: f"{block['ActiveState']} {block['InvocationID']}" for block in blocks}


def _moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """What was started, stopped or restarted in between."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


@pytest.fixture
def dragging(machine: Machine) -> tuple[Instance, dict[str, str]]:
    """A unit, and others that depend on it, one of them on another of them, or on nothing."""
    unit = Instance(machine)
    unit.start()
    number = unit.name.partition("@")[2]
    others = {name: f"{name}@{number}" for name in (*DRAGGING, "after")}
    machine.write(f"/run/systemd/system/far@{number}", f"[Unit]\nRequires={others['bound']}\n[Service]\nExecStart=sleep infinity\n")  # fmt: skip
    others["far"] = f"far@{number}"
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", *others.values())
    return unit, others


def test_what_is_restarted_with_the_units_was_told(
    machine: Machine, tmp_path: Path, dragging: tuple[Instance, dict[str, str]]
) -> None:
    unit, others = dragging
    wanted = Instance(machine)
    machine.write(f"/run/systemd/system/{unit.name}.d/wants.conf", f"[Unit]\nWants={wanted.name}\n")
    machine.run("systemctl", "daemon-reload")
    before = _lives(machine)
    change = finish(planned(layer(tmp_path, unit), NO_RELEASE))
    assert _moved(before, _lives(machine)) == set()
    assert finish(perform(layer(tmp_path, unit), change)) is Progress.DONE
    moved = _moved(before, _lives(machine))
    assert moved == {unit.name, wanted.name, *(others[name] for name in (*DRAGGING, "far"))}
    told = " ".join(change.risks)
    assert {name for name in moved if name not in told} == {unit.name}
    assert others["after"] not in told


def test_what_a_bracket_stops_besides_is_told_and_started_again(
    machine: Machine, tmp_path: Path, dragging: tuple[Instance, dict[str, str]]
) -> None:
    unit, others = dragging
    machine.run("systemctl", "stop", others["part"])
    bracket = layer(tmp_path, unit)
    before = _lives(machine)
    finish(bracket.enter(KEY))
    down = {name for name in others if not _is_active(machine, others[name])}
    assert down == {"requires", "part", "bound", "far"}
    assert all(others[name] in finish(bracket.note(KEY)) for name in ("requires", "bound", "far"))
    finish(layer(tmp_path, unit).enter(KEY))
    finish(layer(tmp_path, unit).leave(KEY))
    assert {name for name in others if not _is_active(machine, others[name])} == {"part"}
    assert finish(bracket.note(KEY)) == ""
    assert not finish(bracket.inside(KEY))
    assert _moved(before, _lives(machine)) == {unit.name, *(others[name] for name in ("requires", "bound", "far"))}


def _is_active(machine: Machine, name: str) -> bool:
    return machine.run("systemctl", "is-active", name, check=False).stdout.strip() == "active"


# -- settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": []}, "there are no units; name at least one"),
        ({"units": ["checkout"]}, '"checkout" is not the name of a unit; write it whole, like checkout.service'),
        ({"units": ["--user.service"]}, "is not the name of a unit"),
        ({"units": ["*.service"]}, "is not the name of a unit"),
        ({"units": ["web@.service"]}, "is not the name of a unit"),
        ({"units": ["../x.service"]}, "is not the name of a unit"),
        ({"units": ["a b.service"]}, "is not the name of a unit"),
        ({"units": ["multi.user.slice"]}, "is not the name of a unit"),
        ({"units": ["a.service", "b.service", "a.service"]}, '"a.service" is named twice'),
        ({"units": ["a.service"], "action": "kill"}, "Input should be"),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        SystemdSettings.model_validate({"adapter": "systemd", **settings})
    assert message in str(failed.value)


# -- definitions that are newer on disk ---------------------------------------------------------
def mode_of(unit: Instance) -> str:
    """What the unit's process was started with."""
    environment = (unit.machine.files / "proc" / unit.property("MainPID") / "environ").read_bytes()
    return next((each[5:].decode() for each in environment.split(b"\0") if each.startswith(b"MODE=")), "")


def dropped_in(unit: Instance, mode: str) -> Path:
    """A drop-in of this one unit."""
    path = f"/run/systemd/system/{unit.name}.d/10-mode.conf"
    unit.machine.write(path, f"[Service]\nEnvironment=MODE={mode}\n")
    return unit.machine.files / path.lstrip("/")


def _taken_away(unit: Instance) -> str:
    dropped_in(unit, "good").unlink()
    return ""


def _written(unit: Instance) -> str:
    dropped_in(unit, "good")
    return "good"


def _another(unit: Instance) -> str:
    unit.machine.write(f"/run/systemd/system/{unit.name}.d/20-more.conf", "[Service]\nEnvironment=MODE=more\n")
    return "more"


def _whole(unit: Instance) -> str:
    unit.machine.write(f"/run/systemd/system/{unit.name}", TEMPLATE + "Environment=MODE=whole\n")
    dropped_in(unit, "x").unlink()
    return "whole"


@pytest.fixture
def bad(machine: Machine) -> Instance:
    """A unit that was started by a bad definition."""
    unit = Instance(machine)
    dropped_in(unit, "bad")
    machine.run("systemctl", "daemon-reload")
    unit.start()
    assert mode_of(unit) == "bad"
    return unit


@pytest.mark.parametrize("known_before", [False, True], ids=["changed by a step before", "known when it is planned"])
@pytest.mark.parametrize("change_it", [_taken_away, _written, _another, _whole])
def test_a_restart_takes_over_the_definition_that_is_on_disk(
    tmp_path: Path, bad: Instance, change_it: Callable[[Instance], str], known_before: bool
) -> None:
    wanted = change_it(bad) if known_before else "bad"
    adapter = layer(tmp_path, bad)
    change = finish(planned(adapter, NO_RELEASE))
    told = f"systemd reads all its definitions again, since those of {bad.name} are newer on disk"
    assert change.risks == ((told,) if known_before else ())
    assert bad.property("NeedDaemonReload") == ("yes" if known_before else "no"), "a plan only reads"
    wanted = change_it(bad)
    assert finish(perform(adapter, change)) is Progress.DONE
    assert (bad.property("NeedDaemonReload"), mode_of(bad)) == ("no", wanted)
    assert bad.logged("start") == 2


@pytest.mark.parametrize("change_it", [_taken_away, _written, _another, _whole])
def test_a_unit_that_was_stopped_is_started_by_what_is_on_disk(
    tmp_path: Path, bad: Instance, change_it: Callable[[Instance], str]
) -> None:
    finish(layer(tmp_path, bad).enter(KEY))
    wanted = change_it(bad)
    finish(layer(tmp_path, bad).leave(KEY))
    assert mode_of(bad) == wanted


def test_what_was_restarted_by_an_older_definition_is_restarted_again(tmp_path: Path, bad: Instance) -> None:
    adapter = layer(tmp_path, bad)
    change = finish(planned(adapter, NO_RELEASE))

    def hook(name: str) -> None:
        if name == "process.ended" and bad.logged("start") == 2:
            boundary.hook = lambda _name: None
            dropped_in(bad, "later")

    boundary.hook = hook
    with suppress(AdapterError):
        finish(adapter.apply(change))
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED, "it runs by another definition than is on disk"
    assert finish(perform(adapter, change)) is Progress.DONE
    assert mode_of(bad) == "later"


def test_without_the_right_to_read_definitions_again_nothing_is_done_and_the_command_is_named(
    tmp_path: Path, bad: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(
        tmp_path / "bin" / "systemctl",
        'case "$*" in *daemon-reload*) echo "Failed to reload daemon: Access denied" >&2; exit 4;; esac',
        f'exec {shutil.which("systemctl")} "$@"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    _taken_away(bad)
    error = fails(layer(tmp_path, bad), "run `systemctl daemon-reload`, or allow it by the polkit rule")
    assert error.permanent
    assert "Access denied" in str(error)
    assert bad.logged("start") == 1
