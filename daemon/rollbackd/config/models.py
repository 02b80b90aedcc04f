"""The configuration file as values. What adapters, checks and notifiers add is validated by their own models.

`load.py` derives from these a model whose plugin parts are unions of what is installed.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator

from rollbackd.adapter import CheckSettings, NotifierSettings, Settings
from rollbackd.incident.spec import PlanSpec, VerifySpec
from rollbackd.model import Priority
from rollbackd.policy.spec import Limits, PolicyRow, Window
from rollbackd.rules.spec import Rule
from rollbackd.units import Duration, Secret, Size, Spec

Mode = Literal["act", "shadow"]
Role = Literal["source", "viewer", "operator"]
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""Names of services, layers, plans, checks: what is safe as a file name, a git ref and a metric's label."""


class Token(Spec):
    """A bearer token of the HTTP side."""

    name: str = Field(pattern=NAME)
    role: Role
    token: Secret


class Daemon(Spec):
    """The daemon itself."""

    mode: Mode | None = None
    """`act`, or `shadow`: decide, record, tell, touch nothing. Required here or for each service."""
    listen: str = "127.0.0.1:9099"
    socket: Path = Path("/run/rollbackd/rollbackd.sock")
    journal: str = "sqlite:////var/lib/rollbackd/journal.db"
    signals: Path = Path("/var/lib/rollbackd/signals")
    scratch: Path = Path("/var/lib/rollbackd/layers")
    """Locks, records of finished commands and markers of the layers; survives a reboot."""
    tokens: tuple[Token, ...] = ()
    open_on_loopback: bool = False
    """Let anybody on this host use the HTTP side without a token; only when `listen` is a loopback address."""
    max_body: Size = 32 * 2**20
    look_every: Duration = timedelta(seconds=30)
    remind_every: Duration = timedelta(minutes=30)
    heartbeat: str = ""
    """Called every minute while all is well."""
    keep: Duration = timedelta(days=30)
    """How long handled signals stay in the inbox."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class PrometheusSettings(Spec):
    url: str
    timeout: Duration = timedelta(seconds=5)
    poll_every: Duration = timedelta(seconds=15)


class AlertmanagerSettings(Spec):
    url: str
    timeout: Duration = timedelta(seconds=5)


class Receiver(Spec):
    """Who is told, and how. The key beside `name` names the notifier (`slack`, `pagerduty`, …)."""

    name: str = Field(pattern=NAME)
    kind: str
    """The notifier's entry point; `load.py` takes it from the key."""
    settings: SerializeAsAny[NotifierSettings]


class RouteWhen(Spec):
    priority: tuple[Priority, ...] = ()
    service: tuple[str, ...] = ()
    event: tuple[str, ...] = ()

    @field_validator("priority", "service", "event", mode="before")
    @classmethod
    def _many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Route(Spec):
    to: tuple[str, ...] = Field(min_length=1)
    when: RouteWhen = RouteWhen()


class Notify(Spec):
    receivers: tuple[Receiver, ...] = ()
    routes: tuple[Route, ...] = ()
    """Every match is used; without routes every receiver hears everything."""


class Service(Spec):
    """What is rolled back as a unit."""

    name: str = Field(pattern=NAME)
    match: tuple[dict[str, str], ...] = Field(min_length=1)
    """Subsets of a signal's labels; the most specific service wins."""
    mode: Mode | None = None
    priority: Priority = Priority.P2
    layers: dict[str, SerializeAsAny[Settings]] = Field(min_length=1)
    """In plan order."""
    plans: dict[str, PlanSpec] = {}
    """None given: `default`, all layers as steps."""
    plan: tuple[str, ...] = ("default",)
    """Names, least impact first."""
    bake: Duration = timedelta(minutes=30)
    checks: dict[str, SerializeAsAny[CheckSettings]] = {}
    verify: VerifySpec

    @field_validator("match", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    @field_validator("plan", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Config(Spec):
    """All of it; `rules` are those of the file, of its packs and of its globs, in order, settings filled in."""

    daemon: Daemon = Daemon()
    prometheus: PrometheusSettings | None = None
    alertmanager: AlertmanagerSettings | None = None
    rules: tuple[Rule, ...] = ()
    windows: tuple[Window, ...] = ()
    limits: Limits = Limits()
    policy: tuple[PolicyRow, ...] = ()
    notify: Notify = Notify()
    services: tuple[Service, ...] = ()

    def service(self, name: str) -> Service | None:
        return next((service for service in self.services if service.name == name), None)

    def mode(self, service: Service) -> Mode:
        """:raises ValueError: never after loading; one of the two is required."""
        mode = service.mode or self.daemon.mode
        if mode is None:
            raise ValueError(f"{service.name}: no mode")
        return mode
