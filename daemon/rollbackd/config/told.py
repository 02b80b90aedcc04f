"""Who is told, of what, in whose words, as far as it is names. Pure: data in, faults out."""

from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from string import Template
from typing import Any

from rollbackd.config.positions import Loc
from rollbackd.config.sketch import Scene, entries, mapping, names
from rollbackd.notification_events import EVENTS, PLACEHOLDERS
from rollbackd.plugins import unknown
from rollbackd.syntax.units import parse_duration

Complaint = tuple[Loc, str]


def faults(scene: Scene) -> Iterator[Complaint]:
    """All that is wrong with `notify` and `targets` beyond the shape of each part."""
    notify = scene.section("notify")
    receivers = [entry.get("name") for _, entry in entries(notify.get("receivers"), ())]
    known = [name for name in receivers if isinstance(name, str)]
    for loc, receiver in entries(notify.get("receivers"), ("notify", "receivers")):
        yield from _words(mapping(receiver.get("says")), (*loc, "says"))
    for loc, route in entries(notify.get("routes"), ("notify", "routes")):
        when = mapping(route.get("when"))
        yield from _unknown("receiver", route.get("to"), known, (*loc, "to"))
        services = {service.name for service in scene.services}
        yield from _unknown("service", when.get("service"), services, (*loc, "when", "service"))
        yield from _unknown("event", when.get("event"), EVENTS, (*loc, "when", "event"))
    yield from _tiers(notify, known)
    for adapter in mapping(scene.section("targets").get("steps")):
        if adapter not in scene.shape.plugins.adapters:
            yield ("targets", "steps", adapter), unknown("adapter", adapter, scene.shape.plugins.adapters)


def _unknown(word: str, value: Any, known: Collection[str], loc: Loc) -> Iterator[Complaint]:
    for place, name in names(value, loc):
        if name not in known:
            yield place, unknown(word, name, known)


def _tiers(notify: Mapping[str, Any], receivers: Collection[str]) -> Iterator[Complaint]:
    """Each tier after the one before, so that a place in the list is a place in time."""
    last = timedelta(microseconds=-1)
    for loc, tier in entries(notify.get("escalation"), ("notify", "escalation")):
        yield from _unknown("receiver", tier.get("to"), receivers, (*loc, "to"))
        try:
            after = parse_duration(tier.get("after", "0"))
        except ValueError:
            continue  # the model says what is wrong with it
        if after <= last:
            place = (*loc, "after") if "after" in tier else loc
            yield place, "this tier is not after the one before it; put them in order, or put both into one"
        last = max(last, after)


def _words(says: Mapping[Any, Any], loc: Loc) -> Iterator[Complaint]:
    for event, words in says.items():
        if isinstance(event, str) and event not in EVENTS:
            yield (*loc, event), unknown("event", event, EVENTS)
        if not isinstance(words, str):
            continue
        template = Template(words)
        if not template.is_valid():
            yield (*loc, event), "a $ stands for a value here; write $service, or $$ for a dollar"
            continue
        for name in template.get_identifiers():
            if name not in PLACEHOLDERS:
                yield (*loc, event), unknown("value", name, PLACEHOLDERS)
