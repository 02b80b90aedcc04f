"""The example has every key that there is, loads, and fits the schema."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from rollbackd.config.files import read
from rollbackd.config.load import ConfigErrors, Loaded, dump_service, load, load_service
from rollbackd.config.schema import schema
from rollbackd.config.shape import shape_of
from rollbackd.plugins import installed
from rollbackd.syntax.units import Secret
from tests.fakes.smtp import make_certificate

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


@cache
def _written() -> Any:
    return yaml.safe_load(EXAMPLE.read_text())


@cache
def made_schema() -> dict[str, Any]:
    return schema()


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(made_schema())


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The example with the secrets that it names."""
    names = (
        "RELEASE_DESK_TOKEN",
        "SLACK_WEBHOOK_URL",
        "DESK_AUTHORIZATION",
        "DESK_SECRET",
        "TWILIO_URL",
        "GRAFANA_TOKEN",
        "PROBE_PASSWORD",
        "COPIES_KEY",
        "SLACK_TOKEN",
        "SLACK_SIGNING_SECRET",
        "SLACK_APP_TOKEN",
    )
    for name in names:
        monkeypatch.setenv(name, "hunter2")
    certificate, key = make_certificate(tmp_path)
    for name, made in (("ca.pem", certificate), ("client.pem", certificate), ("client.key", key)):
        (tmp_path / name).write_bytes(made.read_bytes())
        (tmp_path / name).chmod(0o640)
    for name in (
        "alertmanager-token",
        "pagerduty",
        "prometheus-token",
        "smtp-password",
        "redis-password",
        "db-password",
    ):
        (tmp_path / name).write_text("hunter2\n")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "templates").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(EXAMPLE.read_text().replace("/etc/rollbackd/", f"{tmp_path}/"))
    return load(path)


def test_the_example_loads_when_its_secrets_are_there(example: Loaded) -> None:
    assert [service.name for service in example.config.services] == ["checkout", "basket", "search"]
    assert {receiver.kind for receiver in example.config.notify.receivers} == set(installed().notifiers)
    assert example.notes == ()


def test_its_services_survive_the_journal(example: Loaded) -> None:
    for service in example.config.services:
        assert load_service(dump_service(service)) == service
    assert "hunter2" not in example.config.model_dump_json()


def _models(annotation: Any, above: tuple[type[BaseModel], ...] = ()) -> Iterator[type[BaseModel]]:
    """The models of a type; one that holds itself is looked into once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in above:
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models(field.annotation, (*above, annotation))
    for part in get_args(annotation):
        yield from _models(part, above)


def _owner(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The model that a field is written in, so that an inherited key has to be shown once."""
    return next(each for each in reversed(model.__mro__) if name in getattr(each, "__annotations__", {}))


def _used(value: Any) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(value, BaseModel):
        for name in value.model_fields_set & type(value).model_fields.keys():
            yield _owner(type(value), name), name
            yield from _used(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _used(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _used(each)


def test_the_example_has_every_key() -> None:
    file = shape_of(installed()).file
    written = file.model_validate(read(EXAMPLE).document.data, context={})
    every = {(_owner(model, name), name) for model in set(_models(file)) for name in model.model_fields}
    assert (Secret, "credential") in every
    assert sorted(f"{model.__name__}.{name}" for model, name in every - set(_used(written))) == []


def test_the_schema_is_valid_and_the_example_fits_it() -> None:
    made = made_schema()
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(made)
    assert [f"{error.json_path}: {error.message}" for error in validator().iter_errors(_written())] == []


def test_editors_complete_defaults_that_fit() -> None:
    """A default as `PT30M` would be put into the file and refused."""
    made = made_schema()
    wrong = [
        f"{place}: {error.message}"
        for place, part in _parts(made)
        if "default" in part
        for error in Draft202012Validator({"$defs": made["$defs"], **part}).iter_errors(part["default"])
    ]
    assert wrong == []
    assert made["$defs"]["Daemon"]["properties"]["keep"]["default"] == "30d"
    assert made["$defs"]["Daemon"]["properties"]["max_body"]["default"] == "32MiB"


def _parts(value: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping in a schema, with where it is."""
    if isinstance(value, dict):
        yield place, value
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key != "default":
            yield from _parts(each, f"{place}/{key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("polcy", []),
        ("limits", {"coldown": "5m"}),
        ("limits", {"cooldown": 5}),
        ("services", [{"name": "a"}]),
        ("rules", [{"name": "a", "when": {"qery": "up"}}]),
        ("notify", {"receivers": [{"name": "a", "slak": {}}]}),
    ],
)
def test_the_schema_sees_what_is_wrong(key: str, value: object) -> None:
    assert not validator().is_valid(_written() | {key: value})


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from _places(each, (*place, key))


JUNK: tuple[Any, ...] = (
    None,
    True,
    5,
    1.5,
    "",
    "x",
    "$x",
    [],
    [1],
    ["x"],
    [[]],
    {},
    {"x": 1},
    {"env": "X"},
    {"all": []},
)


def _spoil(data: Any, random: Random) -> None:
    """Take something away, rename it, or put something else in its place."""
    *way, last = random.choice(list(_places(data)))
    holder = reduce(getitem, way, data)
    how = random.choice(("remove", "rename", "replace", "replace"))
    if how == "remove":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{last}x"] = holder.pop(last)
    else:
        holder[last] = random.choice(JUNK)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random=st.randoms(use_true_random=False), times=st.integers(1, 4))
def test_whatever_is_wrong_is_told_line_by_line_and_never_a_traceback(
    tmp_path: Path, random: Random, times: int
) -> None:
    data = deepcopy(_written())
    for _ in range(times):
        _spoil(data, random)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(data, indent=1))
    try:
        load(path, look_for=None)
    except ConfigErrors as error:
        lines = str(error).splitlines()
    else:
        return
    assert lines
    assert [line for line in lines if not re.match(r"[^:]+:[1-9]\d*:[1-9]\d*: .+(; .+|\?)$", line)] == []


def test_keys_are_explained_where_they_are_completed() -> None:
    properties = made_schema()["$defs"]["Daemon"]["properties"]
    assert properties["scratch"]["description"].startswith("Locks, records of finished commands")
    assert all("description" in each for each in properties.values())
