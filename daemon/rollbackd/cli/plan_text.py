"""How a plan looks to people. Values are the API's JSON."""

from rollbackd.cli.incident_text import releases, steps
from rollbackd.cli.terminal_text import View, fields, length, safe, section


def show(one: View, *, how: bool = True) -> None:
    """What a rollback would be; with `how` each guard and the command that runs it, too."""
    print(f"{safe(one['service'])}: plan {safe(one['plan'])}")
    fields(
        (
            ("runs", releases(one["present"])),
            ("target", releases(one["target"]) or "none"),
            ("within", ", ".join(one["brackets"])),
            ("takes", _takes(one)),
            ("problems", "\n".join(one["problems"])),
            ("by itself", one["action"] if how else _by_itself(one)),
        )
    )
    steps(one["steps"], planned=True)
    if how:
        findings = ((each["guard"], each["against"] or "passed", each["reason"]) for each in one["findings"])
        section(("GUARD", "SAYS", "WHY"), findings)
        if one["id"]:
            print(f"\nas shown, or not at all: rollbackd rollback {safe(one['service'])} --plan-id {safe(one['id'])}")


def _takes(one: View) -> str:
    if not one["steps"]:
        return ""
    verified = length(one["verification"]) or "some time"
    if one["expected"] is None:
        return f"unknown, a step was never run; then at least {verified} of verification"
    return f"about {length(one['expected'])}, of that at least {verified} of verification"


def _by_itself(one: View) -> str:
    """What a trigger would lead to now: the word, and each finding against it."""
    against = [f"{finding['guard']}: {finding['reason']}" for finding in one["findings"] if finding["against"]]
    return "\n".join([one["action"], *against])
