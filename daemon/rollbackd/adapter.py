"""The contracts of what is plugged in: adapters, brackets, checks, notifiers. The core imports no plugin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from rollbackd.model import Change, CheckResult, Priority, Problem, Progress, Release, Traits
from rollbackd.units import Duration, Secret, Spec


class AdapterError(Exception):
    """An adapter's failure; whoever raises it says whether trying again helps."""

    def __init__(self, message: str, *, permanent: bool, evidence: str = "") -> None:
        super().__init__(message)
        self.permanent = permanent
        self.evidence = evidence
        """The last output of what failed, with secrets removed."""


class Settings(Spec):
    """A layer's part of the configuration. Every adapter's settings model derives from it."""

    adapter: str
    leave: Literal["steps", "gate", "verified", "acknowledged"] = "gate"
    """As a bracket: after what it is left."""
    done_when: str = ""
    """A check of the service; a step of this layer stays running until it passes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands, and what it may use."""

    service: str
    layer: str
    scratch: Path
    """A directory of this layer's own that survives a reboot: locks, records of finished commands, markers."""
    spawner: Any
    """The `rollbackd.process.Spawner`; adapters start programs with nothing else."""
    clock: Any
    """The `rollbackd.clock.Clock`."""


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
        """What two steps must never share: a repository's path, a unit. Equal texts exclude each other."""
        ...

    async def current(self) -> Release:
        """The release that is there now. Read only. Not called when it has no releases."""
        ...

    async def releases(self) -> Sequence[Release]:
        """What can be gone back to, newest first. Read only."""
        ...

    async def plan(self, target: Release) -> Change:
        """The way to `target`: before, after, risks, reversible. Read only; `key` and `intended` are left empty."""
        ...

    async def apply(self, change: Change) -> None:
        """Do it, or go on with what a crash cut off. Refuses unless `before` runs now or `change.key` began it.

        :raises AdapterError: permanent when trying again cannot help.
        """
        ...

    async def progress(self, change: Change) -> Progress:
        """How far it is, asked of the world itself. DONE includes everything that belongs to the change."""
        ...

    async def ready(self) -> Sequence[Problem]:
        """What would stop a rollback right now. Read only."""
        ...


@runtime_checkable
class Bracket(Protocol):
    """A layer that is entered before the steps and left after them."""

    async def inside(self, key: str) -> bool:
        """Whether it is entered. Read only."""
        ...

    async def enter(self, key: str) -> None:
        """Go in. Harmless when inside."""
        ...

    async def leave(self, key: str) -> None:
        """Go out. Harmless when outside."""
        ...


# -- checks -------------------------------------------------------------------------------------
class CheckSettings(Spec):
    """One check in the configuration; its kind is the key that names what is checked (`http`, `tcp`, …)."""

    timeout: Duration = timedelta(seconds=10)
    warn: bool = False
    """Told, never fails."""


def _no_secrets(_secret: Secret) -> str:
    raise ValueError("secrets cannot be read here")


@dataclass(frozen=True, slots=True)
class CheckPlace:
    """What a check may use."""

    name: str
    """What it is called in results: its name in the configuration, or its kind and subject."""
    service: str
    labels: Mapping[str, str]
    """The service's first `match`: what a query's answer is narrowed to."""
    spawner: Any
    """The `rollbackd.process.Spawner`."""
    clock: Any
    """The `rollbackd.clock.Clock`."""
    http: Callable[[], Any]
    """Gives the daemon's `aiohttp.ClientSession`."""
    prometheus: Any
    """The `rollbackd.sources.prometheus.Prometheus`, or None when none is configured."""
    reveal: Callable[[Secret], str] = _no_secrets
    """Reads a secret when it is used. :raises ValueError: with what to do."""


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
    """Heading and text: what happened, why, from, to, what is next, how to stop it."""
    severity: Literal["info", "warning", "critical"]
    thread: str
    """The same for all messages of one trouble: an incident's id, a refused episode. PagerDuty's dedup_key."""
    at: datetime
    service: str = ""
    incident: str = ""
    priority: Priority | None = None
    resolves: bool = False
    """The trouble is over, verified."""
    acknowledged: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


class NotifierSettings(Spec):
    """A receiver's own part of the configuration."""


@runtime_checkable
class Notifier(Protocol):
    """A way to tell people."""

    settings_model: ClassVar[type[NotifierSettings]]

    def __init__(self, settings: Any, reveal: Callable[[Secret], str], http: Callable[[], Any]) -> None: ...

    async def send(self, message: Message) -> None:
        """Deliver it, within 30 s.

        :raises DeliveryError: permanent when the receiver will never take it.
        """
        ...
