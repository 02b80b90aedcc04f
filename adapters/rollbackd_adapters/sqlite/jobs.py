"""Starts the worker: a job is a file in the layer's scratch, the answer is the worker's last line."""

import json
import secrets
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.spawner import Lock, Spawner
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.sqlite import worker
from rollbackd_adapters.traces import Trace, write_facts

Answer = dict[str, Any]


class SqliteJobs:
    """The jobs of one layer."""

    def __init__(self, place: Place, limit: timedelta) -> None:
        self._place = place
        self._spawner: Spawner = place.spawner
        self._limit = limit

    async def run(self, what: str, lock: Lock | None = None, limit: timedelta | None = None, **job: Any) -> Answer:
        """The answer to a question, or to what is begun anew after a kill.

        :raises AdapterError: as the worker says, or it was ended.
        """
        path = self._place.scratch / "jobs" / f"{what}-{secrets.token_hex(6)}.json"
        write_facts(path, {"do": what, **job})
        try:
            with as_adapter_errors():
                ended = await self._spawner.run(_command(path), timeout=limit or self._limit, lock=lock)
        finally:
            path.unlink(missing_ok=True)
        if ended.timed_out:
            text = f"{self._place.layer}: {what} took longer than its limit; see `timeout`"
            raise AdapterError(text, permanent=False, evidence=ended.tail)
        return self._answer(what, ended.ending, ended.stdout.decode(errors="replace"), ended.tail)

    async def run_recorded(self, what: str, trace: Trace, lock: Lock, **job: Any) -> Answer:
        """The answer to an effect, which goes on when we are killed, and is done once."""
        path = trace.record(f"job-{what}")
        write_facts(path, {"do": what, **job})
        with as_adapter_errors():
            ended = await self._spawner.run_recorded(
                _command(path), record=trace.record(what), lock=lock, timeout=self._limit
            )
        if ended.timed_out:
            text = f"{self._place.layer}: {what} took longer than its limit; see `timeout`"
            raise AdapterError(text, permanent=False, evidence=ended.tail)
        return self._answer(what, ended.ending, ended.tail, ended.tail)

    def _answer(self, what: str, ending: str, said: str, tail: str) -> Answer:
        try:
            answer = json.loads(said.rstrip().rpartition("\n")[2])
            assert isinstance(answer, Mapping)
        except (ValueError, AssertionError) as error:
            text = f"{self._place.layer}: its worker broke off while it was to {what}: {ending}"
            raise AdapterError(text, permanent=False, evidence=tail) from error
        if "error" in answer:
            raise AdapterError(f"{self._place.layer}: {answer['error']}", permanent=bool(answer.get("permanent")))
        return dict(answer)


def _command(job: Path) -> list[str]:
    return [sys.executable, "-I", worker.__file__, str(job)]
