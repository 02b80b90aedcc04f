"""Secrets that are named in a roundabout way, go on over several lines, or are a file of their own."""

import time

import pytest

from rollbackd.system.redaction import MASK, Redactor
from rollbackd_adapters.files.masking import Masks
from rollbackd_adapters.files.settings import FilesSettings
from rollbackd_adapters.files.showing import differences
from rollbackd_adapters.files.tree import Tree, TreeEntry

MASKS = Masks(FilesSettings(adapter="files", paths=("/c",)).secret, Redactor())


def shown(text: str) -> str:
    return "\n".join(line for _, line in MASKS.lines(text))


@pytest.mark.parametrize(
    "text",
    [
        'PRIV_KEY="-----BEGIN\nhunter2\n-----END"',
        "API_KEY='one\nhunter2'",
        'db_password = """\nhunter2\n"""',
        "API_KEY=one\\\nhunter2\\\nhunter2",
        'proxy_set_header X-Api-Key "hunter2";',
        'proxy_set_header Authorization "Basic hunter2";',
        "fastcgi_param DB_PASSWORD hunter2;",
        "SetEnv API_KEY hunter2",
        "machine db login me password hunter2",
        "env[API_KEY] = hunter2",
        "define('DB_PASSWORD', 'hunter2');",
        "'password' => 'hunter2',",
        '<add key="ApiKey" value="hunter2"/>',
        '<property name="password" value="hunter2"/>',
        '{"name": "DB_PASSWORD", "value": "hunter2"}',
        '{\n  "name": "DB_PASSWORD",\n  "value": "hunter2"\n}',
        "- name: DB_PASSWORD\n  value: hunter2",
        '"keys": ["a",\n  "hunter2"\n]',
        "set $api_key hunter2;",
    ],
)
def test_a_secret_is_masked_however_it_is_named(text: str) -> None:
    assert "hunter2" not in shown(text)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ('API_KEY="one\ntwo"', "PORT=1"),
        ("API_KEY=one\\\ntwo", "PORT=1"),
        ('t.token = """\none\n"""', "port = 1"),
        ("- name: DB_PASSWORD\n  value: x", "- name: PORT"),
        ('"keys": ["a",\n  "b"\n]', '"port": 1'),
        ("-----BEGIN PRIVATE KEY-----\none\n-----END PRIVATE KEY-----", "PORT=1"),
    ],
)
def test_what_comes_after_a_secret_is_shown(text: str, after: str) -> None:
    assert shown(f"{text}\n{after}").endswith(f"\n{after}")


@pytest.mark.parametrize(
    "text", ["include /etc/keys/a.conf;", "run --as me $TOKEN --port 80", "ports: [80, 81]", "name: PORT\nvalue: 1"]
)
def test_paths_and_what_is_only_referred_to_are_shown(text: str) -> None:
    assert shown(text) == text


def difference(path: str, before: bytes, after: bytes) -> tuple[str, ...]:
    older, newer = (Tree({path: TreeEntry("file", 0o644, 0, 0, 1, len(data), data.hex())}) for data in (before, after))
    (found,) = differences(older, newer, lambda _: before, lambda _: after, MASKS)
    return found.lines


def test_a_file_that_is_a_secret_itself_is_told_by_its_size() -> None:
    (line,) = difference("/run/secrets/db_password", b"hunter2", b"hunter23")
    assert line == "7 bytes became 8 bytes; not shown, since its name is a secret's"


def test_long_files_without_a_line_in_common_are_told_soon() -> None:
    began = time.monotonic()
    (line,) = difference("/c/list", b"a\nb\n" * 4_000, b"b\na\n" * 4_000 + b"c\n")
    assert line == "8000 lines became 8001 other lines"
    assert time.monotonic() - began < 10


def test_a_change_in_a_long_file_is_shown_by_its_lines() -> None:
    rest = b"a\n" * 3_000
    assert difference("/c/list", rest + b"old\n" + rest, rest + b"new\n" + rest) == ("- old", "+ new")


def test_only_a_masked_line_is_said_to_have_changed() -> None:
    assert difference("/c/app", b"A_KEY=1\nx\n", b"A_KEY=2\nx\n") == (f"A_KEY={MASK} changed",)


def test_names_that_are_no_utf8_are_written_out() -> None:
    here, gone = TreeEntry("file", 0o644, 0, 0, 1, 1, "a"), TreeEntry("link", 0o777, 0, 0, 1, 0, "to\udcfe")
    older = Tree({"/c/caf\udce9": gone}, {"/c/e\udcff": {"A": "1\udcff"}})
    found = differences(older, Tree({"/c/new\udcff": here}), lambda _: b"", lambda _: b"", MASKS)
    assert [(one.path, one.lines) for one in found] == [
        ("/c/caf\\xe9", ("a link to to\\xfe",)),
        ("/c/new\\xff", ("a file of 1 bytes, mode 0644",)),
        ("/c/e\\xff A", ("- A=1?",)),
    ]
