"""What people can answer by a click, as it stands right after a fact; the commands say the same. No I/O."""

from rollbackd.adapter import AnswerButton
from rollbackd.incident.life import Incident
from rollbackd.incident.outcomes import BAD_ENDS


def of_incident(about: Incident) -> tuple[AnswerButton, ...]:
    """The answers that an incident can take now, what it waits for first."""
    runs = about.outcome is None and not about.aborted and not about.denied
    made = []
    if runs and about.waits:
        meaning = "The world is looked at once more, then it goes back."
        made.append(AnswerButton("approve", about.id, f"rollbackd approve {about.id}", meaning, about.asked))
        meaning = "Nothing goes back, and the same trouble is not asked about again."
        made.append(AnswerButton("deny", about.id, f"rollbackd deny {about.id}", meaning, about.asked))
    elif runs:
        meaning = "It stops before its next step; what is entered is left."
        made.append(AnswerButton("abort", about.id, f"rollbackd abort {about.id}", meaning))
    if not about.acknowledged and (runs or about.outcome in BAD_ENDS):
        made.append(acknowledgement(about.id))
    return tuple(made)


def acknowledgement(name: str) -> AnswerButton:
    """The word of somebody who takes care of an incident, or of what was refused for a service."""
    return AnswerButton("acknowledge", name, f"rollbackd ack {name}", "You take care of it: its reminders stop.")
