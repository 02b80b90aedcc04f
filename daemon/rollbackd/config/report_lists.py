"""What a host's reports have to tick and to fill in, beside what happened. No I/O."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rollbackd.config import placeholders
from rollbackd.config.positions import mapping
from rollbackd.syntax.units import OneOrMany, Spec

if TYPE_CHECKING:  # it needs the models, of which this is one
    from rollbackd.config.outline import Complaint, Outline

PLACEHOLDERS: Mapping[str, str] = {
    "service": "the service",
    "incident": "the incident's name",
    "priority": "P0 to P3",
    "outcome": "how it ended; where it stands, while it has not",
}
"""What the texts may have in them, each as `$name`."""
_Text = Annotated[str, Field(min_length=1, max_length=500)]
_AFTER_CARE: Mapping[str, tuple[str, ...]] = {
    "Immediate": ("users and the status page are told", "deployments stay frozen until the cause is known"),
    "Short term": (
        "the cause is found",
        "what the rollback lost is looked for",
        "the release is quarantined or mended",
        "regulators are told where the law asks for it",
    ),
    "Medium term": ("a test fails on this cause", "the rule that saw it is earlier, or surer"),
    "Long term": ("the review's actions are done", "a drill has shown that it works again"),
}
_REVIEW = (
    "Root cause",
    "Users affected",
    "What went well",
    "What went badly",
    "What was luck",
    "Actions, owners, dates",
)


class ReportLists(Spec):
    """What the report of an incident asks of people. `$service`, `$incident`, `$priority` and `$outcome` stand for
    values.
    """

    after_care: dict[_Text, Annotated[tuple[_Text, ...], OneOrMany()]] = dict(_AFTER_CARE)
    """Lists to tick after a rollback, by their headings; an empty one stands for none."""
    review: Annotated[tuple[_Text, ...], OneOrMany()] = _REVIEW
    """What only people know: the report leaves these blank."""


def complaints(outline: "Outline") -> Iterator["Complaint"]:
    """The values in the texts that there are not."""
    given = outline.section("reports")
    lists = {("after_care", heading): texts for heading, texts in mapping(given.get("after_care")).items()}
    for key, written in ((("review",), given.get("review")), *lists.items()):
        texts = {(place,): text for place, text in enumerate(written)} if isinstance(written, list) else {(): written}
        for place, text in texts.items():
            if isinstance(text, str):
                yield from ((("reports", *key, *place), said) for said in placeholders.wrong(text, PLACEHOLDERS))
