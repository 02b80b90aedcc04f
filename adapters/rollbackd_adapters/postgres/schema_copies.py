"""Copies of a database's schema alone: what its tables were, and no row of them. Nothing can be restored from one.

They lie in a store of their own beside the copies of the data, so that none of them is ever taken for such a copy.
"""

import shutil
from collections.abc import Sequence
from functools import partial

from rollbackd.adapter import AdapterError, Place, Snapshot
from rollbackd.system.spawner import Lock
from rollbackd_adapters import lacks
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.copies import CopyStore, DataCopy, new_id
from rollbackd_adapters.failures import refusals_told
from rollbackd_adapters.postgres.catalogue import Catalogue
from rollbackd_adapters.postgres.dump import SCHEMA, Dumps, schema_digest
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.threads import in_thread

KIND = "schema"
_PLACE = ".schemas"
_END = b"-- PostgreSQL database dump complete"


class SchemaCopies(LayerPart[PostgresSettings]):
    """Those of one layer."""

    def __init__(self, settings: PostgresSettings, place: Place, dumps: Dumps, beside: CopyStore) -> None:
        super().__init__(settings, place)
        self._dumps = dumps
        self._store = CopyStore(beside.directory / _PLACE)

    async def take(self, why: str, seen: Catalogue, lock: Lock) -> Snapshot:
        """Copy the schema that is there. :raises AdapterError: what was written is not whole."""
        store, now = self._store, self._clock.now()
        with refusals_told(self._place.layer, store.directory):
            name = await in_thread(store.free_name, f"{KIND}-{why}", now)
            into = await in_thread(store.begin, name)
            try:
                await in_thread(lacks.need_room, into, self._settings.floor, "a copy ")
                file = into / SCHEMA
                digest = await self._dumps.schema(self._settings.database, "copy", seen.version, file, lock)
                written = await in_thread(file.read_bytes)
                if _END not in written:
                    text = f"{self._place.layer}: the copy of the schema was cut off"
                    raise AdapterError(f"{text}; is the disk well, and is there room?", permanent=False)
                facts = {"schema": digest, "major": seen.version}
                copy = DataCopy(name, new_id(), now, why, seen.present.lineage, len(written), facts)
                await in_thread(store.finish, copy)
            finally:
                await in_thread(partial(shutil.rmtree, into, ignore_errors=True))
        return _snapshot(copy)

    def listed(self) -> list[Snapshot]:
        return [_snapshot(copy) for copy in self._store.copies()]

    def harms(self, name: str) -> list[str] | None:
        """What is wrong with one; None: there is none of this name."""
        copy = next((one for one in self._store.copies() if one.name == name), None)
        if copy is None:
            return None
        whole = schema_digest(self._store.path(name) / SCHEMA) == copy.facts.get("schema")
        return [] if whole else [f"{SCHEMA} is gone, or was changed"]

    def prune(self, last: int) -> Sequence[str]:
        """Drop all but the newest."""
        self._store.sweep()
        gone = [copy.name for copy in self._store.copies()[last:]]
        for name in gone:
            self._store.drop(name)
        return gone


def _snapshot(copy: DataCopy) -> Snapshot:
    return Snapshot(copy.name, "", copy.created, copy.why, copy.size, 1, restorable=False, kind=KIND)
