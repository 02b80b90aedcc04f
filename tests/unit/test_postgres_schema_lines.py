"""The lines of two schemas that PostgreSQL printed: what one has and the other has not."""

from pathlib import Path

import pytest

from rollbackd_adapters.postgres.restoring import schema_differences

ONE = """--
-- PostgreSQL database dump
--
\\restrict abc
CREATE TABLE public.orders (
    id integer NOT NULL,
    CONSTRAINT c CHECK (((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))
);
"""
AGAIN = ONE.replace(
    "((ARRAY['a'::character varying, 'b'::character varying])::text[])",
    "(ARRAY[('a'::character varying)::text, ('b'::character varying)::text])",
)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (ONE.replace("abc", "def"), ""),
        (AGAIN, ""),
        ("\n".join(reversed(ONE.splitlines())), ""),
        (ONE.replace("    id integer NOT NULL,\n", ""), "- id integer NOT NULL,"),
        (ONE + "    id integer NOT NULL,\n", "+ id integer NOT NULL,"),
        (ONE.replace("public.orders", "public.sales"), "- CREATE TABLE public.orders; + CREATE TABLE public.sales"),
        (ONE + "CREATE USER MAPPING FOR app SERVER s OPTIONS (password 'x');\n", "a line with a password"),
    ],
)
def test_what_one_alone_has_is_told_and_how_casts_are_printed_is_not(tmp_path: Path, other: str, said: str) -> None:
    (tmp_path / "first").write_text(ONE)
    (tmp_path / "second").write_text(other)
    assert schema_differences(tmp_path / "first", tmp_path / "second") == said
