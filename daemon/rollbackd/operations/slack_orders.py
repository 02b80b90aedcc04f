"""Clicks in Slack that give orders: journaled once, carried out with the rights that `people` gives, and answered.

A click is an order like any other: what asks, what may not be answered and who is counted is decided where every order
is. Whoever clicked hears what became of it, and sees it in the message, which is edited to how it is then.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Literal

from pydantic import TypeAdapter

from rollbackd.adapter import DeliveryError
from rollbackd.config.models import Config
from rollbackd.journal import JournalUnavailable, Received, until_written
from rollbackd.notify.receivers.slack import Slack
from rollbackd.notify.receivers.slack_clicks import NotAClickError, SlackClick, is_fresh, payload_of, read_click
from rollbackd.operations import InvalidOrder, Operations, OrderRefused, UnknownName
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import show
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

SOURCE = "slack"
Refusal = Literal["forged", "late", "unreadable", "elsewhere", "repeated", "unknown", "viewer", "busy"]
"""Why something from Slack did nothing: not signed by Slack; older than five minutes; no click of ours; of another
channel; delivered before; of nobody in `people`; of somebody who may not; too many at once."""
_AGAIN = timedelta(seconds=5)
_LOGGED = 10
"""Lines in a minute about what was refused; all of it is counted."""
_MINUTE = 60.0
_TELLING = 50
"""Answers to people that are under way at most; what became of an order is in its message, too."""
_CLICK = TypeAdapter(SlackClick)


class ClickRefusedError(Exception):
    """What came from Slack is not taken; it was recorded."""

    def __init__(self, why: Refusal, text: str) -> None:
        super().__init__(text)
        self.why = why


def rooms_with_buttons(notifiers: Mapping[str, object]) -> dict[str, Slack]:
    """The receivers whose messages have buttons, by name."""
    return {name: one for name, one in notifiers.items() if isinstance(one, Slack) and one.takes_clicks}


class SlackOrders:
    """The root task `slack orders`.

    :param rooms: the receivers whose messages have buttons, by name.
    """

    def __init__(
        self, config: Config, read_model: ReadModel, clock: Clock, operations: Operations, rooms: Mapping[str, Slack]
    ) -> None:
        self._people = {one.slack: (name, one.role) for name, one in config.people.items() if one.slack}
        self._called = config.daemon.called
        self._read_model = read_model
        self._clock = clock
        self._operations = operations
        self.rooms = rooms
        self.counts: Counter[str] = Counter()
        """What came from Slack, by what became of it: `taken`, or why it was refused."""
        self._news = asyncio.Event()
        self._logged: deque[float] = deque(maxlen=_LOGGED)
        self._telling: set[asyncio.Task[None]] = set()
        self._log = log.get("slack")

    @property
    def opens_sockets(self) -> bool:
        return any(room.opens_socket for room in self.rooms.values())

    # -- the ways in ----------------------------------------------------------------------------
    async def posted(self, timestamp: str, signature: str, body: bytes) -> None:
        """Take a request that came by HTTP, a form, when Slack signed these bytes now; it is on disk when this returns.

        :raises ClickRefusedError: JournalUnavailable: nothing was taken.
        """
        rooms = [room for room in self.rooms.values() if self._is_signed(room, timestamp, signature, body)]
        if not rooms:
            raise self.refused("forged", "this is not signed with the signing secret of a Slack receiver")
        if not is_fresh(timestamp, self._clock.now()):
            raise self.refused("late", "this was signed more than five minutes ago, or our clocks differ by as much")
        await self.take(payload_of(body), rooms)

    async def take(self, payload: str, rooms: list[Slack]) -> None:
        """Take a payload that Slack is known to have sent to one of these rooms' apps.

        :raises ClickRefusedError: JournalUnavailable: nothing was taken.
        """
        try:
            click = read_click(payload)
        except NotAClickError as error:
            raise self.refused("unreadable", str(error)) from error
        room = next((room for room in rooms if room.channel == click.channel), None)
        if room is None:
            raise self.refused("elsewhere", f"no receiver writes to the channel {click.channel}", click.user)
        _, refusal = self._clicker(click.user)
        if refusal is not None:
            self._whisper(room, click.user, str(refusal))
            raise self._recorded(refusal, click.user)
        receipt = await self._read_model.receive([Received(click.key, SOURCE, _CLICK.dump_json(click))])
        boundary("clicks.taken")
        if not receipt.new:
            raise self.refused("repeated", "this click was delivered before, and counts once", click.user)
        self.counts["taken"] += 1
        self._news.set()

    def refused(self, why: Refusal, text: str, user: str = "") -> ClickRefusedError:
        """The refusal, recorded: counted, and logged a few times a minute."""
        return self._recorded(ClickRefusedError(why, text), user)

    def _recorded(self, refusal: ClickRefusedError, user: str) -> ClickRefusedError:
        self.counts[refusal.why] += 1
        now = self._clock.monotonic()
        if len(self._logged) < _LOGGED or now - self._logged[0] >= _MINUTE:
            self._logged.append(now)
            self._log.warning("a request from Slack did nothing", why=refusal.why, user=user, reason=str(refusal))
        return refusal

    def _is_signed(self, room: Slack, timestamp: str, signature: str, body: bytes) -> bool:
        try:
            return room.is_signed(timestamp, body, signature)
        except DeliveryError as error:
            self._log.error("a signing secret cannot be read", error=str(error))
            return False

    def _clicker(self, user: str) -> tuple[str, ClickRefusedError | None]:
        """The actor of a member of Slack, and why that one gives no orders."""
        name, role = self._people.get(user, ("", ""))
        if not name:
            text = f"nothing was done: nobody in `people` of {self._called} has the Slack member id {show(user)}"
            return "", ClickRefusedError("unknown", f"{text}; whoever configures rollbackd there can add it")
        if role != "operator":
            text = (
                f"nothing was done: {name} may read, and gives no orders from Slack; `people` of {self._called} says so"
            )
            return "", ClickRefusedError("viewer", text)
        return f"slack:{name}", None

    # -- carrying out ---------------------------------------------------------------------------
    async def run(self) -> None:
        """Carry out what is in the inbox, for ever; first what an earlier process left there."""
        say = partial(self._log.error, "a click could not be carried out yet")
        try:
            while True:
                self._news.clear()
                await until_written(self.settle, self._clock, _AGAIN, say)
                await self._news.wait()
        finally:
            await end(self._telling)

    async def settle(self) -> None:
        """Carry out every click that waits. :raises JournalUnavailable: some wait on."""
        for row in await self._read_model.journal.unhandled(SOURCE):
            try:
                await self._carry_out(_CLICK.validate_json(row.body))
            except JournalUnavailable:
                raise
            except Exception:  # noqa: BLE001  # one click must not end the others; what was wrong is in the log
                self._log.exception("a click failed", key=row.key)
            boundary("clicks.done")
            await self._read_model.journal.handled([row.id])

    async def _carry_out(self, click: SlackClick) -> None:
        actor, refusal = self._clicker(click.user)
        if refusal is not None:  # the configuration changed meanwhile
            said = str(self._recorded(refusal, click.user))
        else:
            try:
                said = await self._ordered(click, actor)
            except (UnknownName, InvalidOrder, OrderRefused) as error:
                said = f"nothing was done: {error}"
        self._log.info("a click was carried out", user=click.user, actor=actor, order=click.order, said=said)
        for room in self.rooms.values():
            if room.channel == click.channel:
                self._whisper(room, click.user, said)
                break

    async def _ordered(self, click: SlackClick, actor: str) -> str:
        """What became of it. :raises UnknownName: InvalidOrder: OrderRefused: JournalUnavailable:"""
        name, given = click.of, click.asked or self._clock.now()
        match click.order:
            case "approve":
                answer = await self._operations.approve(name, actor, "", given)
                return f"you approved {answer.incident}" + (f"; missing: {answer.missing}" if answer.missing else "")
            case "deny":
                return f"you denied {(await self._operations.deny(name, actor, '', given)).incident}"
            case "abort":
                await self._operations.abort(name, actor)
                return f"{name} stops before its next step"
            case _:
                await self._operations.acknowledge(name, actor)
                return f"you acknowledged {name}"

    def _whisper(self, room: Slack, user: str, text: str) -> None:
        """Tell whoever clicked, beside everything else; when Slack does not take it, only the log has it."""
        if len(self._telling) >= _TELLING:
            return

        async def tell() -> None:
            try:
                await room.whisper(user, text)
            except DeliveryError as error:
                self._log.warning("whoever clicked could not be told", user=user, error=str(error))

        task = asyncio.create_task(tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
