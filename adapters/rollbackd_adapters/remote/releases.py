"""Releases as several hosts tell them. No I/O."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rollbackd.adapter import AdapterError, MixedError
from rollbackd.model import NO_RELEASE, Change, Release
from rollbackd.system.spawner import one_line
from rollbackd_adapters.ids import check_id

_DIGEST = re.compile(r"[0-9a-f]{16,}")
_UNFINISHED = " unfinished"
_SHORT = 12
"""Digits of a digest that people are given."""


def harmless(release: Release) -> Release:
    """As another host told it, fit to be shown. :raises AdapterError: its id is none."""
    if release != NO_RELEASE:
        check_id(release)
    return replace(release, label=one_line(release.label), names=tuple(map(one_line, release.names)), parts=())


def together(found: Mapping[str, Release], unfinished: Collection[str] = ()) -> Release:
    """What all hosts have: their release, or a mixture where they differ or one was left unfinished on its way."""
    if len(set(found.values())) == 1 and not unfinished:
        return next(iter(found.values()))
    parts = tuple((host, release.id) for host, release in sorted(found.items()))
    label = ", ".join(f"{host} {release.name}{_UNFINISHED * (host in unfinished)}" for host, release in found.items())
    digest = hashlib.sha256(json.dumps([parts, sorted(unfinished)]).encode()).hexdigest()
    return Release(f"mixed-{digest[:16]}", label, parts=parts)


def agreed(release: Release, order: str) -> Release:
    """One release of all hosts. :raises MixedError: they differ; says which has what, and the order that helps."""
    if release.parts:
        text = f"the hosts differ: {release.label}; `{order}=RELEASE`, once all answer, brings them to one release"
        raise MixedError(text, release)
    return release


def order(service: str, layer: str) -> str:
    """The command that takes all hosts of a layer to one release, up to `=RELEASE`."""
    return f"rollbackd rollback {service} --to {layer}"


def typed(release: Release) -> str:
    """An id as a person types it."""
    return release.id[:_SHORT] if _DIGEST.fullmatch(release.id) else release.id


def common(found: Mapping[str, Sequence[Release]]) -> tuple[Release, ...]:
    """What all hosts can go back to, in the order of the first; good when all say so."""
    first, *others = [{each.id: each for each in releases} for releases in found.values()]
    return tuple(
        replace(release, good=release.good and all(other[name].good for other in others))
        for name, release in first.items()
        if all(name in other for other in others)
    )


def as_one(layer: str, target: Release, found: Mapping[str, Change], unfinished: Collection[str]) -> Change:
    """The plans of all hosts as one change of the layer; from a mixture where they differ.

    :raises AdapterError: one has planned something else than it was asked for.
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
    before = together({host: harmless(change.before) for host, change in found.items()}, unfinished)
    after = harmless(next(iter(found.values())).after)
    aside = "; ".join(one_line(f"{host}: {each.aside}") for host, each in found.items() if each.aside)
    reversible = all(each.reversible for each in found.values())
    losses = [each.loss for each in found.values() if each.loss is not None]
    loss = min(losses, key=lambda each: each.copied, default=None)
    return Change(layer, before, after, reversible=reversible, risks=risks, aside=aside, loss=loss)


def share(change: Change, host: str) -> Change | None:
    """One host's part of a change; None when it did not answer when this was planned from a mixture."""
    if not change.before.parts:
        return change
    before = dict(change.before.parts).get(host)
    return None if before is None else replace(change, before=Release(before))
