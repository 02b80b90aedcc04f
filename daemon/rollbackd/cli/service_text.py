"""How services, their health and their history look to people. Values are the API's JSON."""

from collections.abc import Iterable, Sequence

from rollbackd.cli.change_commands import deadline, title
from rollbackd.cli.incident_text import keeps_entered, releases, still_entered
from rollbackd.cli.terminal_text import View, below, fields, length, moment, safe, section, table

_INDENT = 24
"""Columns before a state's marks: two, its time, two more."""


def services(found: Sequence[View], ended: Sequence[View] = (), driver: str = "") -> None:
    """A line a service, and below what needs more words; `ended`: incidents that may have left something entered.

    `driver`: who drives, where several hosts share the journal.
    """
    rows = [
        (one["name"], one["health"], releases(one["present"]), _goodness(one), releases(one["target"]), one["incident"])
        for one in found
    ]
    table(("SERVICE", "HEALTH", "RUNS", "GOOD", "GOES BACK TO", "INCIDENT"), rows)
    shared = [safe(driver)] if driver else []
    notes = [
        *shared,
        *(note for one in found for note in _notes(one)),
        *map(still_entered, filter(keeps_entered, ended)),
    ]
    if notes:
        print()
    for note in dict.fromkeys(notes):
        print(note)


def members(found: Sequence[View]) -> None:
    """A line a host."""
    if not found:
        print("no other host shares the journal")
        return
    rows = [
        (
            one["host"],
            "yes" if one["drives"] else "no",
            one["version"],
            moment(one["since"]),
            f"{length(one['silent']) or '0s'} ago",
            f"{one['ahead']:+.1f}s",
            one["configuration"],
        )
        for one in found
    ]
    table(("HOST", "DRIVES", "VERSION", "SINCE", "HEARD", "CLOCK", "CONFIGURATION"), rows)


def _goodness(service: View) -> str:
    present = service["present"]
    if present is not None and present["good"]:
        return "yes"
    return f"{service['baked']:.0%}"


def _notes(service: View) -> Iterable[str]:
    name = safe(service["name"])
    if service["mode"] == "shadow":
        yield f"{name} is in shadow mode: decides and tells, touches nothing"
    if service["cannot"]:
        yield f"{name} cannot be rolled back: {safe(service['cannot'])}"
    elif service["unready"]:
        yield f"{name} could not be rolled back: {safe('; '.join(service['unready']))}"
    if service["asks"]:
        yield f"{name} asks whether it goes back: rollbackd incidents {safe(service['incident'])}"
    yield from (hold(one) for one in service["holds"])
    for one in service["waiting"]:
        until, *how = deadline(one)
        yield "\n  ".join([f"{name}: {title(one)}", until, *how])


def hold(one: View) -> str:
    """A hold as a sentence."""
    scope = "all services are" if one["scope"] == "*" else f"{safe(one['scope'])} is"
    if not one["actor"]:
        return f"{safe(one['scope'])}: {safe(one['reason'])}"
    until = f" until {moment(one['until'])}" if one["until"] else ""
    reason = f": {safe(one['reason'])}" if one["reason"] else ""
    return f"{scope} held by {safe(one['actor'])} ({safe(one['source'])}){until}{reason}"


def health(one: View) -> None:
    """What the checks say, those first that count."""
    print(f"{safe(one['service'])}: {'healthy' if one['healthy'] else 'not healthy'}")
    print()
    rows = [(check["name"], check["verdict"], check["reason"]) for check in one["checks"]]
    rows += [(f"({check['name']})", check["verdict"], check["reason"]) for check in one["others"]]
    table(("CHECK", "VERDICT", "SAYS"), rows)
    if one["others"]:
        print("\n(in brackets: only told)")


def service(one: View, states: Sequence[View], ended: Sequence[View] = ()) -> None:
    """All about one service; `ended`: incidents of it that may have left something entered."""
    present, incident = one["present"], one["incident"]
    print(f"{safe(one['name'])}: {safe(one['health'])}, {safe(one['priority'])}, mode {safe(one['mode'])}")
    asks = "asks whether it goes back: " if one["asks"] else ""
    fields(
        (
            ("runs", releases(present) or "in transition, or not looked at yet"),
            ("since", moment(present["since"]) if present else ""),
            ("good", (present["good"] if present else "") or f"not yet: {one['baked']:.0%} of its bake time"),
            ("goes back to", releases(one["target"])),
            ("cannot go back", one["cannot"]),
            ("drill", _drill(one)),
            ("incident", f"{incident} ({asks}rollbackd incidents {incident})" if incident else ""),
            ("entered", "\n".join(filter(None, map(still_entered, ended)))),
            ("held", "\n".join(hold(each) for each in one["holds"])),
            ("announced", "\n".join("\n".join([title(each), *deadline(each)]) for each in one["waiting"])),
        )
    )
    rules = ((rule["rule"], rule["verdict"], moment(rule["since"]), rule["reason"]) for rule in one["rules"])
    section(("RULE", "VERDICT", "SINCE", "WHY"), rules)
    if states:
        print("\nstates, newest first, with what each changed:")
        _history(one, states)


def _drill(one: View) -> str:
    """What the last asking drill found."""
    if not one["drilled"]:
        return ""
    return "\n".join([f"asked {moment(one['drilled'])}: {'NOT ready' if one['unready'] else 'ready'}", *one["unready"]])


def _history(one: View, states: Sequence[View]) -> None:
    target = one["target"]["key"] if one["target"] else ""
    present = one["present"]["key"] if one["present"] else ""
    for number, state in enumerate(states):
        older = states[number + 1] if number + 1 < len(states) and states[number + 1]["since"] else None
        since = moment(state["since"]) or "never ran here"
        marks = ", ".join(_marks(state, runs=number == 0 and state["key"] == present, target=state["key"] == target))
        print(f"  {since:<20}  {below(marks, _INDENT)}")
        print(f"  {safe(state['key']):<20}  {below(_changed(state, older), _INDENT)}")


def _marks(state: View, *, runs: bool, target: bool) -> list[str]:
    """What is known of a state, the most telling first."""
    quarantined = ", ".join(state["quarantined"])
    known = f"good: {state['good']}" if state["good"] else "unknown"
    marks = [
        "RUNS NOW" if runs else "",
        "GOES BACK TO THIS" if target else "",
        f"QUARANTINED: {quarantined}" if quarantined else known,
        f"rolled back to by {state['via']}" if state["via"] else "",
        f"announced: {state['change']}" if state["change"] else "",
    ]
    return [mark for mark in marks if mark]


def _changed(state: View, older: View | None) -> str:
    """The layers that are another release than before; all of them for the oldest, and where none is."""
    before = older["ids"] if older is not None else {}
    moved = {layer: name for layer, name in state["releases"].items() if before.get(layer) != state["ids"].get(layer)}
    gone = [f"{layer} gone" for layer in before if layer not in state["releases"]]
    shown = moved if moved or gone else state["releases"]
    return ", ".join([*(f"{layer} {name}" for layer, name in sorted(shown.items())), *gone])
