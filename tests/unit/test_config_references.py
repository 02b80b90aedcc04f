"""References: found at every field that declares one, and each kind of them is looked up somewhere."""

from typing import Annotated, get_args

from pydantic import BaseModel

from rollbackd.config.models import Config
from rollbackd.config.outline import Outline, outline_of
from rollbackd.config.positions import Document
from rollbackd.config.references import everywhere, references
from rollbackd.config.shape import shape_of
from rollbackd.plugins import installed
from rollbackd.syntax.units import OneOrMany, Ref, Spec
from tests.unit.stand_ins import STAND_INS

SETTINGS = [adapter.settings_model for adapter in installed().adapters.values()]


class Inner(Spec):
    check: Annotated[str, Ref("check")] = ""


class Outer(Spec):
    one: Annotated[str, Ref("service")]
    many: Annotated[tuple[str, ...], OneOrMany(), Ref("plan")] = ("default",)
    keys: dict[Annotated[str, Ref("event")], Inner] = {}
    listed: tuple[Inner | Annotated[str, Ref("rule")], ...] = ()
    named: Annotated[str, Ref("group")] | None = None
    plain: str = ""


def found(**written: object) -> list[tuple[object, ...]]:
    return list(references(Outer, written, ("top",)))


def test_a_reference_is_found_wherever_its_type_can_stand() -> None:
    assert found(one="a", plain="b") == [(("top", "one"), "service", "a")]
    assert found(many="a") == [(("top", "many"), "plan", "a")]
    assert found(many=["a", "b"]) == [(("top", "many", 0), "plan", "a"), (("top", "many", 1), "plan", "b")]
    assert found(keys={"a": {"check": "b"}}) == [
        (("top", "keys", "a"), "event", "a"),
        (("top", "keys", "a", "check"), "check", "b"),
    ]
    assert found(listed=["a", {"check": "b"}]) == [
        (("top", "listed", 0), "rule", "a"),
        (("top", "listed", 1, "check"), "check", "b"),
    ]
    assert found(named="a") == [(("top", "named"), "group", "a")]


def test_what_is_not_written_or_as_by_default_names_nothing() -> None:
    assert found() == []
    assert found(listed=[{"check": ""}], named=None) == []


def test_what_has_another_type_names_nothing() -> None:
    assert found(one=["a"], many=5, keys=["a"], listed="a", named={"a": 1}) == []
    assert list(references(Outer, "a", ())) == []


def kinds(annotation: object, seen: set[object]) -> set[str]:
    """All kinds of references in a type."""
    here = {annotation.kind} if isinstance(annotation, Ref) else set()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        here |= {kind for field in annotation.model_fields.values() for kind in kinds(field.rebuild_annotation(), seen)}
    return here.union(*(kinds(part, seen) for part in get_args(annotation)))


def test_every_kind_of_reference_is_looked_up() -> None:
    document = Document("services: []", "config.yaml")
    outline: Outline = outline_of(document, shape_of(STAND_INS), [])
    declared = kinds(Config, set()) | {kind for model in SETTINGS for kind in kinds(model, set())}
    assert len(declared) > 6
    assert declared == everywhere(outline).keys() | {"plan", "check"}
