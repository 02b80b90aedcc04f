"""What comes with a question or an order, whichever way it comes. Values only."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from rollbackd.config.models import NAME
from rollbackd.model import Priority
from rollbackd.syntax.units import Duration, Instant, Spec, format_duration

LONGEST_WAIT = timedelta(seconds=60)
_LAST = 2**63 - 1
"""The highest number that a record may have in the journal."""
Reason = Annotated[str, Field(max_length=2000)]
"""Free text for people."""
Reference = Annotated[str, Field(max_length=500)]
"""A release, a state's key, the name of a plan or a layer."""
Releases = Annotated[dict[Reference, Reference], Field(max_length=100)]
"""Layer to release: an id, seven or more characters that only one begins with, or a label; the key `""` is the only
layer."""


_LAYER = r"^([a-z0-9][a-z0-9._-]{0,62})?$"
assert NAME.strip("^$") in _LAYER

Layer = Annotated[str, Field(pattern=_LAYER)]
"""Empty: the only one of the service that keeps snapshots."""


class RequestFields(Spec):
    """What comes in; its fields' sentences are in /openapi.json."""


# -- queries ------------------------------------------------------------------------------------
class NoQuery(RequestFields):
    """Nothing may be asked."""


class ServiceQuery(RequestFields):
    service: str
    """Whose; newest first."""


class PastQuery(RequestFields):
    limit: int = Field(default=200, ge=1, le=1000)


class DrillsQuery(RequestFields):
    service: str = ""
    """Only of this service."""
    limit: int = Field(default=50, ge=1, le=1000)


class DecisionsQuery(RequestFields):
    service: str = ""
    """Only of this service."""
    limit: int = Field(default=50, ge=1, le=1000)
    before: int = Field(default=0, ge=0, le=_LAST)
    """Only those from before this place: the `seq` of the last one that was shown."""


class MonthQuery(RequestFields):
    month: str = Field(pattern=r"^\d{4}-\d{2}$")
    """Which: 2026-03, in UTC."""


class EventsQuery(RequestFields):
    after: int = Field(default=0, ge=0, le=_LAST)
    """Only facts with a place above this."""
    service: str = ""
    """Only of this service."""
    limit: int = Field(default=1000, ge=1, le=10_000)
    """Look at so many facts at most."""


class IncidentsQuery(DecisionsQuery):
    open: bool = False
    """Only those that are not closed."""


class NewsQuery(RequestFields):
    after: int = Field(default=0, ge=0, le=_LAST)
    """Only records with n above this."""
    wait: Duration = timedelta()
    """When there are none, wait for news so long, at most 1m."""

    @field_validator("wait")
    @classmethod
    def _bounded(cls, wait: timedelta) -> timedelta:
        if wait > LONGEST_WAIT:
            raise ValueError(f"at most {format_duration(LONGEST_WAIT)}; ask again for more")
        return wait


class KeptQuery(RequestFields):
    service: str = ""
    """Only of this service."""
    layer: Layer = ""
    """Only this layer."""
    brief: bool = False
    """Only which layers there are; none of them is asked."""


class FileQuery(RequestFields):
    layer: Layer = ""
    snapshot: Reference = ""
    """Which is wanted; a file that comes in says its own name."""


# -- bodies -------------------------------------------------------------------------------------
class NoBody(RequestFields):
    """Nothing has to be said; `{}` or an empty body."""


class PlanBody(RequestFields):
    to: Reference = ""
    """A release (id, label, or the beginning of an id where a plan was shown), a state's key, or empty for the newest
    good state."""
    plan: Reference = ""
    """One of the service's plans; empty: the service's own."""


class RollbackBody(PlanBody):
    reason: Reason = ""
    irreversible: tuple[Reference, ...] = Field(default=(), max_length=100)
    """Layers whose step may be irreversible, by name."""
    over_hold: bool = False
    """Also while the service is held."""
    plan_id: Reference = ""
    """The id of a printed plan: that one is run as it was shown, or none; it says `to` and `plan` itself."""

    @model_validator(mode="after")
    def _as_shown(self) -> Self:
        if self.plan_id and (self.to or self.plan):
            raise ValueError("plan_id says all of a plan; leave out to and plan")
        return self


class AlertTrialBody(RequestFields):
    labels: Annotated[dict[Reference, Reference], Field(min_length=1, max_length=100)]
    """The alert's labels, `alertname` among them."""
    at: Instant | None = None
    """When it would begin, and reach us: RFC 3339 with an offset; without it now."""


class PassageBody(RequestFields):
    labels: Annotated[dict[Reference, Reference], Field(min_length=1, max_length=100)]
    """The alert's labels; one more marks it as a test."""
    wait: Duration = timedelta(minutes=2)
    """So long for its arrival, at most 10m."""

    @field_validator("wait")
    @classmethod
    def _not_for_ever(cls, wait: timedelta) -> timedelta:
        if wait > timedelta(minutes=10):
            raise ValueError("at most 10m; a route that waits longer is no use for a rollback")
        return wait


class LiveCheckBody(RequestFields):
    messages: bool = True
    """Send each receiver a test."""


class DrillBody(RequestFields):
    plan: Reference = ""
    """One of the service's plans; empty: its own list, or with `execute` the first of it."""
    execute: bool = False
    """Go back for real, and return; only where the service's configuration says `drill: true`."""


class ReasonBody(RequestFields):
    reason: Reason = ""


class EscalateBody(RequestFields):
    reason: Annotated[str, Field(min_length=1, max_length=2000)]
    """Who is needed and why; those who are called read it."""


class AcknowledgeBody(RequestFields):
    leave: bool = False
    """Leave every bracket that is still entered."""


class HoldBody(ReasonBody):
    until: Instant | None = None
    """RFC 3339 with an offset; without it the hold stays until it is lifted."""


class MendingBody(ReasonBody):
    length: Duration
    """How long it takes: 8m."""


class GoodBody(RequestFields):
    releases: Releases = {}
    """Empty: the present state."""


class QuarantineBody(RequestFields):
    releases: Releases = Field(min_length=1)
    lift: bool = False


class ChangeBody(RequestFields):
    service: Reference
    releases: Releases = {}
    """What it brings: layer to release; empty: whatever changes now."""
    kind: Annotated[str, Field(max_length=100)] = ""
    """`deployment`, `hotfix`, or a word of your own."""
    priority: Priority | None = None
    """Sets how soon it must be confirmed."""
    confirm_within: Duration | None = None
    """Instead of the priority's time; `0s`: it need not be confirmed."""
    key: Reference = ""
    """The same key of a service is the same change: a job's number, so that a retry is safe."""
    text: Reason = ""
    """What people will read beside it."""
    by: Annotated[str, Field(max_length=100)] = ""
    """Who makes it, when that is not who announces it: `unix:ann` as actors are written, or words of your own."""


class LayerBody(RequestFields):
    layer: Layer = ""


class UpgradeBody(RequestFields):
    layer: Reference
    to: Reference = ""
    """The release that is wanted; empty: the newest that there is, or the end of what was cut off."""
    over_hold: bool = False
    """Also while the service is held."""


class TakeBody(LayerBody):
    name: Reference = ""
    """What it is to be called; empty: by why and when it is taken."""


class VerifyBody(LayerBody):
    snapshot: Reference
    rehearse: bool = False
    """Also restore it into a scratch place, and compare."""


class DiffBody(LayerBody):
    older: Reference
    newer: Reference = ""
    """Empty: what is there now."""


class LostBody(LayerBody):
    export: bool = False
    """Write the rows to files on the layer's host, and say where; else they are counted."""


class RestoreBody(LayerBody):
    snapshot: Reference = ""
    """Empty: the best that there is: good states first, then the newest that is older than what is there, each read."""
    only: tuple[Reference, ...] = Field(default=(), max_length=20)
    """Parts that the layer can restore separately; empty: all."""
    over_hold: bool = False
    """Also while the service is held."""
