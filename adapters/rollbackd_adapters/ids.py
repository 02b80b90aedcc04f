"""Which ids of releases may go to a script, a service or another host. No I/O."""

import re
from collections.abc import Collection
from itertools import count

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.system.spawner import one_line

SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
"""The name of a snapshot, as the contract has it."""
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@+/~-]{0,254}")


def check_id(release: Release) -> Release:
    """The release. :raises AdapterError: permanent, for an id that may be taken for an option, a path or two words."""
    if _ID.fullmatch(release.id) is None or {".", ".."} & set(release.id.split("/")):
        raise AdapterError(
            f"{one_line(release.id)!r} is not an acceptable id of a release: letters, digits and ._:@+/~- only, 255 at "
            "most, beginning with a letter or digit",
            permanent=True,
        )
    return release


def check_own(release: Release, pattern: re.Pattern[str], what: str) -> str:
    """The id of a release that a layer names itself, safe as an argument.

    :raises AdapterError: permanent, when it is not `what`.
    """
    if pattern.fullmatch(release.id) is None:
        raise AdapterError(f"{one_line(release.id)!r} is not the id of {what}", permanent=True)
    return release.id


def free_name(base: str, taken: Collection[str]) -> str:
    """A name of that beginning which nothing has yet: `base`, `base-2`, …"""
    return next(name for number in count(1) if (name := base if number == 1 else f"{base}-{number}") not in taken)


def incident_of(key: str) -> str:
    """The incident of a change's key, or of a bracket's."""
    return key.partition("/")[0]
