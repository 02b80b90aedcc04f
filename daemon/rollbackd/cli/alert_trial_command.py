"""The command that tries an alert before one counts: one alert, or a file of them with what is expected of each."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from rollbackd.cli import incident_text
from rollbackd.cli.command_frame import NO, Session, StopError, UsageError
from rollbackd.cli.daemon_client import PATIENCE
from rollbackd.cli.terminal_text import View, fields, length, moment, safe, section


def try_alert(
    session: Session,
    alert: Annotated[
        str | None, typer.Argument(metavar="LABELS", help="The alert: 'alertname=HighErrorRate,service=checkout'.")
    ] = None,
    at: Annotated[str, typer.Option("--at", help="When it begins, such as 2026-03-02T03:00:00+01:00; else now.")] = "",
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FILE", readable=False, help="Try every alert of a file.")
    ] = None,
    through: Annotated[
        bool, typer.Option("--through", help="Also have Alertmanager bring it, marked as a test, and wait for it.")
    ] = False,
    wait: Annotated[str, typer.Option("--wait", help="With --through: how long, at most 10m.")] = "2m",
) -> int | None:
    """What an alert would lead to. Whose it is, rules, guards, plan, and who would hear. Writes nothing.

    Exit code 1 when nothing would come of it, or a case of the file came out differently.
    """
    if (alert is None) == (cases is None):
        raise UsageError("give one alert, 'alertname=HighErrorRate,service=checkout', or a file with --cases")
    if through and (cases is not None or at):
        raise UsageError("--through is for one alert, now; leave out --cases and --at")
    if cases is not None:
        return _try_all(session, cases)
    found = _tried(session, _labels(alert or ""), _time(at) if at else None)
    if through:
        patience = _seconds(wait) + 30
        body = {"labels": found["labels"], "wait": wait}
        found["passage"] = session.client.send("POST", "test-alert", "through", body=body, patience=patience)
    session.show(found, lambda: show(found))
    return NO if found["why"] or (through and not found["passage"]["came"]) else None


def _tried(session: Session, labels: dict[str, str], at: str | None) -> Any:
    body = {"labels": labels, **({"at": at} if at else {})}
    return session.client.send("POST", "test-alert", body=body, patience=PATIENCE)


def _labels(text: str) -> dict[str, str]:
    from rollbackd.config.alert_cases import labels_of

    try:
        return labels_of(text)
    except ValueError as error:
        raise UsageError(f"{error}; an alert is 'alertname=HighErrorRate,service=checkout'") from error


def _seconds(text: str) -> float:
    from rollbackd.syntax.units import parse_duration

    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise UsageError(str(error)) from error


def _time(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f'"{text}" is not a time; write it like 2026-03-02T03:00:00+01:00') from error
    if at.tzinfo is None:
        raise UsageError(f'"{text}" says no offset; write it like {text}+01:00, or {text}Z')
    return at.isoformat()


def show(one: View) -> None:
    """An alert that was tried, from its service to who would hear."""
    labels = ", ".join(f"{name}={value}" for name, value in one["labels"].items())
    print(f"{safe(labels)}: {safe(one['service']) or 'of no service'}")
    fields((("begins", moment(one["at"])), ("nothing", one["why"])))
    section(("RULE", "ASKS", "WHY"), ((each["rule"], _yes(each["asks"]), each["reason"]) for each in one["rules"]))
    for each in one["triggers"]:
        print()
        incident_text.decision(each["decision"])
        fields(
            (
                ("plan", each["plan"]),
                ("within", ", ".join(each["brackets"])),
                ("takes", f"about {length(each['expected'])}, as in the past" if each["expected"] else ""),
                ("problems", "\n".join(each["problems"])),
            )
        )
        incident_text.steps(each["steps"], planned=True)
        section(("HEARS", "EVENT", "WHAT"), ((a["receiver"], a["event"], a["text"]) for a in each["heard"]))
        if not each["heard"]:
            print("\nnobody hears of it")
    print("\nnothing was written, done or told")
    if "passage" in one:
        fields((("through Alertmanager", one["passage"]["text"]),))


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _try_all(session: Session, path: Path) -> int | None:
    from rollbackd.config.alert_cases import read
    from rollbackd.config.load import ConfigErrors

    try:
        cases = read(path)
    except ConfigErrors as error:
        raise StopError(str(error)) from error
    results = []
    for case in cases:
        found = _tried(session, dict(case.alert), case.at.isoformat() if case.at else None)
        results.append({"case": case.name, "differs": case.differences(found), "found": found})
    failed = [one for one in results if one["differs"]]

    def people() -> None:
        rows = ((one["case"], _verdict(one), "; ".join(one["differs"])) for one in results)
        section(("CASE", "RESULT", "WHY"), rows)
        print(f"\n{len(results) - len(failed)} of {len(results)} cases are as expected")

    session.show({"cases": results}, people)
    return NO if failed else None


def _verdict(one: View) -> str:
    return "differs" if one["differs"] else "as expected"
