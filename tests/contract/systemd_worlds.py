"""Units of a real systemd, process 1 of a Debian of our own; `systemctl` on the PATH reaches into it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from rollbackd.model import NO_RELEASE, Release
from rollbackd.testing import BracketWorld, World, place
from rollbackd_adapters.systemd import SystemdAdapter, SystemdSettings
from tests.contract.worlds import script
from tests.e2e.debian import Machine, booted

TEMPLATE = """
[Unit]
StartLimitIntervalSec=1h
StartLimitBurst=30
[Service]
Type=notify
NotifyAccess=all
ExecStart=/opt/world %i
ExecReload=/opt/reload %i
TimeoutStartSec=300
TimeoutStopSec=1
"""
LOOPS = """
[Service]
ExecStart=/opt/world %i
Restart=always
RestartSec=10ms
"""
ONCE = """
[Service]
Type=oneshot
ExecStart=/opt/world %i
"""
UNLESS = """
[Unit]
ConditionPathExists=!/run/worlds/unless
[Service]
Type=oneshot
ExecStart=/bin/true
"""
"""Runs to its end, unless there is that file."""
# What a unit does is said by files beside its log, so that no test has to have systemd read its units again.
PROGRAM = """#!/bin/sh
set -eu
echo start >> /run/worlds/$1
cat /run/worlds/$1.says 2>/dev/null || true
if [ -e /run/worlds/$1.fails ]; then exit 3; fi
if [ -e /run/worlds/$1.hangs ]; then exec sleep 1000; fi
if [ -e /run/worlds/$1.stays ]; then trap '' TERM; fi
while [ -e /run/worlds/$1.waits ]; do sleep 0.05; done
if [ -n "${NOTIFY_SOCKET:-}" ]; then systemd-notify --ready; fi
if [ -e /run/worlds/$1.ends ]; then sleep 0.3; exit 4; fi
if [ -e /run/worlds/$1.good ]; then exit 0; fi
while :; do sleep 1000; done
"""
RELOAD = """#!/bin/sh
set -eu
echo reload >> /run/worlds/$1
if [ -e /run/worlds/$1.hangs ]; then exec sleep 1000; fi
test ! -e /run/worlds/$1.fails
"""
_numbers = count(1)


@contextmanager
def reached(path: Path) -> Iterator[Machine]:
    """A booted Debian; while it runs, `systemctl` and `journalctl` on the PATH are those in it."""
    with booted() as machine:
        machine.write("/opt/world", PROGRAM, 0o755)
        machine.write("/opt/reload", RELOAD, 0o755)
        machine.write("/run/systemd/system/world@.service", TEMPLATE)
        machine.write("/run/systemd/system/loops@.service", LOOPS)
        machine.write("/run/systemd/system/once@.service", ONCE)
        machine.write("/run/systemd/system/stays@.service", ONCE + "RemainAfterExit=yes\n")
        machine.write(
            "/run/systemd/system/skipped@.service", f"[Unit]\nConditionPathExists=/nowhere\n{ONCE}RemainAfterExit=yes\n"
        )
        machine.write("/run/systemd/system/unless.service", UNLESS)
        machine.write("/run/systemd/system/wants-unless.target", "[Unit]\nWants=unless.service\n")
        machine.write("/run/systemd/system/woken@.service", "[Service]\nExecStart=sleep infinity\n")
        machine.write("/run/systemd/system/woken@.socket", "[Socket]\nListenStream=/run/woken-%i\n")
        for name, how in (("requires", "Requires"), ("part", "PartOf"), ("bound", "BindsTo"), ("after", "After")):
            text = f"[Unit]\n{how}=world@%i.service\nAfter=world@%i.service\n[Service]\nExecStart=sleep infinity\n"
            machine.write(f"/run/systemd/system/{name}@.service", text)
        machine.write("/run/worlds/0", "")
        machine.run("systemctl", "daemon-reload")
        inside = f"nsenter -t {machine.leader} -m -u -i -n -p -C"
        for name in ("systemctl", "journalctl"):
            script(path / "bin" / name, f'exec {inside} {name} "$@"')
        before = os.environ["PATH"]
        os.environ["PATH"] = f"{path / 'bin'}:{before}"
        try:
            yield machine
        finally:
            os.environ["PATH"] = before
            os.kill(machine.leader, signal.SIGKILL)  # nothing in it is worth a shutdown


class Instance:
    """One unit, and what it is told to do."""

    def __init__(self, machine: Machine, template: str = "world") -> None:
        number = next(_numbers)
        self.machine = machine
        self.name = f"{template}@{number}.service"
        self._log = machine.files / "run/worlds" / str(number)

    def say(self, word: str, text: str = "") -> None:
        """From now on it does that: fails, hangs, stays, ends, says."""
        self._log.with_name(f"{self._log.name}.{word}").write_text(text)

    def unsay(self, word: str) -> None:
        self._log.with_name(f"{self._log.name}.{word}").unlink()

    def start(self) -> None:
        self.machine.run("systemctl", "start", self.name)

    def logged(self, word: str) -> int:
        return self._log.read_text().split().count(word) if self._log.exists() else 0

    def is_active(self) -> bool:
        return self.property("ActiveState") == "active"

    def property(self, name: str) -> str:
        return self.machine.run("systemctl", "show", "--value", f"--property={name}", self.name).stdout.strip()


class UnitsWorld(World):
    """A unit that runs, to be restarted or reloaded."""

    def __init__(self, machine: Machine, path: Path, action: str = "restart") -> None:
        self.path = path
        self.unit = Instance(machine)
        self.unit.start()
        self.settings: dict[str, Any] = {"units": [self.unit.name], "action": action, "settle": "50ms"}

    def adapter(self) -> SystemdAdapter:
        return SystemdAdapter(SystemdSettings.model_validate({"adapter": "systemd", **self.settings}), place(self.path))

    def present(self) -> str:
        return "-"

    def target(self) -> Release:
        return NO_RELEASE

    def finished(self) -> int:
        if self.settings["action"] == "reload":
            return self.unit.logged("reload")
        return self.unit.logged("start") - 1

    def everything(self) -> object:
        return self.finished(), self.unit.property("StateChangeTimestampMonotonic")

    def break_it(self) -> None:
        self.unit.machine.run("systemctl", "mask", "--runtime", self.unit.name)

    def hang(self) -> None:
        self.unit.say("hangs")
        self.settings["timeout"] = "500ms"


class StoppedWorld(BracketWorld):
    """A unit that is stopped while the steps are taken."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self.path = path
        self.unit = Instance(machine)
        self.unit.start()

    def adapter(self) -> SystemdAdapter:
        settings = {"adapter": "systemd", "units": [self.unit.name], "settle": "0s"}
        return SystemdAdapter(SystemdSettings.model_validate(settings), place(self.path))

    def inside(self) -> bool:
        return not self.unit.is_active()
