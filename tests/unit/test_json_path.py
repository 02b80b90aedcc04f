"""Values are found in JSON by a small language, and what is not there is told in words."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.syntax.json_path import at, parse

DOCUMENT = {
    "status": "ok",
    "a": {"b": [{"c": 7}, {"c": None}], "x-y_z": True},
    "labels": {"app.kubernetes.io/name": "shop", 'say "hi"': 1, "": 2},
    "nested": [[1, 2], [3]],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", "ok"),
        ("a.b[0].c", 7),
        ("a.b[-1].c", None),
        ("a.x-y_z", True),
        ("nested[1][0]", 3),
        ('labels["app.kubernetes.io/name"]', "shop"),
        ('labels["say \\"hi\\""]', 1),
        ('labels[""]', 2),
        ('["a"].b[0]["c"]', 7),
        ("", DOCUMENT),
    ],
)
def test_a_path_leads_to_its_value(path: str, value: Any) -> None:
    assert at(DOCUMENT, path) == value


def test_a_document_may_be_a_list() -> None:
    assert at([{"id": "v1"}], "[0].id") == "v1"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", 'the document has no "missing"'),
        ("a.b[2]", '"a.b" has no [2]: it has 2 items'),
        ("a.b.c", '"a.b" is a list, not an object'),
        ("a[0]", '"a" is an object, not a list'),
        ("[0]", "the document is an object, not a list"),
        ("status.x", '"status" is a text, not an object'),
        ("a.b[0].c.d", '"a.b[0].c" is a number, not an object'),
        ("a.b[1].c.d", '"a.b[1].c" is null, not an object'),
        ("a.x-y_z.d", '"a.x-y_z" is true or false, not an object'),
    ],
)
def test_what_is_not_there_is_told_with_where_it_ends(path: str, words: str) -> None:
    with pytest.raises(ValueError) as missed:
        at(DOCUMENT, path)
    assert str(missed.value) == words


@pytest.mark.parametrize(
    "path", [".a", "a.", "a..b", "a[", "a[]", "a[x]", "a[0]b", "a b", "a]", "[*]", '["a]', "a[1.5]", '["\\x"]', "$.[0"]
)
def test_what_is_no_path_is_refused_when_it_is_read(path: str) -> None:
    with pytest.raises(ValueError, match="is not a path in JSON"):
        parse(path)


@given(st.text(max_size=30))
def test_any_text_is_a_path_or_a_value_error(path: str) -> None:
    with suppress(ValueError):
        at(DOCUMENT, path)
