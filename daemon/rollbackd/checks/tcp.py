"""Whether something accepts connections on a TCP port."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, ClassVar

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks.timed import timed, too_late
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import format_duration, read_by, show
from rollbackd.system.name_lookup import addresses

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\s:\[\]/@]+)):(?P<port>[0-9]{1,5})")


def split_address(text: str) -> tuple[str, int]:
    """`db.example:5432` or `[::1]:5432` as host and port. :raises ValueError: for anything else."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{show(text)} is not an address; write it like db.example:5432 or [::1]:5432")
    return found["v6"] or found["host"], int(found["port"])


class TcpSettings(CheckSettings):
    """A TCP connection can be made."""

    tcp: Annotated[str, read_by(split_address)]
    """`HOST:PORT`, IPv6 in brackets."""


class TcpCheck:
    """A check that connects, sends nothing and closes."""

    settings_model: ClassVar[type[CheckSettings]] = TcpSettings

    def __init__(self, settings: TcpSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place
        self._host, self._port = split_address(settings.tcp)

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        return await timed(self._place, self._settings, self._connect())

    async def _connect(self) -> tuple[Verdict, str]:
        settings, loop = self._settings, asyncio.get_running_loop()
        limit, tried = settings.timeout.total_seconds(), None
        try:
            async with asyncio.timeout(limit):
                places = await addresses(self._host, self._port)
            tried = loop.time()
            async with asyncio.timeout(limit):
                writer = await self._first_of(places)
        except TimeoutError:
            within = format_duration(settings.timeout)
            if tried is None:
                return Verdict.INCONCLUSIVE, f"{settings.tcp}: could not ask: its name did not resolve within {within}"
            reason = f"{settings.tcp}: no connection within {within}"
            return too_late(reason, settings.timeout, self._place.held_up(tried))
        except OSError as error:
            verdict, reason = unanswered(error)
            return verdict, f"{settings.tcp}: {reason}"
        writer.close()
        with suppress(OSError):  # that it was there is known by now
            await writer.wait_closed()
        return Verdict.GOOD, f"{settings.tcp}: connected"

    async def _first_of(self, places: Sequence[tuple[int, str]]) -> asyncio.StreamWriter:
        """A connection to the first address that takes one. :raises OSError: as the last of them."""
        last = OSError("its name stands for no address")
        for family, address in places:
            try:
                return (await asyncio.open_connection(address, self._port, family=family))[1]
            except OSError as error:
                last = error
        raise last
