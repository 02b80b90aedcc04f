"""How answers look to people. Values are the API's JSON; nothing here asks or decides."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rollbackd.cli.text import fields, moment, safe, table

View = Mapping[str, Any]


def releases(state: View | None) -> str:
    """The releases of a state, a layer a line."""
    if state is None:
        return ""
    return ", ".join(f"{layer} {release}" for layer, release in sorted(state["releases"].items()))


def services(found: Sequence[View]) -> None:
    """A line a service, and below what needs more words."""
    rows = [
        (one["name"], one["health"], releases(one["present"]), _goodness(one), releases(one["target"]), one["incident"])
        for one in found
    ]
    table(("SERVICE", "HEALTH", "RUNS", "GOOD", "GOES BACK TO", "INCIDENT"), rows)
    notes = [note for one in found for note in _notes(one)]
    if notes:
        print()
    for note in dict.fromkeys(notes):
        print(note)


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
    yield from (hold(one) for one in service["holds"])


def hold(one: View) -> str:
    """A hold as a sentence."""
    scope = "all services are" if one["scope"] == "*" else f"{safe(one['scope'])} is"
    if not one["actor"]:
        return f"{safe(one['scope'])}: {safe(one['reason'])}"
    until = f" until {moment(one['until'])}" if one["until"] else ""
    reason = f": {safe(one['reason'])}" if one["reason"] else ""
    return f"{scope} held by {safe(one['actor'])} ({safe(one['source'])}){until}{reason}"


def service(one: View, states: Sequence[View]) -> None:
    """All about one service."""
    present, incident = one["present"], one["incident"]
    print(f"{safe(one['name'])}: {safe(one['health'])}, {safe(one['priority'])}, mode {safe(one['mode'])}")
    fields(
        (
            ("runs", releases(present) or "in transition, or not looked at yet"),
            ("since", moment(present["since"]) if present else ""),
            ("good", (present["good"] if present else "") or f"not yet: {one['baked']:.0%} of its bake time"),
            ("goes back to", releases(one["target"])),
            ("cannot go back", one["cannot"]),
            ("incident", f"{incident} (rollbackd incidents {incident})" if incident else ""),
            ("held", "\n".join(hold(each) for each in one["holds"])),
        )
    )
    if one["rules"]:
        print()
        rules = [(rule["rule"], rule["verdict"], moment(rule["since"]), rule["reason"]) for rule in one["rules"]]
        table(("RULE", "VERDICT", "SINCE", "WHY"), rules)
    if states:
        print()
        rows = [(state["key"], moment(state["since"]), releases(state), _mark(state)) for state in states]
        table(("STATE", "SINCE", "RELEASES", "GOOD"), rows)


def _mark(state: View) -> str:
    quarantined = f"quarantined: {', '.join(state['quarantined'])}" if state["quarantined"] else ""
    via = f"by {state['via']}" if state["via"] else ""
    return "; ".join(part for part in (state["good"], quarantined, via) if part)


def incidents(found: Sequence[View]) -> None:
    """A line an incident."""
    if not found:
        print("no incidents")
        return
    rows = [
        (one["id"], one["outcome"] or one["status"], one["priority"], one["rule"], moment(one["opened"]), one["reason"])
        for one in found
    ]
    table(("INCIDENT", "STATUS", "PRIO", "RULE", "OPENED", "REASON"), rows)


def incident(detail: View) -> None:
    """All about one incident: what it is, why it was decided, what was done when by whom."""
    one = detail["incident"]
    ended = f"closed, {one['outcome']}" if one["outcome"] else one["status"]
    print(
        f"{safe(one['id'])}: {safe(ended)}, {safe(one['priority'])}, rule {safe(one['rule'])}, plan {safe(one['plan'])}"
    )
    fields(
        (
            ("reason", one["reason"]),
            ("opened", moment(one["opened"])),
            ("closed", moment(one["closed"])),
            ("from", releases(one["before"])),
            ("to", releases(one["target"])),
            ("entered", ", ".join(one["entered"])),
            ("acknowledged", one["acknowledged"]),
        )
    )
    if one["steps"]:
        print()
        steps(one["steps"])
    if detail["decision"] is not None:
        print()
        decision(detail["decision"])
    print()
    Timeline().add(detail["records"])


def steps(found: Sequence[View], *, status: bool = True) -> None:
    """A line a step; a plan's steps have no status yet."""
    head = ["STEP", "FROM", "TO", *(["STATUS"] if status else []), "RISKS"]
    rows = [
        [one["layer"], one["before"], one["after"], *([one["status"]] if status else []), _risks(one)] for one in found
    ]
    table(head, rows)


def _risks(step: View) -> str:
    return "; ".join([*step["risks"], *([] if step["reversible"] else ["irreversible"])])


def decision(one: View) -> None:
    """What was decided on a trigger, and every finding."""
    person = ", needs a person" if one["escalate"] else ""
    head = f"{moment(one['at'])}  {safe(one['service'])}: {safe(one['action'])}{person}"
    print(f"{head} ({safe(one['rule'])}, {safe(one['priority'])})")
    passed = [finding["guard"] for finding in one["findings"] if not finding["against"]]
    fields(
        (
            ("onset", moment(one["onset"])),
            ("evidence", "\n".join(one["evidence"])),
            ("runs", one["present"]),
            ("target", one["target"]),
            ("against", "\n".join(_against(one["findings"]))),
            ("passed", ", ".join(passed)),
            ("incident", one["incident"]),
        )
    )


def _against(findings: Sequence[View]) -> list[str]:
    return [
        f"{one['guard']}: {one['reason']} ({one['against']}{', escalates' if one['escalate'] else ''})"
        for one in findings
        if one["against"]
    ]


def decisions(found: Sequence[View]) -> None:
    """A paragraph a decision."""
    if not found:
        print("no decisions")
    for number, one in enumerate(found):
        if number:
            print()
        decision(one)


def plan(one: View) -> None:
    """What a rollback would be."""
    print(f"{safe(one['service'])}: plan {safe(one['plan'])}")
    fields(
        (
            ("runs", releases(one["present"])),
            ("target", releases(one["target"]) or "none"),
            ("within", ", ".join(one["brackets"])),
            ("problems", "\n".join(one["problems"])),
            ("by itself", f"{one['action']}"),
            ("against", "\n".join(_against(one["findings"]))),
        )
    )
    if one["steps"]:
        print()
        steps(one["steps"], status=False)


class Timeline:
    """Records with their times; a new day has a line of its own. More can be added while one watches."""

    def __init__(self) -> None:
        self._day = ""
        self._width = 0

    def add(self, records: Sequence[View]) -> None:
        self._width = max([self._width, *(len(safe(record["actor"])) for record in records)])
        for record in records:
            day, _, clock = moment(record["at"]).partition(" ")
            if day != self._day:
                self._day = day
                print(day)
            print(f"  {clock}  {safe(record['actor']):<{self._width}}  {safe(record['text'])}", flush=True)
