"""A lock file that deployments look for. It appears whole or not at all.

It lists who holds it: services that share one file each add themselves, and the last to leave removes it. A file that
says anything else is somebody else's and is never touched.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock, sync_directory, write_durably
from rollbackd_adapters.freeze.barrier import Whose
from rollbackd_adapters.ids import incident_of
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, safe_name

_MINE = "rollbackd"
_LARGEST = 2**20


class FrozenFile:
    """One lock file."""

    def __init__(self, path: Path, place: Place) -> None:
        self._path = path
        self._place = place
        self._clock: Clock = place.clock

    async def whose(self, key: str, _trace: Trace) -> Whose:
        return await asyncio.to_thread(self._whose, key)

    def _whose(self, key: str) -> Whose:
        holders = self._holders()
        if holders is None:
            return Whose.THEIRS
        if any(self._mine(holder, key) for holder in holders):
            return Whose.OURS
        return Whose.NOBODY  # free, or of another service of ours, whom we join

    async def close(self, key: str, _trace: Trace, _lock: Lock) -> bool:
        return await in_thread(self._close, key)

    def _close(self, key: str) -> bool:
        holders = self._holders()
        if holders is None:
            return False
        mine = {
            "incident": incident_of(key),
            "key": key,
            "service": self._place.service,
            "since": self._clock.now().isoformat(timespec="seconds"),
            "why": f"{self._place.service} is being rolled back; do not deploy until this file is gone",
        }
        return self._write([*(holder for holder in holders if not self._mine(holder, key)), mine], new=not holders)

    async def lift(self, key: str, _trace: Trace, _lock: Lock) -> None:
        await in_thread(self._lift, key)

    def _lift(self, key: str) -> None:
        holders = self._holders()
        if not holders or not any(self._mine(holder, key) for holder in holders):
            return
        rest = [holder for holder in holders if not self._mine(holder, key)]
        if rest:
            self._write(rest, new=False)
            return
        try:
            self._path.unlink(missing_ok=True)
            sync_directory(self._path.parent)
        except OSError as error:
            raise self._failure(error) from error

    def _mine(self, holder: Mapping[str, object], key: str) -> bool:
        return holder.get("key") == key and holder.get("service") == self._place.service

    def _holders(self) -> list[dict[str, Any]] | None:
        """The holders among us; empty when there is no file; None when the file is somebody else's."""
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_LARGEST))
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError):
            return None
        except OSError as error:
            raise self._failure(error) from error
        if not isinstance(found, dict) or found.get("frozen_by") != _MINE or not isinstance(found.get("holders"), list):
            return None
        return [holder for holder in found["holders"] if isinstance(holder, dict)] or None

    def _write(self, holders: Sequence[Mapping[str, object]], *, new: bool) -> bool:
        """Put the file in place; a new one only where there is none.

        :returns: False when there is one.
        """
        text = json.dumps({"frozen_by": _MINE, "holders": holders}, indent=2) + "\n"
        half = self._path.with_name(f".{self._path.name}.{safe_name(self._place.service)}.half")
        try:
            write_durably(half, text.encode())
            half.chmod(0o644)  # deployments run as somebody else
            if new:
                self._path.hardlink_to(half)
                half.unlink()
            else:
                half.rename(self._path)
            sync_directory(self._path.parent)
        except FileExistsError:
            half.unlink(missing_ok=True)
            return False
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            raise self._failure(error) from error
        return True

    def _failure(self, error: OSError) -> AdapterError:
        return AdapterError(
            f"{self._path}: {(error.strerror or str(error)).lower()}; rollbackd must be able to make and remove it",
            permanent=False,
        )

    async def problems(self) -> Sequence[str]:
        return await asyncio.to_thread(self._problems)

    def _problems(self) -> list[str]:
        parent = self._path.parent
        if not parent.is_dir():
            return [f"{parent}: no such directory; make it"]
        if not os.access(parent, os.W_OK | os.X_OK):
            return [f"{parent}: rollbackd may not write there; give its user that right"]
        if self._path.is_dir():
            return [f"{self._path} is a directory; `file` is a file that rollbackd makes and removes"]
        return []
