"""What a restart moves is what its plan told: photographs of all other units, of their files, and of who wants them."""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from rollbackd.model import NO_RELEASE, Progress
from rollbackd.testing import KEY, finish, perform, place, planned
from rollbackd_adapters.systemd import SystemdAdapter, SystemdSettings
from tests.contract.systemd_worlds import Instance, reached
from tests.e2e.debian import PROGRAMS, Machine
from tests.photograph import Photograph, differences, photograph

pytestmark = [
    pytest.mark.needs(*PROGRAMS),
    pytest.mark.timeout(600),  # the first test makes the Debian
]
_KEYS = count(1)
_SHOWN = ("Id", "ActiveState", "SubState", "InvocationID", "UnitFileState", "FragmentPath", "DropInPaths", "NRestarts")
_DEPEND = ("requires", "part", "bound", "after")
_OF_ALL = ("dbus.service", "systemd-journald.service", "systemd-logind.service", "multi-user.target")

Units = Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with reached(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


class Neighbours:
    """A unit of the layer, and others that depend on it, are wanted by it, conflict with it, or have nothing to do
    with it.
    """

    def __init__(self, machine: Machine, running: frozenset[str]) -> None:
        self.machine, self.unit, self.stranger = machine, Instance(machine), Instance(machine)
        number = self.unit.name.partition("@")[2].removesuffix(".service")
        self.names = [f"{kind}@{number}.service" for kind in _DEPEND]
        for kind in ("wanted", "foe"):
            machine.write(f"/run/systemd/system/{kind}-{number}.service", "[Service]\nExecStart=sleep infinity\n")
            self.names.append(f"{kind}-{number}.service")
        self.definition = f"/run/systemd/system/{self.unit.name}.d/10-with.conf"
        machine.write(self.definition, f"[Unit]\nWants=wanted-{number}.service\n")
        machine.run("systemctl", "daemon-reload")
        self.unit.start()
        self.stranger.start()
        machine.run("systemctl", "stop", f"wanted-{number}.service")
        up = [name for name in self.names if name.partition("@")[0].partition("-")[0] in running]
        if up:
            machine.run("systemctl", "start", *up)

    def conflicts(self) -> None:
        """From now on, for whoever reads its definition again."""
        foe = self.names[-1]
        self.machine.write(self.definition, f"[Unit]\nConflicts={foe}\n")

    def adapter(self, path: Path, action: str) -> SystemdAdapter:
        given = {"adapter": "systemd", "units": [self.unit.name], "settle": "50ms", "action": action}
        return SystemdAdapter(SystemdSettings.model_validate(given), place(path))

    def units(self) -> Units:
        """All of them but the layer's own, and some that every host has."""
        names = [*self.names, self.stranger.name, *_OF_ALL]
        said = self.machine.run("systemctl", "show", f"--property={','.join(_SHOWN)}", *names).stdout
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in said.strip().split("\n\n")]
        for block in blocks:
            if (
                block["ActiveState"] == "inactive"
            ):  # systemd may forget one that nobody wants, and which run was its last
                block |= {"InvocationID": "", "NRestarts": "0"}
        return {block["Id"]: block for block in blocks}

    def files(self) -> Photograph:
        return photograph(self.machine.files / "run/systemd/system", self.machine.files / "etc/systemd")


@given(
    running=st.frozensets(st.sampled_from([*_DEPEND, "foe"])),
    action=st.sampled_from(["restart", "reload", "reload-or-restart"]),
    newer=st.booleans(),
)
@example(running=frozenset([*_DEPEND, "foe"]), action="restart", newer=True)
@settings(
    max_examples=5,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_a_step_moves_besides_is_told(
    machine: Machine, tmp_path: Path, running: frozenset[str], action: str, newer: bool
) -> None:
    world, path = Neighbours(machine, running), tmp_path / str(next(_KEYS))
    if newer:
        world.conflicts()
    before, files = world.units(), world.files()
    change = finish(planned(world.adapter(path, action), NO_RELEASE))
    finish(world.adapter(path, action).ready())
    assert (world.units(), differences(files, world.files())) == (before, {})
    assert finish(perform(world.adapter(path, action), change)) is Progress.DONE
    after = world.units()
    assert differences(files, world.files()) == {}
    moved = [name for name in before if before[name] != after[name]]
    untold = [name for name in moved if not any(name in risk for risk in change.risks)]
    assert not untold, f"{untold} moved, and the plan did not tell it ({change.risks})"
    assert world.stranger.name not in moved


@given(running=st.frozensets(st.sampled_from(_DEPEND)))
@example(running=frozenset(_DEPEND))
@settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_was_stopped_runs_again_once_it_is_left(machine: Machine, tmp_path: Path, running: frozenset[str]) -> None:
    world, path = Neighbours(machine, running), tmp_path / str(next(_KEYS))
    before, files = world.units(), world.files()
    bracket = world.adapter(path, "restart")
    finish(bracket.enter(KEY))
    inside, note = world.units(), finish(bracket.note(KEY))
    assert all(name in note for name in before if before[name] != inside[name])
    finish(bracket.leave(KEY))
    after, note = world.units(), finish(bracket.note(KEY))
    other = [name for name in before if before[name]["ActiveState"] != after[name]["ActiveState"]]
    assert all(name in note for name in other), f"{other} are not as they were, and nobody was told ({note})"
    assert differences(files, world.files()) == {}
