"""Whether something accepts connections on a TCP port."""

import asyncio
import re
from contextlib import suppress
from datetime import datetime
from typing import Annotated, ClassVar

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks.timed import timed
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import format_duration, read_by, show

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
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout.total_seconds()):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except TimeoutError:
            return Verdict.BAD, f"{settings.tcp}: no connection within {format_duration(settings.timeout)}"
        except OSError as error:
            verdict, reason = unanswered(error)
            return verdict, f"{settings.tcp}: {reason}"
        writer.close()
        with suppress(OSError):  # that it was there is known by now
            await writer.wait_closed()
        return Verdict.GOOD, f"{settings.tcp}: connected"
