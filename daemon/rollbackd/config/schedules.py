"""What is done on a calendar, as the configuration writes it. Each kind of entry is told by a key of its own."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from rollbackd.syntax.cron import CronTimes, check_cron, check_zone
from rollbackd.syntax.units import Duration, OneOrMany, Ref, Secret, Spec, Vector

FILE, NAME, DIRECTORY = "{file}", "{name}", "{directory}"


def _often_enough(length: timedelta) -> timedelta:
    if length < timedelta(minutes=1):
        raise ValueError("this is at least 1m; write it like 6h")
    return length


def _has_file(command: tuple[str, ...]) -> tuple[str, ...]:
    if not any(FILE in part for part in command[1:]):
        raise ValueError(f"nothing of it is {FILE}; write that where the path of the file to send goes")
    return command


def _has_directory(command: tuple[str, ...]) -> tuple[str, ...]:
    for placeholder, what in ((NAME, "the name of the file to fetch"), (DIRECTORY, "the directory to put it into")):
        if not any(placeholder in part for part in command[1:]):
            raise ValueError(f"nothing of it is {placeholder}; write that where {what} goes")
    return command


class OnCalendar(Spec):
    """When: a cron line, or a distance."""

    ways: ClassVar[Mapping[str, str]] = {"cron": 'cron: "0 2 * * *"', "every": "every: 6h"}
    """The keys that say when, each as it is written."""
    cron: Annotated[str, AfterValidator(check_cron)] = ""
    """Minute, hour, day of the month, month, day of the week, as crontab(5) has them."""
    every: Annotated[Duration, AfterValidator(_often_enough)] | None = None
    """Instead of `cron`: so long after the one before."""
    zone: Annotated[str, AfterValidator(check_zone)] = "UTC"
    """The time zone of `cron`."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len([name for name in self.ways if getattr(self, name)]) != 1:
            *others, last = self.ways.values()
            raise ValueError(f"it says when in one way; write {', '.join(others)} or {last}")
        return self

    @property
    def times(self) -> CronTimes | None:
        """The times of the entry; None when it has neither `cron` nor `every`."""
        return CronTimes(self.cron, self.every, self.zone) if self.cron or self.every is not None else None


class Offsite(Spec):
    """Copies elsewhere, by commands: argument vectors in which `{file}`, `{name}` and `{directory}` are filled in."""

    push: Annotated[Vector, AfterValidator(_has_file)]
    """Sends `{file}`, a path whose last part is the copy's name."""
    list: tuple[str, ...] = ()
    """Prints what is there, a name a line; what is before the last slash of a line does not count."""
    pull: Annotated[Vector, AfterValidator(_has_directory)] | None = None
    """Fetches the copy `{name}` into `{directory}`, under that name."""
    timeout: Annotated[Duration, AfterValidator(_often_enough)] = timedelta(minutes=30)
    """For each of `push` and `pull`."""
    key: Secret | None = None
    """Signs copies: whatever bears no signature of this key, and is not known to the journal, is not taken in."""
    list_timeout: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(minutes=1)
    """For `list`."""

    @model_validator(mode="after")
    def _both_ways(self) -> Self:
        if bool(self.list) != (self.pull is not None):
            raise ValueError("`list` and `pull` go together: what is there, and how one of it is fetched; give both")
        return self


class SnapshotSchedule(OnCalendar):
    """Snapshots of a layer: taken, verified, sent elsewhere; old ones are dropped."""

    ways: ClassVar[Mapping[str, str]] = {**OnCalendar.ways, "when": "when: good"}
    snapshot: str = Field(min_length=1)
    """SERVICE/LAYER, or SERVICE for all of its layers that keep snapshots."""
    kind: Literal["full", "schema"] = "full"
    """`schema`: of a database its schema alone, for people to look at; nothing is restored from that."""
    when: Literal["good"] | None = None
    """Instead of `cron` and `every`: each time that the state which runs has become good."""
    keep: int = Field(default=0, ge=0)
    """How many of the newest are kept, instead of the number in the layer's own settings; 0: that number."""
    verify: bool = True
    """Read and hash each one once it is taken."""
    restore_test: Annotated[str, AfterValidator(check_cron)] | None = None
    """A cron line: when the newest one, and the one that a rollback would go to, are restored into a scratch place and
    compared."""
    offsite: Offsite | None = None
    """Copies on another disk or host."""


class DrillSchedule(OnCalendar):
    """Drills of a service."""

    drill: Annotated[str, Ref("service")] = Field(min_length=1)
    """The service."""
    plan: Annotated[str, Ref("plan")] = ""
    """One of its plans; empty: its own list."""
    execute: bool = False
    """Go back for real and return; only where the service says `drill: true`."""


class ReportSchedule(Spec):
    """The report of the month before, sent to people."""

    report: Literal["month"]
    """Which."""
    cron: Annotated[str, AfterValidator(check_cron)]
    """A cron line, such as `0 7 1 * *`."""
    zone: Annotated[str, AfterValidator(check_zone)] = "UTC"
    """The time zone of `cron`."""
    to: Annotated[tuple[str, ...], OneOrMany(), Ref("receiver")] = Field(min_length=1)
    """Receivers by name, whatever the routes say."""

    @property
    def times(self) -> CronTimes:
        return CronTimes(self.cron, zone=self.zone)


SCHEDULES: Mapping[str, type[Spec]] = {
    "snapshot": SnapshotSchedule,
    "drill": DrillSchedule,
    "report": ReportSchedule,
}
"""What an entry of `schedules` can be, by the key that says so; the first that it has counts."""


def _kind(value: object) -> str | None:
    written = value if isinstance(value, dict) else {}
    found = (key for key, model in SCHEDULES.items() if key in written or isinstance(value, model))
    return next((f"<{key}>" for key in found), None)


Schedule = Annotated[
    Annotated[SnapshotSchedule, Tag("<snapshot>")]
    | Annotated[DrillSchedule, Tag("<drill>")]
    | Annotated[ReportSchedule, Tag("<report>")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message=f"no kind of schedule here; write one of {', '.join(sorted(SCHEDULES))}",
        custom_error_context={"word": "schedule", "kinds": ", ".join(sorted(SCHEDULES))},
    ),
]
"""One entry of `schedules`; the key `snapshot`, `drill` or `report` says of which kind."""
