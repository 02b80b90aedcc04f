"""What is posted to a daemon that stands by: it goes into the shared inbox, and the daemon that drives takes it, once.

Signals were taken once that is on disk. An order is waited for a while, so that its own answer is given.
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import timedelta

from aiohttp import web
from pydantic import BaseModel
from pydantic_core import to_json

from rollbackd.api.answers import written
from rollbackd.api.intake import ALERTS, SIGNALS, IntakeHandlers
from rollbackd.api.long_poll import Waits
from rollbackd.api.problems import ProblemError, told
from rollbackd.api.request_body import JSON
from rollbackd.api.routes import ROUTES, ApiCall, ApiRoute
from rollbackd.journal import Arrived, JournalUnavailable, Received
from rollbackd.operations import Operations
from rollbackd.signals.alertmanager_webhook import WebhookPayload
from rollbackd.signals.events import Posted
from rollbackd.signals.intake import EventReceipt
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

SOURCE = "passed"
"""In the inbox."""
EVERY = timedelta(milliseconds=500)
_LOOK = timedelta(milliseconds=100)
_PATIENCE = 10.0
"""Seconds that an order's answer is waited for."""
_ROUTES = {f"{route.method} {route.path}": route for route in ROUTES if route.passes}


class PassedRequest(BaseModel):
    """A request as another daemon was asked, understood and allowed there."""

    method: str
    path: str
    """As its route has it."""
    actor: str
    name: str = ""
    query: dict[str, str] = {}
    body: str = ""


class PassingOn:
    """The side of who stands by.

    :param driver: who drives now.
    """

    def __init__(self, read_model: ReadModel, clock: Clock, driver: Callable[[], str]) -> None:
        self._read_model = read_model
        self._clock = clock
        self._driver = driver

    def refusal(self) -> ProblemError:
        """That something can be ordered only where the driver is."""
        return ProblemError(409, f"this daemon stands by; {self._driver()} drives: ask there")

    async def refuse(self, _request: web.Request) -> web.Response:
        """:raises ProblemError: always."""
        raise self.refusal()

    async def keep(self, asked: PassedRequest) -> str:
        """Put it where the driver finds it; its key. On disk when it returns. :raises JournalUnavailable:"""
        key = f"{SOURCE}/{uuid.uuid4()}"
        await self._read_model.receive([Received(key, SOURCE, asked.model_dump_json().encode())])
        return key

    async def order(self, route: ApiRoute, asked: PassedRequest) -> web.Response:
        """The driver's own answer. :raises ProblemError: that one did not give any in time, or cannot be asked so."""
        if not route.passes:
            raise self.refusal()
        key, until = await self.keep(asked), self._clock.monotonic() + _PATIENCE
        while self._clock.monotonic() < until:
            await self._clock.sleep(_LOOK)
            if (found := await self._read_model.journal.answer_to(key)) is not None:
                answer = json.loads(found)
                if answer["status"] < 400:
                    return web.Response(status=answer["status"], body=to_json(answer["body"]), content_type=JSON)
                more = {name: value for name, value in answer["body"].items() if name == "findings"}
                raise ProblemError(answer["status"], answer["body"]["detail"], **more)
        said = f"passed on; {self._driver()} drives, and has not answered yet: it does it once it can"
        raise ProblemError(504, said)


class PassingIntake(IntakeHandlers):
    """Alerts and events that are posted to who stands by: read, and passed on as they are."""

    def __init__(self, operations: Operations, max_body: int, passing: PassingOn) -> None:
        super().__init__(operations, max_body)
        self._passing = passing

    async def _keep_alerts(self, webhook: WebhookPayload, actor: str, body: bytes) -> tuple[int, int, int]:
        await self._passing.keep(PassedRequest(method="POST", path=ALERTS, actor=actor, body=body.decode()))
        return len(webhook.alerts), 0, 0

    async def _keep_events(self, posted: tuple[Posted, ...], actor: str, body: bytes) -> EventReceipt:
        await self._passing.keep(PassedRequest(method="POST", path=SIGNALS, actor=actor, body=body.decode()))
        return EventReceipt(len(posted), 0, ())


class PassedOrders:
    """The side of who drives: takes what others passed on, and hears what they wrote."""

    def __init__(self, operations: Operations, intake: IntakeHandlers, read_model: ReadModel, clock: Clock) -> None:
        self._operations = operations
        self._intake = intake
        self._read_model = read_model
        self._clock = clock
        self._waits = Waits()
        self._in_hand: dict[int, asyncio.Task[None]] = {}
        self._log = log.get("passed")

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                await self.look()
                await self._clock.sleep(EVERY)
        finally:
            await end(self._in_hand.values())

    async def look(self) -> None:
        """Take what is there: signals in their order, each order by itself. :raises JournalUnavailable:"""
        await self._read_model.refresh()
        for row in await self._read_model.journal.unhandled(SOURCE):
            asked = PassedRequest.model_validate_json(row.body)
            if asked.path in {ALERTS, SIGNALS}:
                await self._take(row, asked)
            elif row.id not in self._in_hand:
                self._in_hand[row.id] = asyncio.create_task(self._carry_out(row, asked), name=f"passed {row.id}")

    async def _take(self, row: Arrived, asked: PassedRequest) -> None:
        try:
            await self._intake.replay(asked.path, asked.body.encode(), asked.actor)
        except JournalUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # what cannot be read must not hold up what comes after it
            self._log.error("signals that were passed on are not understood", error=repr(error))
        await self._read_model.journal.handled([row.id])

    async def _carry_out(self, row: Arrived, asked: PassedRequest) -> None:
        try:
            await self._read_model.journal.answer(row.id, to_json(await self._answer(row, asked)))
        except JournalUnavailable as error:
            self._log.warning("an order that was passed on could not be carried out yet", error=str(error))
        finally:
            del self._in_hand[row.id]

    async def _answer(self, row: Arrived, asked: PassedRequest) -> dict[str, object]:
        if (route := _ROUTES.get(f"{asked.method} {asked.path}")) is None:
            return {"status": 409, "body": {"detail": "this order is not known where it was passed on to; ask there"}}
        try:
            query, body = route.query.model_validate(asked.query), route.body.model_validate_json(asked.body)
            call = ApiCall(self._operations, self._waits, asked.actor, asked.name, query, body, row.key, (row.id,))
            value = await route.handler(call)
            return {"status": route.status, "body": json.loads(written(route.answer).dump_json(value))}
        except JournalUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # as for every request; `told` logs its cause
            problem = told(asked, error)
            return {"status": problem.status, "body": {"detail": str(problem), **problem.more}}
