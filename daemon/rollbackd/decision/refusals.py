"""The three kinds of no to what a person asks or orders."""

from rollbackd.views.shapes import FindingView


class UnknownName(Exception):  # noqa: N818  # an answer
    """There is no such thing; the sentence says what there is."""


class InvalidOrder(Exception):  # noqa: N818  # an answer
    """An argument makes no sense; the sentence says what to write instead."""


class OrderRefused(Exception):  # noqa: N818  # an answer
    """Understood, and not done now."""

    def __init__(self, text: str, findings: tuple[FindingView, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings
