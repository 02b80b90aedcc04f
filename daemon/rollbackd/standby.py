"""A daemon that stands by: while another one drives it answers, passes on what it is told, reads its signal files."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from rollbackd.api.application import build_app
from rollbackd.api.passing import EVERY, PassingOn
from rollbackd.api.server import Server
from rollbackd.config.load import ConfigErrors, load
from rollbackd.config.models import Config
from rollbackd.config.secrets import reveal
from rollbackd.core import Core, build
from rollbackd.journal import JournalTaken, JournalUnavailable, open_journal
from rollbackd.notify.untold import Untold
from rollbackd.page import add_page
from rollbackd.state.checkpoint import Checkpoint
from rollbackd.state.journal_access import access_of
from rollbackd.state.members import EVERY as MEMBERS_EVERY
from rollbackd.state.projection import Projection
from rollbackd.system import log, sd_notify
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end


class Standby:
    """See `StandBy`. It serves from the first time that it sees who drives until it is closed."""

    def __init__(
        self, path: Path, config: Config, untold: Untold, clock: Clock, report_late: Callable[[], Awaitable[None]]
    ) -> None:
        """:param report_late: writes what was done here while this host drove."""
        self._path = path
        self._config = config
        self._untold = untold
        self._clock = clock
        self._report_late = report_late
        self.again: bool | None = None
        """Whether to execute anew, once it was told to end; None: it was not."""
        self.taken: JournalTaken | None = None
        """Why it ends, though nobody told it to."""
        self._end: Callable[[], object] = bool
        self._driver = ""
        self._said = ""
        self._core: Core | None = None
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._log = log.get("daemon")

    def watch_signals(self) -> None:
        """End the task that waits when the process is told to stop, or to execute itself anew."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._end = task.cancel

        def stop(again: bool) -> None:
            self.again = again
            self._end()

        def reload() -> None:
            try:
                load(self._path)
            except ConfigErrors as error:
                self._log.error("the configuration has errors; nothing changes", errors=str(error).splitlines())
            else:
                stop(again=True)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, False)
        loop.add_signal_handler(signal.SIGHUP, reload)

    async def __call__(self, holder: str, trouble: JournalUnavailable | None) -> None:
        """Say to people and to the service manager, which has started us, that another daemon drives the journal."""
        text = f"stands by; {holder} drives" if trouble is None else f"stands by, and cannot see who drives: {trouble}"
        sd_notify.notify(sd_notify.READY, sd_notify.WATCHDOG, sd_notify.status(text))
        if text != self._said:
            self._log.info(text)
            self._said = text
        if trouble is not None:
            await self._untold.tell(str(trouble))
            return
        await self._report_late()
        self._driver = holder
        if self._server is None:
            with suppress(JournalUnavailable):  # then in a second
                await self._serve()

    async def _serve(self) -> None:
        daemon = self._config.daemon
        if self._core is None:
            access = access_of(daemon)
            journal = await open_journal(daemon.journal, self._clock, access)
            checkpoint = Checkpoint(daemon.journal, access)
            try:
                self._core = await build(
                    self._config, journal, self._clock, checkpoint, standing_by=lambda: f"{self._driver} drives"
                )
            except BaseException:
                await journal.close()
                raise
        core = self._core
        passing = PassingOn(core.read_model, self._clock, lambda: self._driver)
        app = build_app(core.operations, daemon, reveal, core.slack_orders, passing)
        add_page(app, core.operations, daemon, self._clock)
        self._server = Server(app, daemon.listen, daemon.socket)
        await self._server.start()
        self._tasks = [
            asyncio.create_task(self._forever(core.membership.attend, MEMBERS_EVERY), name="membership"),
            asyncio.create_task(self._forever(partial(self._attend, core), EVERY), name="stands by"),
        ]

    async def _attend(self, core: Core) -> None:
        """Hear what is written, and let it be known what the signal files of this host hold and order."""
        await core.read_model.refresh()
        await core.host_holds.publish()
        await core.orders.scan()

    async def _forever(self, work: Callable[[], Awaitable[None]], every: timedelta) -> None:
        while True:
            try:
                await work()
            except JournalTaken as error:
                self.taken = error
                self._end()
            except JournalUnavailable as error:
                self._log.warning("the journal cannot be used; trying again", error=str(error))
            except Exception:  # noqa: BLE001  # as a root task of the daemon does: it must survive
                self._log.exception("a part of what stands by failed; trying again")
            await self._clock.sleep(every)

    async def close(self) -> Projection | None:
        """Serve no more; what it knows of the journal, for whoever goes on."""
        server, core, self._server, self._core = self._server, self._core, None, None
        await end(self._tasks)
        if server is not None:
            await server.stop()
        if core is None:
            return None
        if self.again is False:
            await core.membership.leave()
        await core.close(save=False)
        return core.read_model.known
