"""Small plugins whose settings are fixed here, so that the texts of faults do not depend on the shipped ones."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field, field_validator

from rollbackd.adapter import CheckPlace, CheckSettings, Message, NotifierSettings, Place, Settings
from rollbackd.model import Change, CheckResult, Problem, Progress, Release, Traits, Verdict
from rollbackd.plugins import Plugins
from rollbackd.syntax.units import Duration, Ratio, Secret


class GitSettings(Settings):
    """A repository."""

    repo: str
    """The work tree."""
    branch: str = "main"
    then: tuple[tuple[str, ...], ...] = ()
    token: Secret | None = None


class CommandSettings(Settings):
    """A tool."""

    apply: tuple[str, ...] = ()
    current: tuple[str, ...] = ()
    enter: tuple[str, ...] = ()  # type: ignore[assignment]  # a kind of its own
    data: bool = False
    environment: dict[str, str | Secret] = {}

    @field_validator("apply")
    @classmethod
    def _no_shell(cls, apply: tuple[str, ...]) -> tuple[str, ...]:
        if apply[:1] == ("sh",):
            raise ValueError("no shell here; write the program itself")
        return apply


class Layer:
    """What the methods of both have in common: nothing is ever moved."""

    settings_model: ClassVar[type[Settings]] = Settings
    resource = "nothing"
    traits = Traits()

    def __init__(self, settings: Any, place: Place) -> None:
        self.settings = settings
        self.place = place

    async def current(self) -> Release:
        return Release("a")

    async def releases(self) -> Sequence[Release]:
        return [Release("a")]

    async def plan(self, target: Release) -> Change:
        return Change(self.place.layer, Release("a"), target)

    async def apply(self, change: Change) -> None:
        return

    async def progress(self, change: Change) -> Progress:
        return Progress.DONE

    async def ready(self) -> Sequence[Problem]:
        return []


class Git(Layer):
    settings_model: ClassVar[type[Settings]] = GitSettings
    traits = Traits(local=True)

    def __init__(self, settings: Any, place: Place) -> None:
        super().__init__(settings, place)
        if not settings.repo.startswith("/"):
            raise ValueError("`repo` is an absolute path; write it from /")
        self.resource = settings.repo


class Command(Layer):
    settings_model: ClassVar[type[Settings]] = CommandSettings

    def __init__(self, settings: Any, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"command:{place.service}/{place.layer}"
        self.traits = Traits(
            releases=bool(settings.current), step=bool(settings.apply), bracket=bool(settings.enter), data=settings.data
        )


class HttpSettings(CheckSettings):
    """A page."""

    http: str
    below: Duration | None = None


class QuerySettings(CheckSettings):
    """A query."""

    query: str
    below: Ratio | None = None
    http: str = ""
    """A key that is another kind's name: this is a query all the same."""


class CheckCommandSettings(CheckSettings):
    """A program."""

    command: tuple[str, ...] = Field(min_length=1)


class Answer:
    """A check that is content."""

    settings_model: ClassVar[type[CheckSettings]] = CheckSettings

    def __init__(self, settings: Any, place: CheckPlace) -> None:
        self.settings = settings
        self.place = place

    async def run(self, since: datetime | None = None) -> CheckResult:
        return CheckResult(self.place.name, Verdict.GOOD, "fine")


class Http(Answer):
    settings_model: ClassVar[type[CheckSettings]] = HttpSettings


class Query(Answer):
    settings_model: ClassVar[type[CheckSettings]] = QuerySettings


class CheckCommand(Answer):
    settings_model: ClassVar[type[CheckSettings]] = CheckCommandSettings


class SlackSettings(NotifierSettings):
    """A room."""

    webhook_url: Secret


class EmailSettings(NotifierSettings):
    """Letters."""

    to: tuple[str, ...]
    from_: str = Field(alias="from")


class Slack:
    settings_model: ClassVar[type[NotifierSettings]] = SlackSettings

    def __init__(self, settings: Any, reveal: Any, http: Any) -> None:
        self.settings = settings

    async def send(self, message: Message) -> None:
        return


class Email(Slack):
    settings_model: ClassVar[type[NotifierSettings]] = EmailSettings


STAND_INS = Plugins(
    {"git": Git, "command": Command},
    {"http": Http, "query": Query, "command": CheckCommand},
    {"slack": Slack, "email": Email},
)
