"""Plans and verification as the configuration writes them. No I/O."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import (
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    Tag,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rollbackd.adapter import CheckSettings
from rollbackd.syntax.units import Duration, OneOrMany, Ref, Spec

CheckRef = Annotated[str, Ref("check")] | SerializeAsAny[CheckSettings]
"""A check of the service by name, or one written in place."""


def _step_kind(value: object) -> str:
    return "<release>" if isinstance(value, dict) else "<layer>"


Step = Annotated[
    Annotated[str, Tag("<layer>")] | Annotated[dict[str, str], Tag("<release>")], Discriminator(_step_kind)
]
"""A layer's name, or `{LAYER: RELEASE}` for a release that the configuration fixes."""


class VerifySpec(Spec):
    """How it is seen that the service got well."""

    gate: tuple[CheckRef, ...] = ()
    """Must pass before brackets with `leave: gate` are left."""
    settle: Duration = timedelta(seconds=15)
    every: Duration = timedelta(seconds=30)
    passes: int = Field(default=3, ge=1, le=1000)
    """Good rounds in a row, inconclusive ones aside."""
    deadline: Duration = timedelta(minutes=10)
    """Counted from the last step; also how long the gate may take."""
    watch: Duration = timedelta(minutes=15)
    """Trouble of the same state this long after recovery makes it ineffective."""
    checks: tuple[CheckRef, ...] = Field(min_length=1)

    @field_validator("every")
    @classmethod
    def _not_constantly(cls, every: timedelta) -> timedelta:
        if every <= timedelta():
            raise ValueError("`every` is how long to wait between two rounds; write it like 30s")
        return every

    @property
    def shortest(self) -> timedelta:
        """From the last step on, when every round is good; checks that take long come on top."""
        return self.settle + self.every * (self.passes - 1)

    @model_validator(mode="after")
    def _time_enough(self) -> Self:
        if self.shortest > self.deadline:
            raise ValueError("`settle` and `passes` rounds do not fit before `deadline`; make it longer")
        return self


class PlanVerifySpec(VerifySpec):
    """How it is seen after this plan, instead of the service's."""

    skip_rules: Annotated[tuple[str, ...], OneOrMany()] = ()
    """Rules that ask what a `{LAYER: RELEASE}` step of this plan switches off: while it is off they are not asked
    again, and their trouble is only written down."""


class PlanSpec(Spec):
    """An ordered way back."""

    within: tuple[str, ...] = ()
    """Layers entered before the steps, as brackets."""
    steps: tuple[Step, ...] = Field(min_length=1)
    """In order; a layer's name, or `{LAYER: RELEASE}` for a release that the configuration fixes."""
    irreversible: tuple[str, ...] = ()
    """Layers whose step may be irreversible."""
    verify: PlanVerifySpec | None = None
    """Instead of the service's."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"steps": value} if isinstance(value, (list, tuple)) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        written = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [written["properties"]["steps"], written]}

    @field_validator("steps")
    @classmethod
    def _one_layer_each(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        for step in steps:
            if isinstance(step, dict) and len(step) != 1:
                raise ValueError("a step with a fixed release is {LAYER: RELEASE}; write one layer a step")
        return steps

    @property
    def unasked(self) -> tuple[str, ...]:
        """Rules that ask what the plan switches off."""
        return self.verify.skip_rules if self.verify is not None else ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of its steps, in order."""
        return tuple(step if isinstance(step, str) else next(iter(step)) for step in self.steps)
