"""Errors of the spawner and of the system as errors of the contract."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Busy, Lock, Spawner, SpawnError
from rollbackd_adapters import lacks


@contextlib.contextmanager
def as_adapter_errors() -> Iterator[None]:
    """Raise an `AdapterError` for a program that cannot start, and for a resource that is busy."""
    try:
        yield
    except SpawnError as error:
        raise AdapterError(str(error), permanent=error.permanent) from error
    except Busy as error:
        raise AdapterError(str(error), permanent=False) from error


@contextlib.contextmanager
def refusals_told(layer: str, directory: Path) -> Iterator[None]:
    """Raise an `AdapterError` for what the system refuses.

    :param directory: what is named where the error names no file.
    """
    try:
        yield
    except OSError as error:
        text = f"{layer}: {error.filename or directory}: {lacks.hint(error)}"
        raise AdapterError(text, permanent=False) from error


@contextlib.asynccontextmanager
async def holding(spawner: Spawner, resource: str, wait: timedelta = timedelta()) -> AsyncIterator[Lock]:
    """The lock of a resource, for all that is done within; another process is waited for as long as `wait`."""
    with as_adapter_errors():
        async with spawner.hold(resource, wait=wait) as lock:
            yield lock
