"""Which hosts were sent somewhere and have not said that they arrived. A host that differs only in that is no release.

`<scratch>/unfinished/HOST.json` has the change as it was sent, from before it is sent until the host says DONE.
"""

import asyncio
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import Change
from rollbackd_adapters.traces import write_facts

_CHANGE: TypeAdapter[Change] = TypeAdapter(Change)


class UnfinishedChange:
    """The change that one host was sent."""

    def __init__(self, scratch: Path, host: str) -> None:
        self._path = scratch / "unfinished" / f"{host}.json"

    async def begin(self, change: Change) -> None:
        """Before it is sent. :raises AdapterError: it cannot be written, so nothing may be sent."""
        await asyncio.to_thread(write_facts, self._path, _CHANGE.dump_python(change, mode="json"))

    async def end(self) -> None:
        """Forget it: the host has arrived."""
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def change(self) -> Change | None:
        """What it was sent last, if it did not arrive. :raises AdapterError: that cannot be read."""
        try:
            return _CHANGE.validate_json(await asyncio.to_thread(self._path.read_bytes))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise AdapterError(
                f"{self._path} cannot be read; look whether that host is well, then remove it", permanent=True
            ) from error
