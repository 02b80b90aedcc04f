"""An incident while it goes on, as the page shows it: a sentence, and its plan as a tree with how far each step is.

It is of the same views, in the same words, as `page/templates/incident.html`.
"""

from collections.abc import Iterator
from datetime import datetime

from pydantic import TypeAdapter
from rich.text import Text
from rich.tree import Tree

from rollbackd.cli.terminal_text import View, safe
from rollbackd.views import condition_labels
from rollbackd.views.condition_labels import ConditionLabel
from rollbackd.views.shapes import DecisionView, IncidentView

_COLOURS = {"bad": "red", "asks": "yellow", "acts": "cyan", "doubt": "magenta", "good": "green", "quiet": "dim"}
_INCIDENT = TypeAdapter(IncidentView)
_DECISION = TypeAdapter(DecisionView | None)


def tree(detail: View, now: datetime) -> Tree:
    """What the API says of an incident, for a terminal."""
    one = _INCIDENT.validate_python(detail["incident"])
    decision = _DECISION.validate_python(detail["decision"])
    shown = Tree(Text.assemble(f"{safe(one.id)} ", _sign(condition_labels.of_incident(one))))
    shown.add(Text(safe(condition_labels.headline(one, decision, now))))
    plan = shown.add(Text(f"plan {safe(one.plan)}"))
    for line in _parts(one, now):
        plan.add(line)
    return shown


def _parts(one: IncidentView, now: datetime) -> Iterator[Text]:
    """What is entered, each step, and the checks after them."""
    for layer in one.entered:
        yield Text(f"{safe(layer)} entered")
    for step in one.steps:
        way = f" {step.before} -> {step.after}" if step.after != "-" else ""
        note = condition_labels.step_note(step, now)
        yield Text.assemble(
            f"{safe(step.layer)} ", _sign(condition_labels.of_step(step.status)), f"{safe(way)} ", (safe(note), "dim")
        )
    if one.verification is not None:
        yield Text(f"checks: {condition_labels.checks_note(one.verification, now)}")


def _sign(label: ConditionLabel) -> tuple[str, str]:
    return safe(f"{label.sign} {label.word}"), _COLOURS[label.kind]
