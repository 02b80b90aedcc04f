"""The configuration file as values. What adapters, checks and notifiers add is validated by their own models.

`load.py` derives from these a model whose plugin parts are unions of what is installed.
"""

import socket
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from rollbackd.adapter import CheckSettings, NotifierSettings, Settings
from rollbackd.config.report_lists import ReportLists
from rollbackd.config.schedules import Schedule
from rollbackd.incident.clocks import Terms
from rollbackd.incident.spec import CheckRef, PlanSpec, VerifySpec
from rollbackd.model import Priority
from rollbackd.notification_events import Audience
from rollbackd.policy.spec import PRIORITIES, Asking, Clocks, Limits, PolicyRow, Window
from rollbackd.rules.spec import Rule
from rollbackd.rules.weight import LABEL
from rollbackd.syntax.addresses import is_url
from rollbackd.syntax.clusters import ClusterSettings, each_once
from rollbackd.syntax.connections import ConnectionSettings, api_address, look_into
from rollbackd.syntax.units import Duration, OneOrMany, Ref, Secret, Size, Spec, read_by, show

Mode = Literal["act", "shadow"]
Role = Literal["source", "viewer", "operator"]
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""Names of services, layers, plans, checks: what is safe as a file name, a git ref and a metric's label."""
STEP_TARGETS: Mapping[str, timedelta] = {
    "files": timedelta(minutes=1),
    "env": timedelta(minutes=1),
    "git": timedelta(minutes=2),
}
"""The targets of steps that the configuration does not name, by adapter."""
LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path."""
JOURNAL = "sqlite:///"
"""What a journal's address begins with, before its absolute path."""
POSTGRES = "postgresql://"
"""What the address of a journal on PostgreSQL begins with."""


def _url(text: str) -> str:
    if not is_url(text):
        raise ValueError(f"{show(text)} is not a URL; write it like http://127.0.0.1:9090")
    return text


def _api_url(text: str) -> str:
    parts = urlsplit(_url(text))
    if "@" in parts.netloc:
        raise ValueError("a user or password in it is shown; give basic_auth: {username: …, password: {env: NAME}}")
    if parts.query or parts.fragment:
        raise ValueError(f"{show(text)} goes on after its path; write it like http://127.0.0.1:9090/prometheus")
    return text


def _without_password(text: str) -> str:
    parts = urlsplit(text)
    if ":" in parts.netloc.rpartition("@")[0] or "password" in parts.query:
        raise ValueError("it has a password, which would be shown; give `journal_password: {credential: NAME}`")
    return text


def _look_into(url: str | Secret | None, info: ValidationInfo) -> None:
    if isinstance(url, Secret):
        look_into(url, info, api_address)


def _url_or_none(text: str) -> str:
    return _url(text) if text else text


def _page_url(text: str) -> str:
    return _api_url(text).rstrip("/") if text else text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f'{show(str(path))} depends on where the daemon is started; write a path that begins with "/"')
    return path


def _fits_a_socket(path: Path) -> Path:
    """A path within the limit of unix(7): `sun_path` has 108 bytes, of which the last is zero."""
    if len(str(path).encode()) > LONGEST_SOCKET:
        raise ValueError(f"a socket's path has at most {LONGEST_SOCKET} bytes; write a shorter one")
    return path


def _actor(text: str) -> str:
    kind, colon, name = text.partition(":")
    if kind not in {"unix", "token", "slack"} or not colon or not name or any(letter.isspace() for letter in text):
        known = "a user of this host as unix:ann, a token as token:NAME, somebody of `people` in Slack as slack:ann"
        raise ValueError(f"{show(text)} is nobody; write {known}")
    return text


def _all_steps(given: dict[str, timedelta]) -> dict[str, timedelta]:
    return {**STEP_TARGETS, **given}


def _all_priorities(given: dict[Priority, Clocks]) -> dict[Priority, Clocks]:
    return {**PRIORITIES, **given}


def _enough_peers(services: tuple[str, ...]) -> tuple[str, ...]:
    if len(services) < 3:
        raise ValueError("two services cannot tell which of them is the sick one; name at least three")
    return services


def _some_time(length: timedelta) -> timedelta:
    if length < timedelta(milliseconds=100):
        raise ValueError("this is at least 100ms; write it like 30s")
    return length


Name = Annotated[str, Field(pattern=NAME)]
Actor = Annotated[str, AfterValidator(_actor)]
"""Who does something: `unix:ann`, `token:release-desk`."""
Host = Annotated[str, Field(max_length=63, pattern=r"^[\w.-]*$")]
Word = Annotated[str, Field(pattern=r"^\S+$")]
Label = Annotated[str, Field(pattern=LABEL)]
Labels = Annotated[dict[Label, Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Url = Annotated[str, AfterValidator(_url)]
ApiUrl = Annotated[str, AfterValidator(_api_url)]
"""Where an API is: its paths follow this, so it ends with a path, and holds no secret, since it is shown."""
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Interval = Annotated[Duration, AfterValidator(_some_time)]
"""A duration that something repeats at or is limited to; never so short that it spins."""


def listening(text: str) -> tuple[str, int]:
    """`127.0.0.1:9099` or `[::1]:9099` as host and port. :raises ValueError: for anything else."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    fits = colon and host and (bracketed or ":" not in host) and port.isascii() and port.isdigit() and len(port) <= 5
    if not fits or int(port) > 65535:
        raise ValueError(f"{show(text)} is not HOST:PORT; write it like 127.0.0.1:9099 or [::1]:9099")
    return host, int(port)


class Token(Spec):
    """A bearer token of the HTTP side."""

    name: Name
    """The actor is `token:` and this."""
    role: Role
    """`source` sends alerts and events and announces changes, `viewer` reads, `operator` may do everything."""
    token: Secret


class Heartbeat(ConnectionSettings):
    """Who is called while all is well."""

    url: Url | Secret
    """A dead man's switch outside of this host; a secret when whoever knows it could call it."""


class Daemon(Spec):
    """The daemon itself."""

    mode: Mode | None = None
    """`act`, or `shadow`: decide, record, tell, touch nothing. Required here or for each service."""
    listen: Annotated[str, read_by(listening)] = "127.0.0.1:9099"
    """Host and port of the webhook, the API, the page and the metrics; port 0 takes any that is free."""
    name: Annotated[str, Field(max_length=63, pattern=r"^[\w.-]*$")] = ""
    """Who speaks, on the page and in messages, and what PagerDuty's keys begin with; default: the host's name. No two
    daemons may share one, but those that stand by for each other."""
    host: Host = ""
    """What this host is called where several share a journal, each by a name of its own; default: the host's name."""
    url: Annotated[str, AfterValidator(_page_url)] = ""
    """Where people find the page and where links lead, with the path that a proxy has it below:
    `https://ops.example/rollbackd`."""
    socket: Annotated[AbsolutePath, AfterValidator(_fits_a_socket)] = Path("/run/rollbackd/rollbackd.sock")
    """The command line's way in; the peer's user is the actor."""
    journal: str = "sqlite:////var/lib/rollbackd/journal.db"
    """Where everything is remembered: `sqlite:///` and an absolute path, or a database of PostgreSQL 14 or later:
    `postgresql://rollbackd@db1,db2/rollbackd`."""
    journal_password: Secret | None = None
    """For a journal on PostgreSQL; none: libpq's own ways, such as `.pgpass`."""
    durability: Literal["replicated", "local"] = "replicated"
    """Of a journal on PostgreSQL: `replicated` is refused by a primary that waits for no standby, `local` relies on
    the primary's own disk."""
    standby: bool = False
    """Of a journal on PostgreSQL: wait while another daemon drives it, and take over from it. A layer can be reached
    from both hosts, or its service says `on` which it is."""
    signals: AbsolutePath = Path("/var/lib/rollbackd/signals")
    """The directory of the manual override."""
    scratch: AbsolutePath = Path("/var/lib/rollbackd/layers")
    """Locks, records of finished commands and markers of the layers; survives a reboot."""
    reports: AbsolutePath | None = None
    """A directory that gets a report of each rollback, as Markdown and as a page; it is made where there is none.
    None given: no report is written."""
    tokens: tuple[Token, ...] = ()
    """Who may use the HTTP side, and for what."""
    open_on_loopback: bool = False
    """Let anybody on this host use the HTTP side without a token; only when `listen` is a loopback address."""
    max_body: Annotated[Size, Field(ge=1024)] = 32 * 2**20
    """The longest request that is taken; 10,000 alerts are 5.5 MiB."""
    look_every: Interval = timedelta(seconds=30)
    """How often the layers are asked what they run."""
    remind_every: Interval = timedelta(minutes=30)
    """How often people hear again of what nobody acknowledged."""
    heartbeat: Annotated[str, AfterValidator(_url_or_none)] | Heartbeat = ""
    """Called every minute while all is well: a URL, or `{url: …, proxy: …}` with what every connection may have."""
    keep: Interval = timedelta(days=30)
    """How long handled signals stay in the inbox."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged."""

    @property
    def called(self) -> str:
        """Who speaks."""
        return self.name or socket.gethostname()

    @property
    def whereabouts(self) -> str:
        """Who drives the journal, and where: two daemons of one configuration have the same name."""
        return self.here if self.called == self.here else f"{self.called} on {self.here}"

    @property
    def here(self) -> str:
        """What this host is called."""
        return self.host or socket.gethostname()

    @property
    def of_host(self) -> str:
        """What follows a user's name where several hosts share the journal: `@ops-1`; empty where this is the one."""
        return f"@{self.here}" if self.standby else ""

    @field_validator("journal")
    @classmethod
    def _is_journal(cls, text: str) -> str:
        if text.startswith(POSTGRES):
            return _without_password(text)
        path = text.removeprefix(JOURNAL)
        if path == text or not path.startswith("/") or path.endswith("/") or "?" in path:
            raise ValueError(
                f"{show(text)} is no journal; write it like {JOURNAL}/var/lib/rollbackd/journal.db, or like "
                f"{POSTGRES}rollbackd@db1,db2/rollbackd"
            )
        return text

    @model_validator(mode="after")
    def _of_one_database(self) -> Self:
        if self.standby and not self.journal.startswith(POSTGRES):
            raise ValueError("`standby` needs a journal that another host can take over; name one on PostgreSQL")
        if self.standby and not self.name:
            raise ValueError(
                "`standby` needs a `name`, under which pages are opened and closed; give both hosts the same"
            )
        return self


class PrometheusSettings(ConnectionSettings):
    """Who answers queries."""

    url: ApiUrl | Secret | None = None
    """Prometheus, or anything that speaks its query API; with the path that it lies below, if any; or a secret."""
    urls: tuple[ApiUrl, ...] = ()
    """Replicas, that know the same: the first that answers is asked. With `url` or instead of it."""
    replica_labels: tuple[str, ...] = ()
    """Labels that only say which of several Prometheus measured a series, such as `replica` at Thanos or Mimir. They
    are taken away, and series that are the same without them are one: the first of them, by these labels' values."""
    timeout: Interval = timedelta(seconds=5)
    """How long one query may take, at each of them."""
    poll_every: Interval = timedelta(seconds=15)
    """How often the rules' queries are asked."""
    unanswered: int = Field(default=5, ge=1)
    """So many polls in a row without an answer are borne in silence. They are counted apart from bad ones."""

    @model_validator(mode="after")
    def _somewhere(self, info: ValidationInfo) -> Self:
        _look_into(self.url, info)
        if not self.addresses:
            raise ValueError("nothing says where it is; give `url`, or `urls` of replicas")
        if len({str(url).rstrip("/") for url in self.addresses}) < len(self.addresses):
            raise ValueError("one server stands here twice; name each once")
        return self

    @property
    def addresses(self) -> tuple[str | Secret, ...]:
        """All of them, in order."""
        return (*(() if self.url is None else (self.url,)), *self.urls)


class AlertmanagerSettings(ConnectionSettings):
    """Who is asked what fires and what is silenced."""

    url: ApiUrl | Secret
    """Alertmanager's address, with the path that it lies below, if any; or a secret."""
    timeout: Interval = timedelta(seconds=5)
    """How long one request may take."""

    @model_validator(mode="after")
    def _somewhere(self, info: ValidationInfo) -> Self:
        _look_into(self.url, info)
        return self


class Receiver(Spec):
    """Who is told, and how. The key beside `name` names the notifier (`slack`, `pagerduty`, …)."""

    name: Name
    kind: str
    """The notifier's entry point; `load.py` takes it from the key."""
    settings: SerializeAsAny[NotifierSettings]
    says: dict[Annotated[str, Ref("event")], str] = {}
    """Words of its own, by event; it hears nothing else then."""
    audience: Audience = "team"
    """Who reads it."""


class RouteWhen(Spec):
    """All that are given must hold; a list is any of them."""

    priority: Annotated[tuple[Priority, ...], OneOrMany()] = ()
    """Of the trouble: P0 to P3."""
    service: Annotated[tuple[str, ...], OneOrMany(), Ref("service")] = ()
    """Services by name."""
    event: Annotated[tuple[str, ...], OneOrMany(), Ref("event")] = ()
    """What is told: `opened`, `asks`, `recovered`, `refused`, …"""


class Route(Spec):
    """Who hears of what."""

    to: Annotated[tuple[str, ...], OneOrMany(), Ref("receiver")] = Field(min_length=1)
    """Receivers by name."""
    when: RouteWhen = RouteWhen()
    """What is told to them; without it everything."""


class Tier(Spec):
    """The next people, when nobody acknowledges an incident."""

    after: Duration = timedelta()
    """How long after the opening. What failed, did not help, could not be verified or was not answered waits for no
    tier: the next one is told at once."""
    to: Annotated[tuple[str, ...], OneOrMany(), Ref("receiver")] = Field(min_length=1)
    """Receivers by name; they hear of it besides the routes, and of all that comes after."""


class Notify(Spec):
    """How people are told."""

    receivers: tuple[Receiver, ...] = ()
    """Who can be told."""
    templates: AbsolutePath | None = None
    """A directory with words of one's own: `team/slack/opened.j2`, by audience, kind of receiver and event."""
    routes: tuple[Route, ...] = ()
    """Every match is used; without routes every receiver hears everything."""
    escalation: tuple[Tier, ...] = ()
    """Who is told next, in order, until somebody acknowledges it."""


class Targets(Spec):
    """How long the work itself should take; people are told of what takes far longer."""

    steps: Annotated[dict[Annotated[str, Ref("adapter")], Interval], AfterValidator(_all_steps)] = dict(STEP_TARGETS)
    """Of a step, by its layer's adapter; told at half as much again. One that is not named keeps its own."""
    hotfix: Interval = timedelta(minutes=3)
    """Of all steps of a rollback that takes back a change announced as `hotfix`; told at half as much again."""
    recovery: Interval = timedelta(minutes=10)
    """From the first step to the end; told at twice as much."""


class Service(Spec):
    """What is rolled back as a unit."""

    name: Name
    """What it is called everywhere."""
    match: Annotated[tuple[Labels, ...], OneOrMany()] = Field(min_length=1)
    """Subsets of a signal's labels, any of which places it here; the most specific service wins."""
    mode: Mode | None = None
    """Instead of the daemon's."""
    on: Host = ""
    """The host that its layers are on, where several hosts share the journal: no other one touches them."""
    priority: Priority = Priority.P2
    """Of its triggers, where a rule says nothing else."""
    layers: dict[Name, SerializeAsAny[Settings]] = Field(min_length=1)
    """In plan order; `adapter` says what handles each."""
    plans: dict[Name, PlanSpec] = {}
    """None given: `default`, all layers that can be steps and hold no data."""
    plan: Annotated[tuple[str, ...], OneOrMany(), Ref("plan")] = Field(default=("default",), min_length=1)
    """Names, least impact first; the next one runs when the one before did not help."""
    bake: Duration = timedelta(minutes=30)
    """How long a state runs without trouble before it is good."""
    drill: bool = False
    """An executed drill may take it back for real, and return."""
    checks: dict[Name, SerializeAsAny[CheckSettings]] = {}
    """Named questions about its health, for rules and verification."""
    verify: VerifySpec
    """How it is seen that it got well."""
    evidence: tuple[CheckRef, ...] = ()
    """What is asked besides, for people to read, when a rollback does not help: dependencies, the host's figures, the
    last lines of a log. Nothing is decided by it."""

    def verified_by(self, plan: str) -> VerifySpec:
        """How it is seen that it got well by a plan: the plan's own way, else the service's."""
        own = self.plans.get(plan)
        return self.verify if own is None else own.verify or self.verify


class ServicesFrom(Spec):
    """Services that follow a cluster: one for each workload with a label."""

    adapter: Annotated[str, Ref("adapter")] = "kubernetes"
    """Who says what there is."""
    cluster: Annotated[str, Ref("cluster")]
    """One of `clusters`, by name."""
    namespaces: Annotated[tuple[str, ...], OneOrMany(), Field(min_length=1)]
    """Where workloads may take part."""
    label: str = Field(pattern=r"^(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
    """A workload with this label takes part; the label's value is the service's name."""
    act: Annotated[tuple[Name, ...], OneOrMany()] = ()
    """Those that may act. All others, new ones too, are in shadow mode until their names stand here."""
    at_most: int = Field(default=100, ge=1)
    """So many take part; further ones are refused and told."""
    every: Interval = timedelta(minutes=1)
    """How often the cluster is asked."""
    template: dict[str, Any]
    """A service without `name` and `mode`. `{name}`, `{namespace}` and `{workload}` may stand in its `match`, and in
    `namespace` and `workload` of its layers."""


class Person(Spec):
    """Somebody, under all the names by which rollbackd may meet them."""

    unix: Annotated[tuple[Word, ...], OneOrMany()] = ()
    """Users of this host."""
    tokens: Annotated[tuple[Word, ...], OneOrMany()] = ()
    """Names of `daemon.tokens` that are theirs alone."""
    slack: str = Field(default="", pattern=r"^([UW][A-Z0-9]{6,})?$")
    """The member id in Slack, such as U0123ABCD, as the member's profile shows it; a click's actor is slack:NAME."""
    pagerduty: str = Field(default="", pattern=r"^([A-Z0-9]{6,})?$")
    """The user's id in PagerDuty, such as PXPGF42, by which whoever announces a change may name who makes it."""
    role: Literal["viewer", "operator"] = "viewer"
    """What their clicks in Slack may do: `operator` orders, as on the socket; `viewer` nothing."""

    def actors(self, name: str) -> tuple[str, ...]:
        """Every way to name them as an actor."""
        here = (*(f"unix:{user}" for user in self.unix), *(f"token:{token}" for token in self.tokens))
        slack = (f"slack:{name}", f"slack:{self.slack}") if self.slack else ()
        return (*here, *slack, *((f"pagerduty:{self.pagerduty}",) if self.pagerduty else ()))


class Config(Spec):
    """All of it; `rules` are those of the file, of its packs and of its globs, in order, settings filled in."""

    daemon: Daemon = Daemon()
    """The daemon itself."""
    prometheus: PrometheusSettings | None = None
    """Needed when a rule or a check asks a query."""
    alertmanager: AlertmanagerSettings | None = None
    """Asked what fires at the start; its silences count as holds."""
    clusters: Annotated[dict[Name, ClusterSettings], AfterValidator(each_once)] = {}
    """The Kubernetes clusters that layers are in, by name."""
    rules: tuple[Rule, ...] = ()
    """What makes a trigger."""
    peers: dict[Name, Annotated[tuple[str, ...], AfterValidator(_enough_peers), Ref("service")]] = {}
    """Services that do alike work, by group: what `against: {peers: NAME}` compares with; three at least."""
    windows: tuple[Window, ...] = ()
    """When automatic rollbacks are allowed; none given: always."""
    limits: Limits = Limits()
    """What keeps automatic rollbacks from doing harm."""
    policy: tuple[PolicyRow, ...] = ()
    """What is made of a trigger; the first row that matches wins, no match is roll_back."""
    asking: Asking = Asking()
    """What holds when people are asked and the policy's row says nothing else."""
    groups: dict[Name, Annotated[tuple[Actor, ...], OneOrMany()]] = {}
    """Who may say yes, by group: actors as `unix:ann` or `token:release-desk`."""
    people: dict[Name, Person] = {}
    """Who is who: approvals count persons, and clicks in Slack are somebody's."""
    priorities: Annotated[dict[Priority, Clocks], AfterValidator(_all_priorities)] = dict(PRIORITIES)
    """The clocks of each priority; one that is not named keeps its own."""
    targets: Targets = Targets()
    """How long the work itself should take."""
    notify: Notify = Notify()
    """How people are told."""
    reports: ReportLists = ReportLists()
    """What the reports of this host ask of people."""
    schedules: tuple[Schedule, ...] = ()
    """What is done on a calendar: snapshots, drills."""
    services: tuple[Service, ...] = ()
    """What is watched and rolled back."""
    services_from: tuple[ServicesFrom, ...] = ()
    """Services that follow a cluster."""

    @cached_property
    def by_name(self) -> Mapping[str, Service]:
        return {service.name: service for service in self.services}

    def service(self, name: str) -> Service | None:
        return self.by_name.get(name)

    @cached_property
    def persons(self) -> Mapping[str, str]:
        """Whose each actor is that `people` names."""
        return {actor: name for name, person in self.people.items() for actor in person.actors(name)}

    @property
    def poll_every(self) -> timedelta:
        """How often figures come, also where no Prometheus is asked for them."""
        return (self.prometheus or PrometheusSettings.model_construct()).poll_every

    @property
    def terms(self) -> Terms:
        """The clocks, targets and tiers of every incident."""
        tiers = tuple(tier.after for tier in self.notify.escalation)
        targets = self.targets
        return Terms(self.priorities, targets.steps, targets.hotfix, targets.recovery, tiers)

    def mode(self, service: Service) -> Mode:
        """The service's mode, else the daemon's. :raises ValueError: neither is there, never after loading."""
        mode = service.mode or self.daemon.mode
        if mode is None:
            raise ValueError(f"{service.name}: no mode")
        return mode
