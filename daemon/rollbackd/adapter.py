"""The contracts of what is plugged in: adapters, brackets, checks, notifiers. The core imports no plugin."""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from rollbackd.model import Change, CheckResult, Priority, Problem, Progress, Release, Traits
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.syntax.units import Duration, Ref, Secret, Spec, writable


class AdapterError(Exception):
    """An adapter's failure; whoever raises it says whether trying again helps."""

    def __init__(self, message: str, *, permanent: bool, evidence: str = "") -> None:
        super().__init__(writable(message))
        self.permanent = permanent
        self.evidence = evidence
        """The last output of what failed, without secrets."""


class MixedError(AdapterError):
    """The parts of a layer, such as its hosts, have different releases, so the layer has none."""

    def __init__(self, message: str, mixture: Release) -> None:
        super().__init__(message, permanent=False)
        self.mixture = mixture
        """What each part has, by `parts`: where a person's own rollback begins, and what `plan` has as `before`."""


class Settings(Spec):
    """A layer's part of the configuration. Every adapter's settings model derives from it."""

    adapter: str
    enter: Literal["steps", "asked"] = "steps"
    """As a bracket: before what it is entered. `asked`: already while people are asked; it is left again when the
    question ends without a rollback."""
    leave: Literal["steps", "gate", "verified", "acknowledged"] = "gate"
    """As a bracket: after what it is left."""
    done_when: Annotated[str, Ref("check")] = ""
    """A check of the service; a step of this layer stays running until it passes."""


def _no_secrets(_secret: Secret) -> str:
    raise ValueError("secrets cannot be read here")


def _no_others(layer: str) -> Any:
    raise ValueError(f"{layer}: other layers cannot be asked here")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands, and what it may use."""

    service: str
    layer: str
    scratch: Path
    """A directory of this layer's own that survives a reboot: locks, records of finished commands, markers."""
    spawner: Any
    """The `rollbackd.system.spawner.Spawner`; adapters start programs with nothing else."""
    clock: Any
    """The `rollbackd.system.clock.Clock`."""
    reveal: Callable[[Secret], str] = _no_secrets
    """Reads a secret when it is used. :raises ValueError: with what to do."""
    other: Callable[[str], Any] = _no_others
    """Gives another layer of the service, once all are built. :raises ValueError: there is none; what to do."""
    clusters: Mapping[str, ClusterSettings] = field(default_factory=dict)
    """The Kubernetes clusters that the configuration names."""
    epoch: int = 0
    """Goes up with each daemon that drives, where that may be one of several; whoever is given a lower one than before
    is asked by a daemon that lost. 0: there is one daemon."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a layer needs of the host that the shipped unit does not give. An adapter may have it as `needs`;
    `rollbackd check` prints what grants it. Without it a layer whose resource is a path needs to write there.
    """

    writes: Sequence[Path] = ()
    """Files and directories that it writes to."""
    units: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Units of systemd, each with the verbs that are asked for."""
    bracket_units: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The same, of what is asked for only where a plan enters the layer as a bracket."""
    alone: Sequence[Path] = ()
    """Files and directories that it moves as a whole: nothing in them may be moved by another such layer."""
    moves: Sequence[Path] = ()
    """Files and directories that its steps replace besides, such as a work tree: what rests on them goes first."""


@runtime_checkable
class Adapter(Protocol):
    """One layer of one service. All of it may be called again after a crash."""

    settings_model: ClassVar[type[Settings]]

    def __init__(self, settings: Any, place: Place) -> None: ...

    @property
    def traits(self) -> Traits:
        """What this layer can be used for, from its settings alone."""
        ...

    @property
    def resource(self) -> str:
        """What two steps must never share: a repository's path, a unit. Equal texts exclude each other.

        A part of what another layer moves is that text, a space, and which part.
        """
        ...

    async def current(self) -> Release:
        """The release that is there now. Read only. Not called when it has no releases.

        :raises MixedError: its parts have different ones.
        """
        ...

    async def releases(self) -> Sequence[Release]:
        """What can be gone back to, newest first. Read only."""
        ...

    async def plan(self, target: Release) -> Change:
        """The way to `target`: before, after, risks, reversible. Read only; `key` and `intended` are left empty."""
        ...

    async def apply(self, change: Change) -> None:
        """Do the change, or go on with what a crash cut off. Refuses unless `before` runs now or `change.key` began it.

        :raises AdapterError: permanent when trying again cannot help.
        """
        ...

    async def progress(self, change: Change) -> Progress:
        """How far the change is, asked of the world itself. DONE includes everything that belongs to the change."""
        ...

    async def ready(self) -> Sequence[Problem]:
        """What would stop a rollback right now. Read only."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A layer that is told of changes. Its `current` may answer what it was told last, while that is known to be fresh;
    what acts asks.
    """

    async def asked(self) -> Release:
        """What `current` answers, asked of the world itself. Read only."""
        ...

    async def unwatched(self) -> Sequence[str]:
        """What keeps it from being told, a sentence each with what to do: `current` asks then. Read only.

        :raises AdapterError: that cannot be asked.
        """
        ...


@runtime_checkable
class Bracket(Protocol):
    """A layer that is entered before the steps and left after them."""

    async def inside(self, key: str) -> bool:
        """Whether it is entered. Read only."""
        ...

    async def enter(self, key: str) -> None:
        """Enter. Harmless when it is entered already."""
        ...

    async def leave(self, key: str) -> None:
        """Leave. Harmless when it was left already."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A layer whose step goes in stages, and that asks a check of the service between two of them."""

    async def apply_in_stages(self, change: Change, ask: Callable[[str], Awaitable[CheckResult]]) -> None:
        """Do what `apply` does. `ask` runs the check of that name once."""
        ...


@dataclass(frozen=True, slots=True)
class Discovered:
    """Something that runs elsewhere and could be a service of one layer."""

    names: Sequence[str]
    """What it may be called; the first that is free."""
    labels: Mapping[str, str]
    """What its signals are likely to have."""
    layer: Mapping[str, str]
    """The layer's settings, as the configuration writes them."""
    remarks: Sequence[str] = ()
    """Sentences for people: what stands against a rollback of it."""


@runtime_checkable
class Discovers(Protocol):
    """An adapter, its class, that can say what there is to roll back."""

    @staticmethod
    async def discover(place: Place, cluster: str, namespace: str, label: str = "") -> Sequence[Discovered]:
        """What runs there. Read only.

        :param label: only what has that label, whose value is then its name.
        :raises AdapterError: it cannot be asked.
        """
        ...


@runtime_checkable
class Noting(Protocol):
    """A layer that can have something to tell people of what was done: it is, and yet not as they would expect."""

    async def note(self, key: str) -> str:
        """A sentence or two, or nothing. Read only; asked after each, again where a crash came between.

        :param key: of the change, or of the bracket.
        """
        ...


@runtime_checkable
class PointInTime(Protocol):
    """A layer of data, whose rows change all the time. Its release is its *lineage*: which restore it stems from, not
    what it holds; so two looks agree, and a restore is a change. Its `traits` have `data`.

    What it can go back to are copies: `Release.created` is the time whose data comes back, and no id comes twice, so
    that a copy which was restored once has another id the next time. `plan` sets `Change.loss`. It reads no copy as a
    whole: that is done when a copy is taken, on the calendar, and while it is restored.
    """

    async def as_of(self, time: datetime) -> Release:
        """The release that brings back the data of that time, or of the newest time before it that there is. Read only.

        :raises AdapterError: there is none; why, and what to do.
        """
        ...


@runtime_checkable
class Marks(Protocol):
    """A layer of data that can mark what it holds now, so that exactly this can be gone back to."""

    async def mark(self, at: datetime, why: str) -> None:
        """Set a mark; `as_of(at)` finds it. What was committed before this was called is in it. It takes a moment, and
        does nothing where the layer has only copies.

        :param at: now, as the journal has it.
        :param why: one word: `change`, `good`.
        """
        ...


@runtime_checkable
class RestsOn(Protocol):
    """A layer that works by means of another layer, and by files of another one as they are now."""

    @property
    def rests_on(self) -> Sequence[Path]:
        """The files. A plan that moves them before a step of this layer is an error of the configuration."""
        ...

    def misfit(self) -> str:
        """What is wrong with the layer that it names; empty: nothing. Asked once all layers are built."""
        ...


@runtime_checkable
class KeepsSchema(RestsOn, Protocol):
    """A layer whose release other layers must fit: code that goes back alone meets the present one."""

    @property
    def part_of(self) -> str:
        """The layer that takes it back as a whole with all else that it has; empty: none does."""
        ...

    async def unfit(self, release: Release) -> Sequence[str]:
        """What that was written for a release would miss in the present one, a sentence an object. Read only."""
        ...


@runtime_checkable
class CarriedAlong(KeepsSchema, Protocol):
    """One of which it is known what it becomes when the layer that it is part of goes back."""

    async def carried_by(self, release: Release) -> Release | None:
        """What a release of that layer brings back of this one; None: nobody knows. Read only."""
        ...


@runtime_checkable
class NamedByFile(KeepsSchema, Protocol):
    """One of which a release of the code can say in a file which release it was written for."""

    @property
    def named_in(self) -> Path | None:
        """The file, among the code's; None: none says so."""
        ...

    def named(self, text: str) -> Release:
        """The release that the text of the file names. :raises AdapterError: it names none."""
        ...


@runtime_checkable
class ReadsReleases(Protocol):
    """A layer of files, that can read one as a release has it, without going there."""

    async def read(self, release: Release, path: Path) -> str:
        """The text of a file, by the path that it has here once that release runs; empty where it has no such file.
        Read only.
        """
        ...


@runtime_checkable
class Upgrades(Protocol):
    """A layer that also goes forward, when a person orders it: never by a rollback."""

    async def forward(self, to: str = "") -> Change:
        """The way forward, with its key: of the newest one that was cut off, else a new one. Read only. Where it leads
        nowhere `before` and `after` are the same.

        :param to: what is wanted; empty: the newest that there is.
        :raises AdapterError: no way forward leads there; what to do.
        """
        ...

    async def upgrade(self, change: Change) -> str:
        """Take a verified copy of what is there and go forward, or go on with what a crash cut off; the copy's name.

        :raises AdapterError: where it ended, and which copy has what was there before.
        """
        ...

    async def stands_midway(self) -> str:
        """Where an upgrade that was cut off left it, and what to do, in a sentence; empty: none did. Read only.

        :raises AdapterError: it cannot be told.
        """
        ...


def refuses_older(adapter: object) -> bool:
    """Whether what it moves refuses a daemon that lost, by its epoch. An adapter says so with `fences`."""
    return bool(getattr(adapter, "fences", False))


def is_moved_by(adapter: Adapter, path: Path) -> bool:
    """Whether a step of a layer may replace what is at a path."""
    needs = getattr(adapter, "needs", None)
    own = (*needs.moves, *needs.alone) if isinstance(needs, Needs) else written_by(adapter)
    return adapter.traits.step and any(path.is_relative_to(one) for one in own)


_PATH = re.compile(r"(?:[a-z_]+:)?(/.*)", re.DOTALL)
"""A resource that is a place on this host: `symlink:/srv/checkout`."""


def written_by(adapter: Adapter) -> Sequence[Path]:
    """The files and directories that a layer writes to; one that says nothing of its needs writes to its resource."""
    if isinstance(needs := getattr(adapter, "needs", None), Needs):
        return needs.writes
    found = _PATH.fullmatch(adapter.resource)
    return (Path(found[1]),) if found else ()


# -- snapshots ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A layer's content as it was kept at one time."""

    name: str
    """Unique in its layer: `[A-Za-z0-9][A-Za-z0-9._-]*`, 120 characters at most. The release's label."""
    release: str
    """The id of the release whose content it is; several snapshots can have one."""
    created: datetime
    why: str = ""
    """One word: `auto`, `manual`, `before`, `import`, `schedule`, …"""
    size: int = 0
    """How many bytes it holds, not how many it takes: equal content is stored once."""
    files: int = 0
    restorable: bool = True
    """Whether all that it needs is there. Whether it is unharmed only `verify` says."""
    lineage: str = ""
    """Of a copy of data: the id of the release that ran when it was taken; `release` is its own."""
    kind: str = ""
    """`schema`: it has no rows, so nothing is restored from it; empty: it holds all that the layer has."""


@dataclass(frozen=True, slots=True)
class SnapshotProblem:
    """What is wrong with a snapshot, or with one part of it."""

    snapshot: str
    path: str
    """Which part; empty for all of it."""
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs between two snapshots, or between a snapshot and what is there."""

    path: str
    """A file's path, or another name for a part that the layer has: `/srv/x/.env NAME`."""
    kind: Literal["added", "removed", "changed"]
    """From the older to the newer."""
    lines: tuple[str, ...] = ()
    """What differs, for people, with secrets masked: lines that begin with `+`, `-` or a word. Bounded."""


@runtime_checkable
class Prunes(Protocol):
    """A layer that drops the oldest of what it could go back to. It does so only when it is asked, each night: nobody
    else knows what is still needed.
    """

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        """Drop what the layer's retention does not keep; the names of the dropped.

        :param spare: ids of releases that are never dropped: what runs, good states, targets of open incidents, and
            what a plan names.
        :param last: how many of the newest are kept, instead of the number that the layer's settings say; 0: theirs.
        """
        ...


@runtime_checkable
class Snapshots(Prunes, Protocol):
    """A layer that keeps its own past. Values go through JSON as they are; all of it may be called again after a crash.

    To restore the newest good one, verify from newest to oldest and take the first without problems.
    """

    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        """Keep what is there now. The same name again gives the same snapshot, when nothing changed since.

        :param name: empty: `snapshot-<why>-<time in UTC>`.
        :raises AdapterError: permanent for a name that cannot be one, or that other content has already.
        """
        ...

    async def snapshots(self) -> Sequence[Snapshot]:
        """All of them, newest first; those that cannot be restored too. Read only."""
        ...

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        """Read all of it and compare every hash; nothing is wrong when nothing is answered.

        :raises AdapterError: permanent when there is no such snapshot.
        """
        ...

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        """What changed from one to the other, or to what is there now when `newer` is empty. Read only."""
        ...

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        """Put a snapshot in place, or go on with what a crash cut off; the present state is saved first.

        :param key: a name for this one restore, the same after a crash.
        :param only: parts that the layer can restore separately (`files`, `variables`); empty: all.
        :returns: the snapshot that saved what was there before.
        :raises AdapterError: what was there before is there again, or the message says what is not.
        """
        ...

    async def export_to(self, name: str, path: str) -> None:
        """Write a snapshot as one file at an absolute path on the layer's host; it appears whole or not at all."""
        ...

    async def import_from(self, path: str) -> Snapshot:
        """Take in what `export_to` wrote, here or elsewhere, once every hash agrees.

        :raises AdapterError: permanent when it is damaged, or not such a file; nothing of it is kept.
        """
        ...


@runtime_checkable
class KeepsReplaced(Snapshots, Protocol):
    """A layer of data that keeps what a restore replaced, and can say what was written after the copy was made."""

    async def lost(self, *, export: bool = False) -> Sequence[Difference]:
        """What the last restore left behind, a table each, as numbers.

        :param export: write the rows themselves to files that only we may read, and say where.
        :raises AdapterError: what was replaced is gone, or cannot be read.
        """
        ...


@runtime_checkable
class KeepsSchemas(Snapshots, Protocol):
    """A layer of data that also keeps its schema alone, for people to look at. `snapshots` tells of these too."""

    async def take_schema(self, why: str = "manual") -> Snapshot:
        """Keep the schema that is there, and no row."""
        ...

    async def prune_schemas(self, last: int = 0) -> Sequence[str]:
        """Drop all but the newest of these; the names of the dropped.

        :param last: how many are kept; 0: as many as the layer's settings say of copies.
        """
        ...


def is_exported(adapter: object) -> bool:
    """Whether its snapshots can be written to a file of this host, and read from one. An adapter whose cannot, since
    they are elsewhere, says so with `exported = False`.
    """
    return bool(getattr(adapter, "exported", True))


@runtime_checkable
class Rehearses(Snapshots, Protocol):
    """A layer that can put a snapshot together in a place of its own, to see that it can be restored."""

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        """Restore it into an empty scratch place, never over what is live, and compare that with what was saved.

        The place is emptied again, and what a kill left of an earlier one too. It may take long, and a rollback of the
        layer does not wait for it. Nothing is wrong when nothing is answered.

        :raises AdapterError: it could not be tried; permanent when there is no such snapshot.
        """
        ...


# -- checks -------------------------------------------------------------------------------------
class CheckSettings(Spec):
    """One check in the configuration; its kind is the key that names what is checked (`http`, `tcp`, …)."""

    timeout: Duration = timedelta(seconds=10)
    warn: bool = False
    """Told, never fails."""


async def _no_releases(layer: str) -> Sequence[Release]:
    raise AdapterError(f"{layer}: layers cannot be asked here", permanent=True)


async def _no_comparison(_when: Any, _since: datetime | None) -> None:
    return None


def _never_held_up(_since: float) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class CheckPlace:
    """What a check may use."""

    name: str
    """The check's name in results: its name in the configuration, or its kind and subject."""
    service: str
    labels: Mapping[str, str]
    """The service's first `match`: what a query's answer is narrowed to."""
    spawner: Any
    """The `rollbackd.system.spawner.Spawner`."""
    clock: Any
    """The `rollbackd.system.clock.Clock`."""
    http: Callable[[], Any]
    """Gives the daemon's `aiohttp.ClientSession`."""
    prometheus: Any
    """The `rollbackd.signals.prometheus.Prometheus`, or None when none is configured."""
    reveal: Callable[[Secret], str] = _no_secrets
    """Reads a secret when it is used. :raises ValueError: with what to do."""
    releases: Callable[[str], Awaitable[Sequence[Release]]] = _no_releases
    """Gives what a layer has now, then what it can go back to. :raises AdapterError: it does not say."""
    compare: Callable[[Any, datetime | None], Awaitable[Any]] = _no_comparison
    """Judges, for this service, a query condition that compares; None where nobody can."""
    memory: MutableMapping[str, Any] = field(default_factory=dict)
    """What this check keeps from one look to the next; gone when the daemon ends."""
    held_up: Callable[[float], float] = _never_held_up
    """How many seconds since then, by the event loop's time, our own loop held everything up."""


@runtime_checkable
class Check(Protocol):
    """One question about health. It does not raise for what it finds: a failure to ask is a result too, and says so."""

    settings_model: ClassVar[type[CheckSettings]]

    def __init__(self, settings: Any, place: CheckPlace) -> None: ...

    async def run(self, since: datetime | None = None) -> CheckResult:
        """Ask once. `since` is when the last step ended: what reaches back before it is inconclusive."""
        ...


# -- notifiers ----------------------------------------------------------------------------------
class DeliveryError(Exception):
    """A message was not delivered; `permanent` when sending the same again cannot help."""

    def __init__(self, message: str, *, permanent: bool, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after = retry_after


class PartlyDeliveredError(DeliveryError):
    """Some of a receiver's recipients took a message, others did not: only these are tried again."""

    def __init__(self, message: str, *, left: Sequence[str], lost: Sequence[str]) -> None:
        super().__init__(message, permanent=not left)
        self.left = tuple(left)
        """Who may take it later."""
        self.lost = tuple(lost)
        """Who never will, such as an address that there is not."""


HEADLINE = 120
"""Characters of a message's headline; what a phone shows."""


AnswerOrder = Literal["approve", "deny", "abort", "acknowledge"]


@dataclass(frozen=True, slots=True)
class AnswerButton:
    """One thing that a person can say by a click, and the command that says the same."""

    order: AnswerOrder
    of: str
    """An incident's id, or a service."""
    command: str
    meaning: str
    """What becomes of it, as a sentence; people see it before they confirm."""
    asked: datetime | None = None
    """When the question that it answers was asked; it is no answer to a later one."""


@dataclass(frozen=True, slots=True)
class Message:
    """What people are told, before a receiver's own format. All values are text and may hold anything."""

    key: str
    """Stable over retries and restarts: the receiver may see it twice, with this."""
    event: str
    """`opened`, `recovered`, `refused`, `reminder`, … (design section 13)."""
    title: str
    """One line."""
    lines: Sequence[tuple[str, str]]
    """Heading and text: what happened, why, from, to, what is next, how to stop it. In somebody's own words a heading
    may be empty."""
    severity: Literal["info", "warning", "critical"]
    thread: str
    """The same for all messages of one trouble: an incident's id, a refused episode. PagerDuty's dedup_key, after
    `source`."""
    at: datetime
    service: str = ""
    incident: str = ""
    priority: Priority | None = None
    resolves: bool = False
    """Whether the trouble is over, and verified."""
    settles: tuple[str, ...] = ()
    """Other threads whose trouble is over with this."""
    acknowledged: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    """Who speaks: `daemon.name`."""
    link: str = ""
    """Where its page is; empty without `daemon.url`."""
    own_words: bool = False
    """Whether the title is in the receiver's own words, and is shown as it is."""
    count: int = 1
    """How many messages were made into this one, of several troubles."""
    services: tuple[str, ...] = ()
    """All services that it is about, where these are several."""
    buttons: tuple[AnswerButton, ...] = ()
    """What people can answer while this is how it stands, three at most; a receiver that can edit it may offer them."""
    recipients: tuple[str, ...] = ()
    """Those of the receiver's recipients that it is for, when the others have it already; empty: for all."""
    plot: str = ""
    """What its rule measured around the onset, as SVG; only for a receiver that shows plots."""

    @property
    def headline(self) -> str:
        """The title with who speaks and how urgent it is: `[ops-1] P1 checkout rolling back: v5 -> v4`."""
        if self.own_words:
            return self.title
        source = f"[{self.source}]" if self.source else ""
        full = " ".join(part for part in (source, str(self.priority or ""), self.title) if part)
        return full if len(full) <= HEADLINE else f"{full[: HEADLINE - 1]}…"


class NotifierSettings(Spec):
    """A receiver's own part of the configuration."""


@runtime_checkable
class Notifier(Protocol):
    """A way to tell people. One that keeps what it is told open, by its thread, until that is resolved has
    `keeps_open = True`: what told of several troubles at once is resolved there when the last of them has ended. One
    that keeps what changed beside the troubles has `keeps_changes = True`, and alone hears the event `changed`. One
    that can attach a plot has `shows_plots = True`.
    """

    settings_model: ClassVar[type[NotifierSettings]]

    def __init__(self, settings: Any, reveal: Callable[[Secret], str], http: Callable[[], Any]) -> None: ...

    async def send(self, message: Message) -> None:
        """Deliver a message, within 30 s.

        :raises DeliveryError: permanent when the receiver will never take it.
        """
        ...
