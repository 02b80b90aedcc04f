"""Turns what the spawner says into what the contract says."""

import contextlib
from collections.abc import Iterator

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Busy, SpawnError


@contextlib.contextmanager
def as_adapter_errors() -> Iterator[None]:
    """A program that cannot start, and a resource that is busy, as the adapter's failures."""
    try:
        yield
    except SpawnError as error:
        raise AdapterError(str(error), permanent=error.permanent) from error
    except Busy as error:
        raise AdapterError(str(error), permanent=False) from error
