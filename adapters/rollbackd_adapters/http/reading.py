"""Releases as a service tells them. No I/O."""

from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rollbackd import jsonpath
from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.process import one_line
from rollbackd.units import show
from rollbackd_adapters.http.settings import Reading
from rollbackd_adapters.ids import check_id

_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)


def release_of(item: Any, reading: Reading, where: str) -> Release:
    """A release from JSON: a text or a number, or an object with `fields`.

    :raises AdapterError: not permanent, when it is none.
    """
    if not isinstance(item, dict):
        return _checked(item, "", None, where)
    fields = reading.fields
    try:
        found = jsonpath.at(item, fields.id)
    except ValueError as error:
        raise AdapterError(f"{where}: a release has no id: {error}; correct `fields`", permanent=False) from None
    label = _there(item, fields.label)
    return _checked(found, "" if label is None else one_line(str(label)), _there(item, fields.created), where)


def _checked(found: Any, label: str, created: Any, where: str) -> Release:
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise AdapterError(f"{where}: {show(one_line(str(found)))} is no release's id; correct `json`", permanent=False)
    release = Release(str(found).strip(), label, _time(created, where))
    try:
        check_id(release)
    except AdapterError as error:
        raise AdapterError(f"{where}: {error}", permanent=False) from None
    return release


def _there(item: Any, path: str) -> Any:
    """What need not be there."""
    try:
        return jsonpath.at(item, path)
    except ValueError:
        return None


def _time(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        found = _TIME.validate_python(value)
    except ValidationError:
        raise AdapterError(
            f"{where}: {show(one_line(str(value)))} is not a time; correct `fields`", permanent=False
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
