"""The file's shape as it is written: the models, with unions of what is installed. No I/O.

Tags of unions stand in angle brackets: a tag that could be a key of the file would lead its errors to the wrong place.
"""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    Tag,
    TypeAdapter,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rollbackd.adapter import NotifierSettings, Settings
from rollbackd.config.models import Config, Name, Notify, Receiver, Service
from rollbackd.config.positions import mapping
from rollbackd.incident.spec import PlanSpec, PlanVerifySpec, VerifySpec
from rollbackd.notification_events import Audience
from rollbackd.plugins import Plugins
from rollbackd.rules.spec import NAME as RULE_NAME
from rollbackd.rules.spec import Rule
from rollbackd.syntax.units import OneOrMany, Spec

# The types below are made while the program runs, which a static checker cannot follow.
_TUPLE: Any = tuple
_DICT: Any = dict
_AS_ANY: Any = SerializeAsAny
"""Serialized with all the fields of what is there, not only those of its base."""


class PackUse(Spec):
    """A shipped pack of rules; the other keys are the pack's settings."""

    model_config = ConfigDict(extra="allow")

    pack: str
    """The pack's name."""
    as_: Annotated[str, Field(pattern=RULE_NAME)] | None = Field(default=None, alias="as")
    """Put before its rules' names, with a dash: the same pack twice."""
    services: Annotated[tuple[str, ...], OneOrMany()] = ()
    """Only for these; a service without a pack's metrics is never conclusive, and so never good."""
    only: Annotated[tuple[str, ...], OneOrMany()] = ()
    """Only these of its rules, by their names in the pack."""


Scalar = bool | int | float | str


def _setting_name(name: str) -> str:
    if not name or not all("a" <= letter <= "z" or letter == "_" for letter in name):
        raise ValueError("a setting's name has only the letters a to z and _; rename it")
    return name


class RuleFile(Spec):
    """A file of rules, shipped or of one's own."""

    settings: dict[Annotated[str, AfterValidator(_setting_name)], Any] = {}
    """Knobs: `$name` in any text below stands for the value."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    """The rules."""


def _entry_kind(value: object) -> str:
    if isinstance(value, str):
        return "<files>"
    return "<pack>" if isinstance(value, PackUse) or (isinstance(value, dict) and "pack" in value) else "<rule>"


RuleEntry = Annotated[
    Annotated[PackUse, Tag("<pack>")] | Annotated[str, Tag("<files>")] | Annotated[Rule, Tag("<rule>")],
    Discriminator(_entry_kind),
]
"""`{pack: NAME}`, a glob of rule files relative to this file, or a rule in place."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Models for one set of plugins."""

    plugins: Plugins
    file: type[Config]
    """`Config` as the file writes it: rules as entries, receivers by their kind's key."""
    service: type[Service]
    plan: type[PlanSpec]
    layer: TypeAdapter[Settings]


@lru_cache(maxsize=32)
def shape_of(plugins: Plugins) -> Shape:
    """The models for these plugins; they are made once."""
    layer = layer_union(plugins)
    check, ref = _checks(plugins)
    checks = {"gate": _TUPLE[ref, ...], "checks": _TUPLE[ref, ...]}
    verify = _again(VerifySpec, **checks)
    plan = _again(PlanSpec, verify=_again(PlanVerifySpec, **checks) | None)
    service = _again(
        Service,
        layers=_DICT[Name, layer],
        checks=_DICT[Name, check],
        plans=_DICT[Name, plan],
        verify=verify,
        evidence=_TUPLE[ref, ...],
    )
    notify = _again(Notify, receivers=_TUPLE[_receivers(plugins), ...])
    file = _again(Config, rules=_TUPLE[RuleEntry, ...], notify=notify, services=_TUPLE[service, ...])
    return Shape(plugins, file, service, plan, TypeAdapter(layer))


def receiver(written: Any) -> Receiver:
    """A receiver in the form that the core uses, made from the form that the file has."""
    kind = next(name for name in type(written).model_fields if name not in {"name", *_Worded.model_fields})
    common = {name: getattr(written, name) for name in _Worded.model_fields}
    return Receiver(name=written.name, kind=kind, settings=getattr(written, kind), **common)


def kind_among(value: object, models: Mapping[str, type[Any]]) -> str | None:
    """The kind whose key a mapping has; of several, the kind whose settings have the other keys as fields."""
    if not isinstance(value, Mapping):
        return None
    present: list[str] = [key for key in value if key in models]
    for kind in present:
        if all(other in models[kind].model_fields for other in present):
            return kind
    return present[0] if present else None


def _again(model: type[Any], **annotations: Any) -> Any:
    """The model with other types for some fields; defaults, limits and descriptions stay."""
    fields = {name: (annotation, copy(model.model_fields[name])) for name, annotation in annotations.items()}
    made: Any = create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)  # type: ignore[call-overload]
    return made


class _Nothing(Spec):
    """Fills a union up to the two members that it needs."""


class _Says:
    """A note for the JSON Schema: this member of the union has that key with that value."""

    def __init__(self, key: str, value: str) -> None:
        self._extra = {"properties": {key: {"const": value}}, "required": [key]}

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"allOf": [handler(schema), self._extra]}


def _union(
    word: str, members: Mapping[str, Any], tag_of: Callable[[Any], str | None], others: Collection[str] = ()
) -> Any:
    parts = [Annotated[member, Tag(f"<{name}>")] for name, member in members.items()]
    parts += [Annotated[_Nothing, Tag(f"<nothing {n}>")] for n in range(2 - len(parts))]
    kinds = ", ".join(sorted({*members, *others} - {"name"}))
    told = Discriminator(
        tag_of,
        custom_error_type="unknown_kind",
        custom_error_message=f"no kind of {word} here; write one of {kinds}",
        custom_error_context={"word": word, "kinds": kinds},
    )
    return Annotated[reduce(or_, parts), told]


def layer_union(plugins: Plugins) -> Any:
    """The type of a layer's settings: a union over the adapters, of which `adapter` names one."""

    def tag(value: object) -> str | None:
        name = value.adapter if isinstance(value, Settings) else mapping(value).get("adapter")
        return f"<{name}>" if isinstance(name, str) and name in plugins.adapters else None

    members = {
        name: Annotated[_AS_ANY[adapter.settings_model], _Says("adapter", name)]
        for name, adapter in plugins.adapters.items()
    }
    return _union("layer", members, tag, plugins.others)


def _tag_among(models: Mapping[str, type[Any]]) -> Callable[[object], str | None]:
    def tag(value: object) -> str | None:
        kind = kind_among(value, models) or next((name for name in models if isinstance(value, models[name])), None)
        return None if kind is None else f"<{kind}>"

    return tag


def _checks(plugins: Plugins) -> tuple[Any, Any]:
    """The types of a check that is written in place, and of one that may also be named."""
    models = {name: check.settings_model for name, check in plugins.checks.items()}
    members = {name: _AS_ANY[model] for name, model in models.items()}
    tag = _tag_among(models)
    named = {"name": str} | members
    or_name = _union("check", named, lambda value: "<name>" if isinstance(value, str) else tag(value))
    return _union("check", members, tag), or_name


class _Worded(Spec):
    """What every receiver may have, whatever its kind."""

    says: dict[str, str] = {}
    """Words of its own, by event: it hears nothing but these events, and nothing but these words. For users, a status
    page."""
    audience: Audience = "team"
    """Who reads it. `users` hear that there is trouble, that it goes on and that it is over, and nothing of how."""


def _receivers(plugins: Plugins) -> Any:
    models: dict[str, Any] = {}
    for kind, notifier in plugins.notifiers.items():
        settings: type[NotifierSettings] = notifier.settings_model
        models[kind] = create_model(
            f"{kind.title()}Receiver",
            __base__=_Worded,
            __doc__=f"Somebody who is told by {kind}.",
            name=(Name, Field(description="What routes call it.")),
            **{kind: (_AS_ANY[settings], Field(description=(settings.__doc__ or "").strip()))},
        )  # type: ignore[call-overload]

    return _union("receiver", models, _tag_among(models))
