"""Reports for people, and the journal's facts as lines for programs. They only look."""

import json
from typing import Annotated, Any

import typer

from rollbackd.cli.command_frame import Session, UsageError, command
from rollbackd.cli.daemon_client import PATIENCE

app = typer.Typer(
    name="report",
    help="Write down what was done: one incident, or a month.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_Html = Annotated[bool, typer.Option("--html", help="A page, instead of Markdown.")]
_PORTION = 1000


def of_incident(
    session: Session, incident: Annotated[str, typer.Argument(help="Its name: checkout-7.")], html: _Html = False
) -> None:
    """Write the report of an incident. Why, timeline with delays, steps, checks, people, after-care, review."""
    from rollbackd.views import report_text

    detail = session.client.get("incidents", incident)
    made = report_text.of_incident(detail)
    session.show(detail, lambda: print((report_text.html if html else report_text.markdown)(made), end=""))


def of_month(
    session: Session, month: Annotated[str, typer.Argument(help="Which: 2026-03, in UTC.")], html: _Html = False
) -> None:
    """Write the report of a month. How often, how well, how long it took against the targets, and why."""
    from rollbackd.views import report_text

    found = session.client.get("reports", "month", patience=PATIENCE, month=month)
    made = report_text.of_month(found)
    session.show(found, lambda: print((report_text.html if html else report_text.markdown)(made), end=""))


def events(
    session: Session,
    after: Annotated[int, typer.Option("--after", min=0, help="Only what came after this place (`seq`).")] = 0,
    service: Annotated[str, typer.Option("--service", help="Only of this service.")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a line instead.")] = False,
) -> None:
    """Print the journal's facts, oldest first, as JSON lines."""
    if schema:
        if after or service:
            raise UsageError("--schema stands alone: it is the same for every line")
        from pydantic import TypeAdapter

        from rollbackd.views.shapes import EventView

        print(json.dumps(TypeAdapter(EventView).json_schema(), indent=2))
        return
    while True:
        found: Any = session.client.get("events", patience=PATIENCE, after=after, service=service, limit=_PORTION)
        for event in found["events"]:
            print(json.dumps(event), flush=True)
        if found["last"] == after:
            return
        after = found["last"]


command(app, "incident")(of_incident)
command(app, "month")(of_month)
