"""One host: asked over one ssh a conversation, and taken to a release without ever believing a lost connection.

The request is on ssh's standard input before it starts, and the far side acts upon it whole or not at all. While an
effect is in hand a program holds its host's lock: when we are killed, the next life sees RUNNING until ssh has ended,
since an order may still be on its way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rollbackd import layer_wire
from rollbackd.adapter import AdapterError, Place
from rollbackd.clock import Clock
from rollbackd.layer_wire import PROTOCOL, Answer, Heard, Hello, Offer, WireError
from rollbackd.model import Change, Problem, Progress
from rollbackd.process import Finished, Lock, Spawner, one_line
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.remote.settings import RemoteSettings, host_of
from rollbackd_adapters.remote.ssh import LostError, UnreachableError, argv, limited, no_hello

_QUESTION = timedelta(seconds=45)
"""For a question that changes nothing; the core waits a minute for it."""
_LOOK_AGAIN = timedelta(seconds=1)

Asked = tuple[str, Mapping[str, Any]]


class Host:
    """One host that has the layer."""

    def __init__(self, destination: str, settings: RemoteSettings, place: Place) -> None:
        self.destination = destination
        self.name = host_of(destination)
        self.layer = settings.layer or place.layer
        port = f":{settings.port}" if settings.port is not None else ""
        self.resource = f"remote:{destination}{port}/{self.layer}"
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self._clock: Clock = place.clock
        self._argv = argv(destination, settings)

    # -- asking ---------------------------------------------------------------------------------
    async def ask(self, name: str, /, limit: timedelta = _QUESTION, **params: Any) -> Any:
        """One question that changes nothing; its answer."""
        _, answers = await self._converse([(name, params)], min(limit, self._settings.timeout))
        return answers[0]

    async def order(self, *asked: Asked) -> list[Any]:
        """An effect, and what is asked right after it; the answers. Alone on this host.

        :raises LostError: it is not known what became of it. UnreachableError: neither, when it was sent and cut off.
        """
        with as_adapter_errors():
            async with self._spawner.hold(self.resource, wait=self._settings.timeout) as lock:
                _, answers = await self._converse(asked, self._settings.timeout, lock)
        return answers

    async def offer(self) -> tuple[Offer, Sequence[Problem]]:
        """What the other side says the layer can do, and what would stop it."""
        hello, answers = await self._converse([("ready", {})], min(_QUESTION, self._settings.timeout))
        return hello.layers[self.layer], answers[0]

    async def _converse(
        self, asked: Sequence[Asked], timeout: timedelta, lock: Lock | None = None
    ) -> tuple[Hello, list[Any]]:
        lines = [layer_wire.request(number, self.layer, name, params) for number, (name, params) in enumerate(asked, 1)]
        with as_adapter_errors():
            called = self._argv if lock is None else [*limited(timeout), *self._argv]
            finished = await self._spawner.run(called, timeout=timeout, stdin=b"".join(lines), lock=lock)
        heard = self._heard(finished)
        hello = self._greeting(heard, finished)
        return hello, [self._answer(heard, finished, number, name) for number, (name, _) in enumerate(asked, 1)]

    def _heard(self, finished: Finished) -> Heard:
        try:
            return layer_wire.hear(finished.stdout)
        except WireError as error:
            raise self._not_understood(error, finished) from error

    def _greeting(self, heard: Heard, finished: Finished) -> Hello:
        """The hello, when the other side is one that we may believe."""
        hello = heard.hello
        if hello is None:
            raise no_hello(self.destination, finished, self._settings)
        if hello.protocol != PROTOCOL:
            raise AdapterError(
                f"{self.destination} has rollbackd {one_line(hello.version)}, which speaks protocol {hello.protocol} "
                f"and not {PROTOCOL}; have the same rollbackd on both hosts",
                permanent=True,
            )
        if self.layer not in hello.layers:
            served = ", ".join(map(one_line, hello.layers)) or "none"
            raise AdapterError(
                f'{self.destination} does not serve a layer "{self.layer}"; it serves: {served}', permanent=True
            )
        return hello

    def _answer(self, heard: Heard, finished: Finished, number: int, name: str) -> Any:
        answer: Answer | None = heard.answers.get(number)
        if answer is None and (refused := heard.answers.get(0)) is not None:
            answer = refused
        if answer is None:
            why = "no answer in its time" if finished.timed_out else f"the connection was lost ({finished.ending})"
            raise LostError(f"{self.destination}: {why} while it was asked to {name}", permanent=False)
        if answer.error is not None:
            message = self._spawner.clean(answer.error.message)[:2000]
            raise AdapterError(
                f"{self.destination}: {message}",
                permanent=answer.error.permanent,
                evidence=self._spawner.clean(answer.error.evidence)[-(2**14) :],
            )
        try:
            return layer_wire.method(name).read_result(answer.result)
        except WireError as error:
            raise self._not_understood(error, finished) from error

    def _not_understood(self, error: WireError, finished: Finished) -> AdapterError:
        return LostError(
            f"{self.destination}: its answer is not understood: {self._spawner.clean(str(error))}",
            permanent=False,
            evidence=finished.tail,
        )

    # -- a change -------------------------------------------------------------------------------
    async def progress(self, change: Change) -> Progress:
        """How far the change is there."""
        if self._spawner.held(self.resource):  # what an earlier life sent may still be on its way
            return Progress.RUNNING
        answer: Progress = await self.ask("progress", change=replace(change, layer=self.layer))
        return answer

    async def take_to(self, change: Change) -> None:
        """Apply the change there, and come back when all of it is done.

        :raises UnreachableError: the host does not answer (any more).
        """
        deadline = self._clock.monotonic() + self._settings.timeout.total_seconds()
        there = replace(change, layer=self.layer)
        try:
            _, progress = await self.order(("apply", {"change": there}), ("progress", {"change": there}))
        except (LostError, UnreachableError):
            progress = await self.progress(change)
            if progress is Progress.NOT_STARTED:
                raise
        while progress is Progress.RUNNING:
            if self._clock.monotonic() >= deadline:
                raise AdapterError(f"{self.destination}: still at work after its time limit", permanent=False)
            await self._clock.sleep(_LOOK_AGAIN)
            progress = await self.progress(change)
        if progress is Progress.SUPERSEDED:
            raise AdapterError(f"{self.destination}: somebody else moved it: it is theirs", permanent=True)
        if progress is Progress.NOT_STARTED:
            raise AdapterError(f"{self.destination}: it ended, and yet nothing was done", permanent=False)
