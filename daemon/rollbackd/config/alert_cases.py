"""A file of alerts with what is expected of each, which CI tries against a configuration."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from rollbackd.config import files
from rollbackd.config.explain import faults_of
from rollbackd.config.load import ConfigErrors
from rollbackd.model import Action, Priority
from rollbackd.rules.matchers import parse_matchers
from rollbackd.syntax.units import Instant, OneOrMany, Spec

_Names = Annotated[tuple[str, ...], OneOrMany()]


def labels_of(text: str) -> dict[str, str]:
    """The labels of an alert that is written as `alertname=HighErrorRate,service=checkout`.

    :raises ValueError: it is not written so.
    """
    found = {}
    for matcher in parse_matchers(text):
        if matcher.operator != "=":
            raise ValueError(f"{matcher}: an alert has values, not comparisons; write {matcher.name}=VALUE")
        if matcher.name in found:
            raise ValueError(f"the label {matcher.name} stands here twice; write it once")
        found[matcher.name] = matcher.value
    return found


class Expected(Spec):
    """What must come of an alert; what is not named may be anything."""

    service: str | None = None
    """Whose it is; empty: nobody's."""
    rules: _Names | None = None
    """The rules that it meets, these and no others; an empty list: none."""
    action: Action | None = None
    """What every one of its triggers leads to: `roll_back`, `ask`, `observe` or `refuse`."""
    priority: Priority | None = None
    """Of every one of its triggers."""
    plan: _Names | None = None
    """The plans that would be tried, in order."""
    against: _Names | None = None
    """The guards that stand against it, these and no others, of all its triggers."""
    hears: _Names | None = None
    """Receivers that hear of it, among others."""
    silent: _Names | None = None
    """Receivers that hear nothing of it."""


class AlertCase(Spec):
    """One alert, and what is expected of it."""

    name: str = Field(min_length=1)
    alert: dict[str, str] = Field(min_length=1)
    """Its labels, or a text as `rollbackd test-alert` takes it."""
    at: Instant | None = None
    """When it begins and reaches us; without it now."""
    expect: Expected

    @field_validator("alert", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        return labels_of(value) if isinstance(value, str) else value

    def differences(self, found: Mapping[str, object]) -> list[str]:
        """What is not as expected, a sentence each; `found` is the API's answer to the alert."""
        return [f"{key}: {_shown(got)}, expected {_shown(want)}" for key, want, got in self._compared(found)]

    def _compared(self, found: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        decisions = [one["decision"] for one in found["triggers"]]
        stands = {each["guard"] for one in decisions for each in one["findings"] if each["against"]}
        hears = {each["receiver"] for one in found["triggers"] for each in one["heard"]}
        got = {
            "service": found["service"],
            "rules": {one["rule"] for one in decisions},
            "action": {one["action"] for one in decisions},
            "priority": {one["priority"] for one in decisions},
            "plan": {one["plan"] for one in found["triggers"]},
            "against": stands,
        }
        want = self.expect
        wanted: dict[str, Any] = {
            "service": want.service,
            "rules": _set(want.rules),
            "action": {want.action.value} if want.action is not None else None,
            "priority": {want.priority.value} if want.priority is not None else None,
            "plan": {", then ".join(want.plan)} if want.plan is not None else None,
            "against": _set(want.against),
        }
        yield from ((key, wanted[key], got[key]) for key in got if wanted[key] is not None and wanted[key] != got[key])
        if not hears.issuperset(want.hears or ()):
            yield "hears", set(want.hears or ()), hears
        if loud := hears.intersection(want.silent or ()):
            yield "silent", set(want.silent or ()) - loud, set(want.silent or ())


def _set(names: tuple[str, ...] | None) -> set[str] | None:
    return set(names) if names is not None else None


def _shown(value: object) -> str:
    return (", ".join(sorted(value)) if isinstance(value, set) else str(value)) or "none"


class AlertCases(Spec):
    """The file."""

    cases: tuple[AlertCase, ...] = Field(min_length=1)


def read(path: Path) -> tuple[AlertCase, ...]:
    """The cases of a file. :raises ConfigErrors: with every fault, each at its line."""
    document = files.read(path).document
    if document.root is None or document.faults:
        raise ConfigErrors(document.faults)
    try:
        return AlertCases.model_validate(document.data).cases
    except ValidationError as error:
        raise ConfigErrors(list(faults_of(error, AlertCases, document))) from error
