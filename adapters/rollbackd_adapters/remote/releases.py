"""Releases as several hosts tell them. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rollbackd.adapter import AdapterError
from rollbackd.model import NO_RELEASE, Change, Release
from rollbackd.process import one_line
from rollbackd_adapters.ids import check_id


def harmless(release: Release) -> Release:
    """As another host told it, fit to be shown. :raises AdapterError: its id is none."""
    if release != NO_RELEASE:
        check_id(release)
    return replace(release, label=one_line(release.label), names=tuple(map(one_line, release.names)))


def agreed(found: Mapping[str, Release]) -> Release:
    """The release that all hosts have. :raises AdapterError: they differ; says which has what."""
    if len(set(found.values())) > 1:
        have = ", ".join(f"{host} has {one_line(release.name)}" for host, release in found.items())
        raise AdapterError(f"the hosts differ: {have}; bring them to one release", permanent=False)
    return next(iter(found.values()))


def common(found: Mapping[str, Sequence[Release]]) -> tuple[Release, ...]:
    """What all hosts can go back to, in the order of the first; good when all say so."""
    first, *others = [{each.id: each for each in releases} for releases in found.values()]
    return tuple(
        replace(release, good=release.good and all(other[name].good for other in others))
        for name, release in first.items()
        if all(name in other for other in others)
    )


def as_one(layer: str, target: Release, found: Mapping[str, Change]) -> Change:
    """The plans of all hosts as one change of the layer.

    :raises AdapterError: the hosts differ, or one has planned something else than it was asked for.
    """
    for host, change in found.items():
        if change.after != target:
            text = f"{host} planned to go to {one_line(change.after.name)} and not to {one_line(target.name)}"
            raise AdapterError(f"{text}; have the same rollbackd on both hosts", permanent=True)
    several = len(found) > 1
    risks = tuple(
        f"{host}: {one_line(risk)}" if several else one_line(risk)
        for host, change in found.items()
        for risk in change.risks
    )
    before = harmless(agreed({host: change.before for host, change in found.items()}))
    after = harmless(next(iter(found.values())).after)
    return Change(layer, before, after, reversible=all(each.reversible for each in found.values()), risks=risks)
