"""One host: asked over one ssh a conversation, and taken to a release without ever believing a lost connection.

The request is on ssh's standard input before it starts, and the far side acts upon it whole or not at all. While an
effect is in hand a program holds its host's lock: when we are killed, the next life sees RUNNING until ssh has ended,
since an order may still be on its way.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rollbackd import __version__
from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Change, Problem, Progress, Release
from rollbackd.remote import wire
from rollbackd.remote.wire import PROTOCOL, Heard, Hello, Offer, WireAnswer, WireError
from rollbackd.system.spawner import READ_LIMIT, Finished, Lock, one_line
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.remote.releases import share
from rollbackd_adapters.remote.settings import RemoteSettings, host_of
from rollbackd_adapters.remote.ssh import HostUnreachableError, LostError, argv, limited, no_hello
from rollbackd_adapters.remote.unfinished import UnfinishedChange

_QUESTION = timedelta(seconds=45)
"""For a question that changes nothing; the core waits a minute for it."""
_LOOK_AGAIN = timedelta(seconds=1)

_STRANGE = f"have rollbackd {__version__} there as here, and let nothing else print where it answers"

Asked = tuple[str, Mapping[str, Any]]


class Host(LayerPart[RemoteSettings]):
    """One host that has the layer."""

    def __init__(self, destination: str, settings: RemoteSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.destination = destination
        self.name = host_of(destination)
        self.layer = settings.layer or place.layer
        port = f":{settings.port}" if settings.port is not None else ""
        self.resource = f"remote:{destination}{port}/{self.layer}"
        self._argv = argv(destination, settings)
        self._unfinished = UnfinishedChange(place.scratch, self.name) if settings.hosts else None

    # -- asking ---------------------------------------------------------------------------------
    async def ask(self, name: str, /, limit: timedelta = _QUESTION, **params: Any) -> Any:
        """One question that changes nothing; its answer."""
        _, answers = await self._converse([(name, params)], min(limit, self._settings.timeout))
        return answers[0]

    async def order(self, *asked: Asked) -> list[Any]:
        """An effect, and what is asked right after it; the answers. Alone on this host.

        :raises LostError: it is not known what became of it. UnreachableError: neither, when it was sent and cut off.
        """
        async with holding(self._spawner, self.resource, self._settings.timeout) as lock:
            _, answers = await self._converse(asked, self._settings.timeout, lock)
        return answers

    async def offer(self) -> tuple[Offer, Sequence[Problem]]:
        """What the other side says the layer can do, and what would stop it."""
        hello, (problems,) = await self._converse([("ready", {})], min(_QUESTION, self._settings.timeout))
        if self._place.epoch and not hello.fences:
            text = f"rollbackd {one_line(hello.version)} there does not refuse a daemon that lost; {_STRANGE}"
            problems = [*problems, Problem(self.layer, text)]
        return hello.layers[self.layer], problems

    async def prune(self, spare: Collection[str], last: int) -> Sequence[str]:
        """The names of what was dropped; nothing where the layer there drops nothing."""
        offer, _ = await self.offer()
        if not offer.prunes:
            return []
        given = {"last": last} if last else {}
        (names,) = await self.order(("prune", {"spare": list(spare), **given}))
        return names  # type: ignore[no-any-return]

    async def _converse(
        self, asked: Sequence[Asked], timeout: timedelta, lock: Lock | None = None
    ) -> tuple[Hello, list[Any]]:
        epoch = self._place.epoch
        lines = [
            wire.request(number, self.layer, name, params, epoch) for number, (name, params) in enumerate(asked, 1)
        ]
        with as_adapter_errors():
            called = self._argv if lock is None else [*limited(timeout), *self._argv]
            finished = await self._spawner.run(called, timeout=timeout, stdin=b"".join(lines), lock=lock)
        heard = await asyncio.to_thread(self._heard, finished)  # it may say as much as we read
        hello = self._greeting(heard, finished)
        return hello, [self._answer(heard, finished, number, name) for number, (name, _) in enumerate(asked, 1)]

    def _heard(self, finished: Finished) -> Heard:
        try:
            return wire.hear(finished.stdout)
        except WireError as error:
            raise self._not_understood(error, finished) from error

    def _greeting(self, heard: Heard, finished: Finished) -> Hello:
        """The other side's hello, once it is known to be one that we may believe."""
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
            text = f'{self.destination} does not serve a layer "{self.layer}"; it serves: {served}'
            raise AdapterError(text, permanent=True)
        return hello

    def _answer(self, heard: Heard, finished: Finished, number: int, name: str) -> Any:
        answer: WireAnswer | None = heard.answers.get(number) or heard.answers.get(0)
        if answer is None:
            raise LostError(f"{self.destination}: {_lost(finished)} while it was asked to {name}", permanent=False)
        if answer.error is not None:
            message = self._spawner.clean(answer.error.message)[:2000]
            evidence = self._spawner.clean(answer.error.evidence)[-(2**14) :]
            permanent = answer.error.permanent
            raise AdapterError(f"{self.destination}: {message}", permanent=permanent, evidence=evidence)
        try:
            return wire.method(name).read_result(answer.result)
        except WireError as error:
            raise self._not_understood(error, finished) from error

    def _not_understood(self, error: WireError, finished: Finished) -> AdapterError:
        return LostError(
            f"{self.destination}: its answer is not understood: {self._spawner.clean(str(error))}; {_STRANGE}",
            permanent=False,
            evidence=finished.tail,
        )

    # -- a change -------------------------------------------------------------------------------
    async def progress(self, change: Change) -> Progress:
        """How far the change is there.

        :raises UnreachableError: the host does not answer, or did not when this was planned from a mixture.
        """
        return await self._progress(self._share(change), stays=await self._stays(change))

    async def _progress(self, own: Change, *, stays: bool = False) -> Progress:
        if self._spawner.held(self.resource):  # what an earlier life sent may still be on its way
            return Progress.RUNNING
        if stays:
            return Progress.DONE if await self.ask("current") == own.after else Progress.SUPERSEDED
        answer: Progress = await self.ask("progress", change=own)
        return answer

    def _share(self, change: Change) -> Change:
        """The change from what this host had, as it is called there."""
        own = share(change, self.name)
        if own is None:
            raise HostUnreachableError(f"{self.destination} did not answer when this was planned", permanent=False)
        return replace(own, layer=self.layer)

    async def _stays(self, change: Change) -> bool:
        """Whether the host is left alone: it was there already, with all that belongs to it, while others were not."""
        at_target = bool(change.before.parts) and self._share(change).before == change.after
        return at_target and await self._sent_to(change.after) is None

    async def _sent_to(self, release: Release) -> Change | None:
        """The last change that it was sent, if that goes there and the host has not said that it is done."""
        sent = await self._unfinished.change() if self._unfinished is not None else None
        return sent if sent is not None and sent.after == release else None

    async def finished(self, present: Release) -> bool:
        """Whether all of what took it to what it has now was done, as far as we sent it there."""
        if self._unfinished is None or (sent := await self._sent_to(present)) is None:
            return True
        if await self._progress(sent) in {Progress.NOT_STARTED, Progress.RUNNING}:
            return False
        await self._unfinished.end()  # it arrived after we had given up, or it is somebody else's now
        return True

    async def take_to(self, change: Change) -> None:
        """Apply the change there, and come back when all of it is done.

        :raises UnreachableError: the host does not answer (any more), or did not when this was planned.
        """
        own = self._share(change)
        if stays := await self._stays(change):
            progress = await self._progress(own, stays=stays)
        else:
            if self._unfinished is not None:
                await self._unfinished.begin(own)
            progress = await self._applied(own)
        if progress is Progress.SUPERSEDED:
            raise AdapterError(f"{self.destination}: somebody else moved it: it is theirs", permanent=True)
        if progress is not Progress.DONE:
            raise AdapterError(f"{self.destination}: it ended, and yet nothing was done", permanent=False)
        if self._unfinished is not None:
            await self._unfinished.end()

    async def _applied(self, own: Change) -> Progress:
        """How far it is once nothing of it runs any more."""
        deadline = self._clock.monotonic() + self._settings.timeout.total_seconds()
        try:
            _, progress = await self.order(("apply", {"change": own}), ("progress", {"change": own}))
        except (LostError, HostUnreachableError):
            progress = await self._progress(own)
            if progress is Progress.NOT_STARTED:
                raise
        while progress is Progress.RUNNING:
            if self._clock.monotonic() >= deadline:
                raise AdapterError(f"{self.destination}: still at work after its time limit", permanent=False)
            await self._clock.sleep(_LOOK_AGAIN)
            progress = await self._progress(own)
        return Progress(progress)


def _lost(finished: Finished) -> str:
    """Why the answer to a question did not come."""
    if finished.timed_out:
        return f"no answer within {finished.took.total_seconds():.0f}s"
    if finished.truncated:
        return f"more than {READ_LIMIT // 2**20} MiB came"
    return f"the connection was lost ({finished.ending})"
