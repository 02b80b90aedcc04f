"""Which ids of releases may go to a script, a service or another host. No I/O."""

import re

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.process import one_line

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


def incident_of(key: str) -> str:
    """The incident of a change's key, or of a bracket's."""
    return key.partition("/")[0]
