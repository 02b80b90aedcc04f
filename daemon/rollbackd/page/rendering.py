"""Templates become HTML: whole for a request, block by block for a stream. Everything that is not ours is text."""

import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rollbackd.notify.messages import plain_text
from rollbackd.syntax.units import roughly
from rollbackd.views import condition_labels, markup

if TYPE_CHECKING:
    from markupsafe import Markup

FORM = f"@form-{secrets.token_hex(16)}@"
"""Stands for the session's word in what is rendered: the parts of a page know of no session. Nobody can write it."""


def _shown(value: object) -> object:
    """Text without what reorders or hides it, and no longer than anybody reads."""
    return plain_text.paragraph(value) if type(value) is str else value


def _drawn(value: markup.Markup) -> "Markup":
    """What our own module made of elements, with every text in it escaped."""
    from markupsafe import Markup

    return Markup(value)  # noqa: S704


@cache
def page_templates() -> "PageTemplates":
    """All of them. Made when a page is first asked for, with what they need: it takes a fifth of a start, and 5 MiB."""
    return PageTemplates()


class PageTemplates:
    """One environment."""

    def __init__(self) -> None:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
            auto_reload=False,
        )
        self._environment.filters |= {
            "moment": condition_labels.moment,
            "hour": condition_labels.hour,
            "releases": condition_labels.releases,
            "roughly": roughly,
            "drawn": _drawn,
            "of_incident": condition_labels.of_incident,
            "of_decision": condition_labels.of_decision,
            "of_verdict": condition_labels.of_verdict,
            "of_step": condition_labels.of_step,
            "step_note": condition_labels.step_note,
            "checks_note": condition_labels.checks_note,
        }
        self._environment.globals["form_word"] = FORM
        self._environment.globals["parts"] = self._environment.get_template("parts.html").module

    def whole(self, name: str, context: Mapping[str, object], form: str) -> str:
        """A page, for the session whose word this is."""
        return self._environment.get_template(f"{name}.html").render(context).replace(FORM, form)

    def is_live(self, name: str) -> bool:
        """Whether parts of a page are kept up to date."""
        return any(block.startswith("live_") for block in self._environment.get_template(f"{name}.html").blocks)

    def live(self, name: str, context: Mapping[str, object]) -> dict[str, str]:
        """Those parts of a page that a stream keeps up to date, by the id of their element; `FORM` still in them."""
        template = self._environment.get_template(f"{name}.html")
        made = template.new_context(dict(context))
        return {
            block.removeprefix("live_"): "".join(render(made))
            for block, render in template.blocks.items()
            if block.startswith("live_")
        }
