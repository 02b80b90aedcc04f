"""How incidents and decisions look to people. Values are the API's JSON; nothing here asks or decides."""

from collections.abc import Sequence

from rollbackd.cli.outcome_report import last_round
from rollbackd.cli.terminal_text import View, fields, length, moment, safe, safe_lines, section, table

_FAILED = frozenset({"EnterFailed", "ApplyFailed", "LeaveFailed"})
_OUTPUT = 20
"""Lines of a failed program's output."""


def releases(state: View | None) -> str:
    """The releases of a state, a layer a line."""
    if state is None:
        return ""
    return ", ".join(f"{layer} {release}" for layer, release in sorted(state["releases"].items()))


def keeps_entered(incident: View) -> bool:
    return bool(incident["outcome"] and incident["entered"])


def still_entered(incident: View) -> str:
    """What an incident that has ended keeps closed, and how to open that; empty: nothing."""
    if not keeps_entered(incident):
        return ""
    name, layers = safe(incident["id"]), safe(", ".join(incident["entered"]))
    return f"{layers} is still entered since {name}; when it can be left: rollbackd ack {name} --leave"


def incidents(found: Sequence[View]) -> None:
    """A line an incident, and below how those that ask are answered."""
    if not found:
        print("no incidents")
        return
    rows = [
        (one["id"], one["outcome"] or one["status"], one["priority"], one["rule"], moment(one["opened"]), _reason(one))
        for one in found
    ]
    table(("INCIDENT", "STATUS", "PRIO", "RULE", "OPENED", "REASON"), rows)
    asking = [one for one in found if one["question"]]
    if asking:
        print()
    for one in asking:
        until = moment(one["question"]["expires"])
        print(f"{safe(one['id'])} asks until {until}; still missing: {safe(one['question']['missing']) or 'nothing'}")
        print(f"  rollbackd approve {safe(one['id'])}, or deny; why: rollbackd incidents {safe(one['id'])}")


def _reason(one: View) -> str:
    return one["reason"] or ("; ".join(one["question"]["why"]) if one["question"] else "")


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
            ("blamed", one["change"]),
            _checks(one, detail["records"]),
            ("evidence", _said(one["evidence"])),
            ("entered", still_entered(one) or ", ".join(one["entered"])),
            ("mind", "\n".join(one["notes"])),
            ("acknowledged", one["acknowledged"]),
        )
    )
    if one["question"]:
        print()
        question(one["id"], one["question"])
    steps(one["steps"])
    if detail["decision"] is not None:
        print()
        decision(detail["decision"])
    print()
    Timeline().add(detail["records"])


def _checks(one: View, records: Sequence[View]) -> tuple[str, str]:
    """What its checks said last: in the last round, else when it was opened."""
    found = last_round(records)
    return ("last round" if found else "checks"), _said(found or one["checks"])


def _said(found: Sequence[View]) -> str:
    return "\n".join(f"{each['name']} {each['verdict']}: {each['reason']}" for each in found)


def question(incident: str, one: View) -> None:
    """What is asked, of whom, who said yes, what is missing, until when, and how to answer."""
    print(f"{safe(incident)} asks whether to go back")
    without = "it goes back by itself" if one["otherwise"] == "roll_back" else "nothing goes back, people are called"
    fields(
        (
            ("because", "\n".join(one["why"])),
            ("of", one["of"]),
            ("not of", f"{one['excluded']}, who announced the change" if one["excluded"] else ""),
            ("said yes", ", ".join(one["approvals"])),
            ("missing", one["missing"]),
            ("until", f"{moment(one['expires'])}, then {without}"),
            ("answer", f"rollbackd approve {incident}\nrollbackd deny {incident} --reason WHY"),
        )
    )


def steps(found: Sequence[View], *, planned: bool = False) -> None:
    """A line a step; a plan's steps have no status yet, but a time that they took before."""
    rows = [
        [one["layer"], one["before"], one["after"], length(one["expected"]) if planned else one["status"], _risks(one)]
        for one in found
    ]
    section(["STEP", "FROM", "TO", "TOOK BEFORE" if planned else "STATUS", "RISKS"], rows)


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
            ("change", one["change"]),
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
            for line in _output(record):
                print(f"  {'':{self._width + 9}}    | {line}".rstrip(), flush=True)


def _output(record: View) -> list[str]:
    """The last lines of what a step's program said when it failed; `--json` has all that is kept."""
    said = str(record["fact"].get("evidence") or "") if record["kind"] in _FAILED else ""
    return safe_lines(said)[-_OUTPUT:] if said else []
