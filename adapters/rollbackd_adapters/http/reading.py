"""Releases as a service tells them. No I/O."""

from datetime import datetime

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.syntax import json_path
from rollbackd.system.spawner import one_line
from rollbackd_adapters.http.settings import Reading
from rollbackd_adapters.ids import check_id
from rollbackd_adapters.listed import time_told
from rollbackd_adapters.web import HttpReply


def release_of(item: object, reading: Reading, answer: HttpReply, *, dated: bool = True) -> Release:
    """A release from JSON: a text or a number, or an object with `fields`.

    :param dated: refuse a time that is none; else the release has no time then.
    :raises AdapterError: not permanent, when it is none.
    """
    if not isinstance(item, dict):
        return _checked(item, "", None, answer)
    fields = reading.fields
    try:
        found = json_path.at(item, fields.id)
    except ValueError as error:
        text = f"{answer.where}: a release has no id: {error}; correct `fields`"
        raise AdapterError(text, permanent=False) from None
    label = _there(item, fields.label)
    created = _time(_there(item, fields.created), answer, dated=dated)
    return _checked(found, "" if label is None else one_line(str(label)), created, answer)


def _checked(found: object, label: str, created: datetime | None, answer: HttpReply) -> Release:
    where = answer.where
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise AdapterError(f"{where}: {answer.quoted(str(found))} is no release's id; correct `json`", permanent=False)
    release = Release(str(found).strip(), label, created)
    try:
        return check_id(release)
    except AdapterError as error:
        raise AdapterError(f"{where}: {answer.clean(str(error))}", permanent=False) from None


def _there(item: object, path: str) -> object:
    """The value at a path, or None: it need not be there."""
    try:
        return json_path.at(item, path)
    except ValueError:
        return None


def _time(value: object, answer: HttpReply, *, dated: bool) -> datetime | None:
    if value is None:
        return None
    try:
        return time_told(value)
    except ValueError:
        if not dated:
            return None
        text = f"{answer.where}: {answer.quoted(str(value))} is not a time; correct `fields`"
        raise AdapterError(text, permanent=False) from None
