"""What became of a rollback, on one screen: what, from, to, each step with its time, the checks, what is left, next."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from rollbackd.cli.terminal_text import View, fields, section


def report(incident: View, records: Sequence[View]) -> None:
    """Print it. `records` are all of the incident, as the API gives them."""
    one = incident
    entered = ", ".join(one["entered"])
    left = f"{entered} still entered; `rollbackd ack {one['id']} --leave` leaves it" if entered else "nothing"
    begun, ended = _at(one["opened"]), _at(one["closed"])
    risks = [f"{step['layer']}: {risk}" for step in one["steps"] for risk in step["risks"]]
    print()
    fields(
        (
            ("what", f"{one['service']}: {one['outcome'] or one['status']}, {one['reason']}"),
            ("from", releases(one["before"])),
            ("to", releases(one["target"])),
            ("plan", one["plan"]),
            ("took", _length(ended - begun) if begun is not None and ended is not None else ""),
            ("left over", left),
            ("mind", "\n".join([*risks, *one["notes"]])),
            ("next", _next(one)),
        )
    )
    section(("STEP", "FROM", "TO", "STATUS", "TOOK"), _steps(one, records))
    checks(last_round(records))


def checks(found: Iterable[View]) -> None:
    """A line a check."""
    section(("CHECK", "VERDICT", "SAYS"), ((one["name"], one["verdict"], one["reason"]) for one in found))


def _next(one: View) -> str:
    """What to do now, also where it has not ended."""
    from rollbackd.incident.outcomes import MEANINGS, SEE_WHY

    meaning = MEANINGS.get(one["outcome"])
    return (meaning.next if meaning is not None else SEE_WHY).format(service=one["service"], id=one["id"])


def _steps(one: View, records: Sequence[View]) -> Iterator[tuple[str, ...]]:
    """Brackets and steps in order, each from its first attempt to its end."""
    took = _durations(records)
    for (began, layer), length in took.items():
        if began == "Entering":
            yield layer, "", "", "entered" if layer in one["entered"] else "left", _length(length)
    for step in one["steps"]:
        length = took.get(("ApplyStarted", step["layer"]))
        yield step["layer"], step["before"], step["after"], step["status"], _length(length)


def _durations(records: Sequence[View]) -> dict[tuple[str, str], timedelta | None]:
    """How long what was begun took, by what began it and its layer; None: it has not ended."""
    ends: dict[str, str] = {"Entered": "Entering", "Applied": "ApplyStarted"}
    began: dict[tuple[str, str], datetime] = {}
    took: dict[tuple[str, str], timedelta | None] = {}
    for record in records:
        kind, layer, at = str(record["kind"]), str(record["fact"].get("layer", "")), _at(record["at"])
        place = (ends.get(kind, kind), layer)
        if at is None:
            continue
        if kind in ends.values():
            began.setdefault(place, at)
            took.setdefault(place, None)
        elif kind in ends and place in began:
            took[place] = at - began.pop(place)
    return took


def last_round(records: Sequence[View]) -> list[View]:
    """What the checks said in the last round of the gate or of verification; empty when there was none."""
    rounds = [record for record in records if record["kind"] in {"Gated", "Round"}]
    return list(rounds[-1]["fact"]["results"]) if rounds else []


def releases(state: View | None) -> str:
    """The releases of a state, in the order of its layers."""
    return ", ".join(f"{layer} {release}" for layer, release in state["releases"].items()) if state else ""


def _at(time: str | datetime | None) -> datetime | None:
    """A time of the API, or as it was before it became JSON."""
    return datetime.fromisoformat(time) if isinstance(time, str) else time


def _length(length: timedelta | None) -> str:
    return f"{length.total_seconds():.1f}s" if length is not None else ""
