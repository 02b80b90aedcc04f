"""What the page's forms order: each field read, and one call of the operations. None of them is ever a GET."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from rollbackd.api.problems import invalid
from rollbackd.model import Request
from rollbackd.operations import InvalidOrder, Operations
from rollbackd.operations.parameters import Reason, Reference
from rollbackd.syntax.units import Duration
from rollbackd.system.clock import Clock


class OrderFields(BaseModel):
    """All that a form of the page can say."""

    model_config = ConfigDict(extra="ignore")
    reason: Reason = ""
    plan_id: Reference = ""
    """A plan that was shown: that one is run as it was, or none."""
    leave: bool = False
    """Leave every bracket that is still entered."""
    length: Duration | None = None
    """How long a hold lasts; None: until it is lifted. How long mending takes."""


@dataclass(frozen=True, slots=True)
class PageOrder:
    """One form that was sent, by somebody who may."""

    operations: Operations
    clock: Clock
    actor: str
    name: str
    fields: OrderFields


def read(fields: Mapping[str, str]) -> OrderFields:
    """The fields of a form; those that were left empty say nothing. :raises ProblemError: 400."""
    try:
        return OrderFields.model_validate({name: text for name, text in fields.items() if text})
    except ValidationError as error:
        raise invalid(error) from error


async def _approve(one: PageOrder) -> str:
    await one.operations.approve(one.name, one.actor, one.fields.reason)
    return f"incidents/{one.name}"


async def _deny(one: PageOrder) -> str:
    await one.operations.deny(one.name, one.actor, one.fields.reason)
    return f"incidents/{one.name}"


async def _abort(one: PageOrder) -> str:
    await one.operations.abort(one.name, one.actor, one.fields.reason)
    return f"incidents/{one.name}"


async def _acknowledge(one: PageOrder) -> str:
    await one.operations.acknowledge(one.name, one.actor, one.fields.leave)
    return f"incidents/{one.name}"


async def _acknowledge_service(one: PageOrder) -> str:
    await one.operations.acknowledge(one.name, one.actor)
    return f"services/{one.name}"


async def _escalate(one: PageOrder) -> str:
    await one.operations.escalate(one.name, one.actor, one.fields.reason)
    return f"incidents/{one.name}"


async def _hold(one: PageOrder) -> str:
    length = one.fields.length
    until = one.clock.now() + length if length else None
    await one.operations.hold(one.name or "*", one.actor, one.fields.reason, until)
    return f"services/{one.name}" if one.name else ""


async def _mending(one: PageOrder) -> str:
    await one.operations.mending(one.name, one.actor, one.fields.length or timedelta(), one.fields.reason)
    return f"services/{one.name}"


async def _resume(one: PageOrder) -> str:
    await one.operations.unhold(one.name or "*", one.actor)
    return f"services/{one.name}" if one.name else ""


async def _close_breaker(one: PageOrder) -> str:
    await one.operations.resume(one.actor, one.fields.reason)
    return ""


async def _roll_back(one: PageOrder) -> str:
    """As it was shown: without the plan's id it is a form of nobody's."""
    if not one.fields.plan_id:
        raise InvalidOrder("the form names no plan; have the plan shown again")
    request = Request(one.name, one.actor, one.fields.reason, plan_id=one.fields.plan_id)
    return f"incidents/{await one.operations.rollback(request)}"


ORDERS: Mapping[str, Callable[[PageOrder], Awaitable[str]]] = {
    "/incidents/{name}/approve": _approve,
    "/incidents/{name}/deny": _deny,
    "/incidents/{name}/abort": _abort,
    "/incidents/{name}/acknowledge": _acknowledge,
    "/incidents/{name}/escalate": _escalate,
    "/services/{name}/acknowledge": _acknowledge_service,
    "/services/{name}/hold": _hold,
    "/services/{name}/mending": _mending,
    "/services/{name}/resume": _resume,
    "/services/{name}/rollback": _roll_back,
    "/hold": _hold,
    "/resume": _resume,
    "/breaker": _close_breaker,
}
"""By path; each answers with the page to go to next, below the first one."""
