"""Anything that has a command line: one argument vector for each question. `plan` is built in.

It moves whatever the commands move, and saves nothing by itself: that is the business of `apply`. Each command gets
ROLLBACKD_SERVICE and ROLLBACKD_LAYER in its environment; those about a change also ROLLBACKD_INCIDENT, _KEY, _BEFORE,
_AFTER and _INTENDED (the time of the intent, RFC 3339). Where several daemons may drive, all have ROLLBACKD_EPOCH,
which goes up with each that takes over. `apply` runs once for a change: when it has succeeded it never runs again for
it, whatever was killed meanwhile. One that was cut off runs again, so it must be able to go on.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import NO_RELEASE, Change, Progress, Release, Traits
from rollbackd.syntax.units import Duration, Vector, show
from rollbackd.system.spawner import Finished, Lock, Recorded, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.ids import check_id
from rollbackd_adapters.lacks import missing_programs, not_somebody_else
from rollbackd_adapters.listed import listed, time_told
from rollbackd_adapters.paths import UserName
from rollbackd_adapters.then import environment
from rollbackd_adapters.traces import Trace

_OUTSIDE = 1
_WAYS = ("enter", "leave")
_PRINTED = 2**20
"""Bytes of an answer; one that is longer is an error."""
_RELEASES = 1000
"""Releases that are looked at; they come newest first."""
_PROBLEMS = 20
"""Lines that `ready` may give for problems."""


class CommandSettings(Settings):
    """A layer of adapter `command`. With `apply` it is a step, with `inside`, `enter` and `leave` a bracket."""

    current: Vector | None = None
    """Prints the present release: one line, or JSON `{"id":, "label":, "created":, "good":}`."""
    releases: Vector | None = None
    """Prints what can be gone back to, newest first: a line each, or a JSON list."""
    apply: Vector | None = None
    """Goes to ROLLBACKD_AFTER; for a layer without releases, does what it does (restarts, reloads)."""
    progress: Vector | None = None
    """Prints not_started, running, done or superseded. Without it `current` is compared."""
    ready: Vector | None = None
    """Exits 0 when a rollback would work; else each line it prints is a problem."""
    inside: Vector | None = None
    """Exits 0 when the bracket is entered, 1 when it is not."""
    enter_by: Vector | None = None
    """Goes into the bracket. `enter: [ARGV]` says the same; `enter: asked` says when."""
    leave_by: Vector | None = None
    """Goes out of the bracket. `leave: [ARGV]` says the same; `leave: gate` says when."""
    run_as: UserName = ""
    """The user that all of its commands run as; only root may name another. Empty: as rollbackd."""
    timeout: Duration = timedelta(minutes=5)
    """For each command."""
    resource: str = ""
    """What this layer shares with others that must not move at the same time; by default it shares nothing."""
    holds_data: bool = False
    """A plan goes back in it only by name."""
    irreversible: bool = False
    """Going back cannot be undone."""
    fenced: bool = False
    """`apply`, `enter` and `leave` fail when ROLLBACKD_EPOCH is lower than one that they were given before."""

    @model_validator(mode="before")
    @classmethod
    def _crossings_are_commands(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        ways = [way for way in _WAYS if isinstance(value.get(way), (list, tuple))]
        rest = {key: item for key, item in value.items() if key not in ways}
        return {f"{way}_by": value[way] for way in ways} | rest

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema with `enter` and `leave` in both their ways, for editors."""
        made = handler(core)
        keys = handler.resolve_ref_schema(made)["properties"]
        for way in _WAYS:
            when, command = keys[way], keys[f"{way}_by"]["anyOf"][0]
            keys[way] = {"anyOf": [{key: when.pop(key) for key in ("enum", "type")}, command], **when}
        return made

    @model_validator(mode="after")
    def _whole(self) -> Self:
        bracket = (self.inside, self.enter_by, self.leave_by)
        if any(bracket) and not all(bracket):
            raise ValueError("a bracket needs all of `inside`, `enter` and `leave`; give all three or none")
        if (self.current is None) != (self.releases is None):
            text = "`current` and `releases` belong together; give both, or none for a layer without releases"
            raise ValueError(text)
        if self.apply is None and not any(bracket):
            raise ValueError("nothing can be done with this layer; give `apply`, or `inside`, `enter` and `leave`")
        if self.apply is None and self.current is not None:
            raise ValueError("releases that nothing can go back to; give `apply`")
        if self.apply is not None and self.current is None and self.progress is None:
            raise ValueError("nothing tells whether `apply` worked; give `progress`, or `current` and `releases`")
        return self


class CommandAdapter(StepAdapter[CommandSettings]):
    """One layer behind a command line."""

    settings_model: ClassVar[type[Settings]] = CommandSettings
    _unknown = " is not among the releases that `releases` prints"

    def __init__(self, settings: CommandSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = settings.resource or f"command:{place.service}/{place.layer}"
        self._reversible = not settings.irreversible
        self.fences = settings.fenced
        self.traits = Traits(
            releases=settings.current is not None,
            step=settings.apply is not None,
            bracket=settings.enter_by is not None,
            data=settings.holds_data,
        )

    async def current(self) -> Release:
        said = await self._ask(_given(self._settings.current))
        return self._release(self._parsed(said) if said.startswith("{") else said)

    async def releases(self) -> Sequence[Release]:
        said = await self._ask(_given(self._settings.releases))
        items = self._parsed(said) if said.startswith("[") else said.splitlines()
        found, self._passed_over = listed(filter(None, items[:_RELEASES]), partial(self._release, dated=False))
        return found

    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        if trace.begun is None:
            if self.traits.releases and (await self.current()).id != change.before.id:
                raise await self._superseded()
            trace.intend()
        argv = _given(self._settings.apply)
        self._must(argv, await self._effect(argv, trace, "apply", change, lock))

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Nothing is left to do: the record of `apply` is the marker."""

    async def _superseded(self) -> AdapterError:
        return AdapterError(
            f"{self._place.layer} is not where this rollback began: somebody else moved it: it is theirs",
            permanent=True,
        )

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        if self._settings.progress is not None:
            said = await self._ask(self._settings.progress, change)
            try:
                return Progress(said.lower())
            except ValueError:
                words = ", ".join(Progress)
                raise self._wrong(f"`progress` printed {self._quoted(said)}; it must print one of {words}") from None
        present = (await self.current()).id
        argv = _given(self._settings.apply)
        finished = self._spawner.recorded(trace.record("apply"), argv)
        if finished is not None and finished.ok:
            if present == change.after.id:
                return Progress.DONE
            return Progress.NOT_STARTED if present == change.before.id else Progress.SUPERSEDED
        if trace.begun is not None:
            return Progress.NOT_STARTED if present in {change.before.id, change.after.id} else Progress.SUPERSEDED
        if present == change.before.id:
            return Progress.NOT_STARTED
        return Progress.DONE if present == change.after.id else Progress.SUPERSEDED

    async def _problems(self) -> list[str]:
        settings = self._settings
        vectors = (settings.current, settings.releases, settings.apply, settings.progress, settings.ready)
        brackets = (settings.inside, settings.enter_by, settings.leave_by)
        programs = {argv[0] for argv in (*vectors, *brackets) if argv}
        texts = [*not_somebody_else(settings.run_as), *missing_programs(self._spawner, sorted(programs))]
        if not texts and settings.ready is not None:
            finished = await self._run(settings.ready)
            if not finished.ok:
                lines = finished.stdout.decode(errors="replace").splitlines()
                said = [self._spawner.clean(line) for line in islice(filter(str.strip, lines), _PROBLEMS)]
                texts = said or [f"`{_shown(settings.ready)}`: {finished.ending}"]
        return texts

    # -- as a bracket ---------------------------------------------------------------------------
    async def inside(self, key: str) -> bool:
        argv = _given(self._settings.inside)
        finished = await self._run(argv, self._bracketed(key))
        if finished.ok or (finished.code == _OUTSIDE and not finished.timed_out):
            return finished.ok
        raise self._wrong(f"`{_shown(argv)}`: {finished.ending}, wants 0 for inside or 1 for outside", finished.tail)

    async def enter(self, key: str) -> None:
        await self._cross(key, "enter", _given(self._settings.enter_by), to_inside=True)

    async def leave(self, key: str) -> None:
        await self._cross(key, "leave", _given(self._settings.leave_by), to_inside=False)

    async def _cross(self, key: str, name: str, argv: Sequence[str], *, to_inside: bool) -> None:
        """Go in or out, waiting for what an earlier life began."""
        change = self._bracketed(key)
        trace = Trace(self._place.scratch, change)
        async with holding(self._spawner, self.resource, self._settings.timeout) as lock:
            if await self.inside(key) == to_inside:
                return
            if trace.begun is None:
                trace.begin(key=key)
            trace.record(name).unlink(missing_ok=True)  # it was crossed before, and somebody went back
            self._must(argv, await self._effect(argv, trace, name, change, lock))

    def _bracketed(self, key: str) -> Change:
        return Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key)

    # -- running --------------------------------------------------------------------------------
    async def _effect(self, argv: Sequence[str], trace: Trace, name: str, change: Change, lock: Lock) -> Recorded:
        record, env = trace.record(name), environment(self._place, change)
        timeout = self._settings.timeout
        who = self._settings.run_as
        return await self._spawner.run_recorded(argv, record=record, lock=lock, timeout=timeout, env=env, user=who)

    async def _run(self, argv: Sequence[str], change: Change | None = None) -> Finished:
        settings, env = self._settings, environment(self._place, change)
        with as_adapter_errors():
            return await self._spawner.run(
                argv, timeout=settings.timeout, env=env, limit=_PRINTED, user=settings.run_as
            )

    async def _ask(self, argv: Sequence[str], change: Change | None = None) -> str:
        """What a command prints, without white space around it. :raises AdapterError: it fails, or prints nothing."""
        finished = await self._run(argv, change)
        if not finished.ok:
            raise self._wrong(f"`{_shown(argv)}`: {finished.ending}", finished.tail)
        said = finished.stdout.decode(errors="replace").strip()
        if not said or finished.truncated:
            raise self._wrong(f"`{_shown(argv)}` printed {'too much' if said else 'nothing'}", finished.tail)
        return said

    def _must(self, argv: Sequence[str], finished: Recorded) -> None:
        if not finished.ok:
            raise self._wrong(f"`{_shown(argv)}`: {finished.ending}", finished.tail)

    def _parsed(self, said: str) -> Any:
        try:
            return json.loads(said)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"{self._quoted(said)} is not JSON: {error}") from None

    def _release(self, item: object, *, dated: bool = True) -> Release:
        """A release as a command prints it; unless it must be `dated`, a time that is none is left out."""
        known = {"id": item} if isinstance(item, str) else item
        if not isinstance(known, dict) or not isinstance(known.get("id"), str):
            raise self._wrong(f"{self._quoted(str(item))} is no release; print an id, or JSON with an `id`")
        created = None
        if known.get("created") is not None:
            try:
                created = time_told(known["created"])
            except ValueError:
                if dated:
                    wrong = self._quoted(str(known["created"]))
                    raise self._wrong(f"{wrong} is not a time; print it as RFC 3339") from None
        label, good = one_line(str(known.get("label") or "")), known.get("good") is True
        return check_id(Release(known["id"].strip(), label, created, good))

    def _quoted(self, text: str) -> str:
        return show(one_line(self._spawner.clean(text)))

    def _wrong(self, text: str, evidence: str = "") -> AdapterError:
        return AdapterError(f"{self._place.layer}: {text}", permanent=False, evidence=evidence)


def _given(argv: Sequence[str] | None) -> Sequence[str]:
    if argv is None:
        raise AdapterError("this layer has no command for that; see its `traits`", permanent=True)
    return argv


def _shown(argv: Sequence[str]) -> str:
    return one_line(" ".join(argv))
