"""Groups of services that are compared with each other, and who compares with them. Pure: data in, faults out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollbackd.config.positions import Loc
from rollbackd.config.sketch import Scene, mapping, names, quoted
from rollbackd.plugins import unknown

Complaint = tuple[Loc, str]


def groups(scene: Scene) -> Iterator[Complaint]:
    """Members that are no services, or are in a group twice."""
    known = {service.name for service in scene.services}
    for group, members in scene.section("peers").items():
        seen: set[str] = set()
        for place, name in names(members, ("peers", group)):
            if name not in known:
                yield place, unknown("service", name, known)
            elif name in seen:
                yield place, f'"{name}" is in this group already; take one away'
            seen.add(name)


def compared(scene: Scene, query: Mapping[str, Any], services: Sequence[str], loc: Loc) -> Iterator[Complaint]:
    """What is wrong with the group that a query of these services is compared with, wherever it stands."""
    group = mapping(query.get("against")).get("peers")
    if not isinstance(group, str):
        return
    known = scene.section("peers")
    place = (*loc, "against", "peers")
    if group not in known:
        yield place, unknown("group of peers", group, known)
        return
    members = {name for _, name in names(known[group], ())}
    strangers = [service for service in services if service not in members]
    if strangers:
        text = f'{quoted(strangers)} is not in the group "{group}"' if len(strangers) == 1 else ""
        text = text or f'{quoted(strangers)} are not in the group "{group}"'
        yield place, f"{text}; add it there, or name the services that this is for"
