"""Whether what answers is the release that its layer has: a step can be done while an old process goes on serving.

An answer that does not name a release says nothing, and is inconclusive: older releases may not have learned to.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.adapter import AdapterError, CheckPlace, CheckSettings
from rollbackd.checks import http_request
from rollbackd.checks.http_request import HttpAnswer, HttpRequest, NoAnswer
from rollbackd.checks.timed import timed
from rollbackd.model import CheckResult, Release, Verdict
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.json_path import JsonPath, at
from rollbackd.syntax.units import show
from rollbackd.system.redaction import one_line

_SHORTEST = 7
"""Characters of a release's id that are enough to name it: git's own habit."""


class ServesSettings(CheckSettings, ConnectionSettings):
    """What answers names the release that the layer has, by its id, at least 7 characters of it, or its label."""

    serves: Annotated[str, AfterValidator(http_request.url)]
    layer: str = Field(min_length=1)
    """Of the service; one that has releases."""
    json_: JsonPath | None = Field(default=None, alias="json")
    """Where the release is in the JSON document that is answered; `version`, `build.commit`."""
    header: str = ""
    """Or the header that has it."""
    text: bool = False
    """Or it is all of the body, but for white space around it."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.json_ is not None) + bool(self.header) + self.text != 1:
            raise ValueError(
                "nothing says where the answer names its release; give one of json: PATH, header: NAME or text: true"
            )
        return self


class ServesCheck:
    """A check that asks the service and the layer, once each."""

    settings_model: ClassVar[type[CheckSettings]] = ServesSettings

    def __init__(self, settings: ServesSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        return await timed(self._place, self._settings, self._asked())

    async def _asked(self) -> tuple[Verdict, str]:
        settings = self._settings
        try:
            answer = await HttpRequest(settings.serves, settings, settings.timeout).answered(self._place)
            served = self._named(answer)
        except NoAnswer as found:
            return found.verdict, found.reason
        said = f"serves {one_line(show(self._place.spawner.clean(served)))}"
        try:
            releases = await self._place.releases(settings.layer)
        except AdapterError as error:
            return Verdict.INCONCLUSIVE, f"{said}; what {settings.layer} has is not known: {error}"
        verdict, rest = _compared(served, releases, settings.layer)
        return verdict, f"{said}, {rest}"

    def _named(self, answer: HttpAnswer) -> str:
        """What the answer calls its release. :raises NoAnswer: nothing."""
        settings = self._settings
        if settings.header:
            found, where = answer.headers.get(settings.header, ""), f"in a header {settings.header}"
        elif settings.json_ is not None:
            found, where = _at(answer, settings.json_), f"at {show(settings.json_)}"
        else:
            found, where = answer.body.decode(errors="replace"), "in its body"
        if not found.strip():
            raise NoAnswer(Verdict.INCONCLUSIVE, f"{answer.said} and names no release {where}")
        return found.strip()


def _at(answer: HttpAnswer, path: str) -> str:
    try:
        found = at(answer.document(), path)
    except ValueError as error:
        raise NoAnswer(Verdict.INCONCLUSIVE, f"{answer.said} and names no release: {error}") from error
    if isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise NoAnswer(Verdict.INCONCLUSIVE, f"{answer.said} and names no release: {show(path)} is no text")
    return str(found)


def _compared(served: str, releases: Sequence[Release], layer: str) -> tuple[Verdict, str]:
    """The verdict on a release; the first of `releases` is the layer's own, and may come again with other names."""
    now = releases[0]
    meant = {release.id for release in releases if _fits(served, release)}
    if now.id not in meant:
        return Verdict.BAD, f"and {layer} has {one_line(now.name)}"
    if len(meant) > 1 and served != now.id:
        many = f"{len(meant)} releases of {layer} are called so"
        return Verdict.INCONCLUSIVE, f"and {many}; have it say the whole id"
    return Verdict.GOOD, f"as {layer} has"


def _fits(served: str, release: Release) -> bool:
    begins = len(served) >= _SHORTEST and any(name.startswith(served) for name in (release.id, *release.names))
    return begins or release.is_called(served)
