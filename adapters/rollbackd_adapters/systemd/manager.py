"""What is said to systemd, and what it answers: `systemctl` and `journalctl`, each within a limit.

https://www.freedesktop.org/software/systemd/man/systemctl.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rollbackd.adapter import AdapterError
from rollbackd.syntax.units import format_duration
from rollbackd.system.spawner import Finished, Lock, Recorded, Spawner
from rollbackd_adapters.failures import as_adapter_errors

SYSTEMCTL = "systemctl"
ENGLISH = {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
_ASK = timedelta(seconds=10)
"""A look takes milliseconds; longer, and the bus or systemd hangs."""
_REREAD = timedelta(seconds=60)
_LINES = "20"
_FIXED = ("--no-ask-password", "--no-pager")
_STOPPED_WITH = ("BoundBy", "ConsistsOf", "PropagatesStopTo", "RequiredBy", "RequisiteOf")
"""By which of a unit's properties systemd stops others with it, or restarts those that run."""
_RELOADED_WITH = ("PropagatesReloadTo",)
_STARTED_WITH = ("BindsTo", "Requires", "Upholds", "Wants")
_ENDED_BY_START = ("Conflicts",)
_RELATIONS = frozenset({*_STARTED_WITH, *_ENDED_BY_START})
"""By which a unit's own definition names others that are moved when it is started."""
_PROPERTIES = ",".join(
    (
        "ActiveState,CanReload,CanStart,CanStop,ConditionResult,ConditionTimestampMonotonic,InvocationID,Job,LoadError",
        "LoadState,NeedDaemonReload,NRestarts,ReloadResult,RemainAfterExit,Result,StateChangeTimestampMonotonic",
        "SubState,TriggeredBy,Type",
        *_STOPPED_WITH, *_RELOADED_WITH, *_STARTED_WITH, *_ENDED_BY_START,
    )
)  # fmt: skip
_REFUSALS = ("access denied", "authentication required", "permission denied", "not authorized", "authorization")
_HOPELESS = (*_REFUSALS, "is masked", "not found", "bad unit file setting", "refusing")


@dataclass(frozen=True, slots=True)
class SystemdUnit:
    """A unit as systemd describes it."""

    name: str
    said: Mapping[str, str]
    """Properties by systemd's own names."""

    def __getitem__(self, name: str) -> str:
        return self.said.get(name, "")

    @property
    def down(self) -> bool:
        """No process of the unit runs."""
        return self["ActiveState"] in {"inactive", "failed"}

    @property
    def broke(self) -> bool:
        """The unit should run and does not, although nobody stopped it. Not a oneshot, which has only ended badly."""
        return self["ActiveState"] == "failed" and self["Type"] != "oneshot"

    @property
    def well(self) -> bool:
        """The unit is active, or it is a oneshot that ended well."""
        if self["ActiveState"] == "active":
            return True
        if self["Type"] != "oneshot" or self["RemainAfterExit"] == "yes":
            return False
        return self["ActiveState"] == "inactive" and self["Result"] == "success" and not self.skipped

    @property
    def outdated(self) -> bool:
        """Its definition on disk is not the one that systemd knows."""
        return self["NeedDaemonReload"] == "yes"

    @property
    def skipped(self) -> bool:
        """The last start was skipped, since a condition was not met. systemd forgets that when it unloads the unit:
        at once, when nothing wants it.
        """
        looked = self["ConditionTimestampMonotonic"] not in {"", "0"}
        return self.down and looked and self["ConditionResult"] == "no"

    @property
    def moving(self) -> bool:
        """The unit is on its way to another state, so it is worth waiting for: by a job, or by itself, but not when it
        ended and systemd waits to start it again.
        """
        on_its_way = self["ActiveState"] in {"activating", "deactivating", "reloading"}
        return self["Job"] not in {"", "0"} or (on_its_way and self["SubState"] != "auto-restart")

    @property
    def state(self) -> str:
        """The state for people: `failed (exit-code)`, `activating (auto-restart)`."""
        if self["ActiveState"] == "failed":
            return f"failed ({self['Result'] or 'no reason given'})"
        return f"{self['ActiveState'] or 'unknown'} ({self['SubState']})"

    @property
    def trouble(self) -> str:
        """Why nothing can be done with the unit; empty when something can."""
        match self["LoadState"]:
            case "loaded":
                return ""
            case "masked":
                return f"{self.name} is masked; `systemctl unmask {self.name}`, or take it out of `units`"
            case "not-found":
                return f"{self.name}: systemd knows no such unit; install it, or correct `units`"
            case other:
                why = self["LoadError"].partition(" ")[2].strip('" ') or "see `systemctl status`"
                return f"{self.name} cannot be loaded ({other or 'no answer'}): {why}"


@dataclass(frozen=True, slots=True)
class Dragged:
    """Other units that systemd moves by itself when some are moved; names, in no order of meaning."""

    along: Sequence[str] = ()
    """They run, and are restarted, reloaded or stopped as those are."""
    started: Sequence[str] = ()
    """They are down, and a start of those starts them."""
    ended: Sequence[str] = ()
    """They run, and a start of those stops them."""


class Manager:
    """systemd, as this host's process 1."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner

    async def look(self, names: Sequence[str]) -> list[SystemdUnit]:
        """The units in the order of their names. Read only. :raises AdapterError: systemd does not answer."""
        finished = await self._run(("show", f"--property={_PROPERTIES}", "--", *names))
        blocks = finished.stdout.decode(errors="replace").strip("\n").split("\n\n")
        if not finished.ok or len(blocks) != len(names):
            hint = "; does the system bus answer?" if finished.timed_out or "bus" in finished.stderr else ""
            raise AdapterError(f"systemctl show: {_why(finished)}{hint}", permanent=False, evidence=finished.tail)
        return [SystemdUnit(name, _properties(block)) for name, block in zip(names, blocks, strict=True)]

    async def dragged(self, action: str, units: Sequence[SystemdUnit]) -> Dragged:
        """What else systemd moves by an action on these. Read only. :raises AdapterError: systemd does not answer."""
        if action == "reload":
            return Dragged(along=[each.name for each in await self._behind(units, _RELOADED_WITH) if not each.down])
        along = [each for each in await self._behind(units, _STOPPED_WITH) if not each.down]
        if action == "stop":
            return Dragged([each.name for each in along])
        moved = [*units, *along]
        started = await self._behind(moved, _STARTED_WITH, down=True)
        ended = await self._behind([*moved, *started], _ENDED_BY_START, deep=False)
        along_names, started_names = ([each.name for each in found] for found in (along, started))
        return Dragged(along_names, started_names, [each.name for each in ended if not each.down])

    async def _behind(
        self, units: Sequence[SystemdUnit], properties: Sequence[str], *, down: bool = False, deep: bool = True
    ) -> list[SystemdUnit]:
        """The loaded units that these name in their properties, and those that they name, and so on.

        :param down: only those that are down, and what they name.
        """
        asked, found, waiting = {unit.name for unit in units}, [], units
        while waiting:
            named = [name for unit in waiting for key in properties for name in unit[key].split()]
            new = [name for name in dict.fromkeys(named) if name not in asked]
            asked |= {*new}
            looked = await self.look(new) if new else []
            waiting = [unit for unit in looked if not unit.trouble and (unit.down or not down)]
            found += waiting
            waiting = waiting if deep else []
        return found

    async def newly_related(self, units: Sequence[SystemdUnit]) -> list[str]:
        """How definitions on disk name units that systemd does not know them to name: `Conflicts=other.service`.

        Read only. :raises AdapterError: systemd does not answer.
        """
        found: dict[str, None] = {}
        for unit in units:
            finished = await self._run(("cat", "--", unit.name))
            for line in finished.stdout.decode(errors="replace").splitlines():
                key, _, names = line.partition("=")
                if key in _RELATIONS:
                    found |= {f"{key}={name}": None for name in names.split() if name not in unit[key].split()}
        return list(found)

    async def do(self, verb: str, name: str, lock: Lock, timeout: timedelta) -> None:
        """Ask for a job, and wait for its end. Only for what may be asked twice. :raises AdapterError: it failed."""
        finished = await self._run((verb, "--", name), lock, timeout)
        if not finished.ok:
            raise await self.failure(f"{verb} {name}", ending_of(finished, timeout), finished.tail, [name])

    async def forgive(self, name: str, lock: Lock) -> None:
        """Reset the unit's failures, if we may: systemd would not start a unit again that crashed too often."""
        await self._run(("reset-failed", "--", name), lock)

    async def reread(self, names: Sequence[str], lock: Lock) -> None:
        """Have systemd read its definitions again. :raises AdapterError: it refuses, or these are not up to date."""
        finished = await self._run(("daemon-reload",), lock, _REREAD)
        left = [unit.name for unit in await self.look(names) if unit.outdated] if finished.ok else names
        if left:
            said = finished.stderr.strip().splitlines()
            why = f"`systemctl daemon-reload`: {finished.ending}{f': {said[-1]}' if said else ''}"
            text = f"{', '.join(left)}: the definition on disk is newer than the one that systemd knows ({why})"
            raise AdapterError(
                f"{text}; run `systemctl daemon-reload`, or allow it by the polkit rule of `rollbackd check`",
                permanent=_any(finished.stderr.lower(), _REFUSALS),
                evidence=finished.tail,
            )

    async def failure(self, what: str, ending: str, said: str, names: Sequence[str]) -> AdapterError:
        """The error, with what the units wrote to the journal last. Permanent when nothing but a person can help."""
        text = said.lower()
        hint = "; `rollbackd check` prints the polkit rule that allows it" if _any(text, _REFUSALS) else ""
        reason = next((line for line in said.splitlines() if line.strip()), "").strip()
        words = f"{ending}: {reason}" if reason else ending
        evidence = "\n".join([said, *[await self._journal(name) for name in names]]).strip("\n")
        return AdapterError(f"systemctl {what}: {words}{hint}", permanent=_any(text, _HOPELESS), evidence=evidence)

    async def may(self, verb: str, name: str) -> str:
        """Why we may not do this; empty when we may. Read only.

        There is no question for that: polkit lets nobody but root ask about a unit. A mode that systemd knows, but not
        for this verb, does: it asks polkit first and then refuses the mode. Not for `stop`, which this mode is for.
        """
        if verb == "stop":
            raise ValueError("stop would be done")
        finished = await self._run((verb, "--job-mode=triggering", "--no-block", "--", name))
        if finished.timed_out:
            return f"systemctl {verb} {name}: {finished.ending}; does polkit answer?"
        if _any(finished.stderr.lower(), _REFUSALS):
            return (
                f"rollbackd may not {verb} {name}; `rollbackd check` prints the polkit rule that allows it, for "
                "/etc/polkit-1/rules.d (package polkitd)"
            )
        return ""

    async def _journal(self, name: str) -> str:
        with as_adapter_errors():
            finished = await self._spawner.run(
                ("journalctl", f"--unit={name}", f"--lines={_LINES}", "--no-pager", "--quiet", "--output=short-iso"),
                timeout=_ASK,
                env=ENGLISH,
            )
        return finished.tail if finished.ok else ""

    async def _run(self, words: Sequence[str], lock: Lock | None = None, timeout: timedelta | None = None) -> Finished:
        argv = (SYSTEMCTL, *_FIXED, *words)
        with as_adapter_errors():
            return await self._spawner.run(argv, timeout=timeout or _ASK, lock=lock, env=ENGLISH)


def vector(verb: str, name: str) -> tuple[str, ...]:
    """The command line that asks for a job."""
    return (SYSTEMCTL, *_FIXED, verb, "--", name)


def ending_of(finished: Finished | Recorded, limit: timedelta) -> str:
    """How a command ended that asked for a job, with its limit when that was over."""
    return f"{finished.ending}, {format_duration(limit)}" if finished.timed_out else finished.ending


def _properties(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    return {name: value for name, _, value in pairs}


def _why(finished: Finished) -> str:
    said = finished.stderr.strip().splitlines()
    return f"{finished.ending}: {said[-1]}" if said else finished.ending


def _any(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)
