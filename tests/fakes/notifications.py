"""An incident's facts as the daemon writes them, and a receiver in memory: for what is told of them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from rollbackd import facts
from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.model import (
    Action,
    ApprovalRequest,
    Bracketed,
    Change,
    CheckResult,
    Decision,
    Evidence,
    Finding,
    Plan,
    Priority,
    Release,
    State,
    Trigger,
    Verdict,
)
from tests.fakes.clock import START

V41 = Release("41" * 20, "v41")
V42 = Release("42" * 20, "v42")
GOOD = State({"code": V41, "config": Release("c1" * 20, "c1")})
BAD = State({"code": V42, "config": Release("c1" * 20, "c1")})
EVIDENCE = Evidence("sum(rate(errors[5m]))", "34.2%", "> 10% for 5m", START, "http://prometheus.example/graph")


def trigger(service: str = "checkout", **given: Any) -> Trigger:
    usual = Trigger(service, "high-error-rate", Priority.P1, f"episode-{service}", START, START, (EVIDENCE,))
    return replace(usual, **given)


def decision(
    service: str = "checkout", *findings: Finding, action: Action = Action.ROLL_BACK, **given: Any
) -> Decision:
    usual = Decision(
        trigger(service), action, findings or (Finding("hold", None, "nothing holds it"),), BAD, GOOD, ("default",)
    )
    return replace(usual, **given)  # fmt: skip


def refused(
    service: str = "checkout", guard: str = "target", reason: str = "no good state", **given: Any
) -> facts.Decided:
    finding = Finding(guard, Action.REFUSE, reason, escalate=True)
    return facts.Decided(decision(service, finding, action=Action.REFUSE, escalate=True, **given))


def opened(service: str = "checkout", **given: Any) -> facts.Opened:
    return facts.Opened(service, decision(service, **given), {}, ("default",))


def question(**given: Any) -> ApprovalRequest:
    usual = ApprovalRequest(("no change is known",), START + timedelta(minutes=30))
    return replace(usual, **given)


def asked(service: str = "checkout", **given: Any) -> facts.Opened:
    """An incident that asks: `given` replaces parts of its decision."""
    finding = Finding("change", Action.ASK, "no change is known")
    usual: dict[str, Any] = {"action": Action.ASK, "question": question(), "joins": f"{service}-3"}
    return facts.Opened(service, decision(service, finding, **{**usual, **given}), {}, ("default",))


def planned() -> facts.Planned:
    steps = (Change("code", V42, V41),)
    return facts.Planned(Plan("default", steps, (Bracketed("traffic", "gate"),)), BAD)


def round_of(verdict: Verdict) -> facts.Round:
    return facts.Round(verdict, (CheckResult("health", verdict, "answered 500 in 1.2s, wants 2xx"),))


@dataclass
class Recorder:
    """A receiver in memory. It answers each of `answers` in turn instead of taking the message, and hangs on `hang`."""

    settings_model: ClassVar[type[NotifierSettings]] = NotifierSettings
    messages: list[Message] = field(default_factory=list)
    tried: list[Message] = field(default_factory=list)
    answers: deque[Exception] = field(default_factory=deque)
    always: Exception | None = None
    hang: bool = False
    during: Callable[[], None] = lambda: None
    """Called while it is sending."""
    keeps_open: bool = False
    keeps_changes: bool = False
    shows_plots: bool = False

    def __post_init__(self) -> None:
        self.news = asyncio.Condition()

    async def send(self, message: Message) -> None:
        self.during()
        async with self.news:
            self.tried.append(message)
            self.news.notify_all()
        if self.hang:
            await asyncio.Event().wait()
        if self.answers:
            raise self.answers.popleft()
        if self.always is not None:
            raise self.always
        async with self.news:
            self.messages.append(message)
            self.news.notify_all()

    @property
    def events(self) -> list[str]:
        return [message.event for message in self.messages]

    async def until(self, count: int, limit: float = 10) -> list[Message]:
        """Wait until so many messages came."""
        async with asyncio.timeout(limit), self.news:
            await self.news.wait_for(lambda: len(self.messages) >= count)
        return self.messages


def soon(retry_after: timedelta | None = None) -> DeliveryError:
    return DeliveryError("room answered 503", permanent=False, retry_after=retry_after)


def never() -> DeliveryError:
    return DeliveryError("room answered 404: no_service", permanent=True)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)
