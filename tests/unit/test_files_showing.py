"""No secret is shown, in whatever way a file gives it a name."""

import pytest

from rollbackd.system.redaction import MASK, Redactor
from rollbackd_adapters.files.masking import Masks
from rollbackd_adapters.files.settings import FilesSettings
from rollbackd_adapters.files.showing import LINES, TEXT_LIMIT, differences
from rollbackd_adapters.files.tree import Tree, TreeEntry

SECRETS = FilesSettings(adapter="files", paths=("/c",)).secret
MASKS = Masks(SECRETS, Redactor())


def shown(text: str) -> str:
    return "\n".join(line for _, line in MASKS.lines(text))


@pytest.mark.parametrize(
    "text",
    [
        "API_TOKEN=hunter2",
        "export DB_PASSWORD = hunter2 and hunter2 more",
        'password: "hunter2"',
        "db_pass: hunter2 # hunter2",
        '{"db": {"apiToken": "hunter2", "port": 1}}',
        '{"keys": ["hunter2", "hunter2"], "a": 1}',
        "secrets:\n  a: hunter2\n  b:\n    - hunter2",
        "tokens:\n- hunter2\n- hunter2",
        '{\n  "tokens": [\n    "hunter2",\n    {"x": "hunter2"}\n  ]\n}',
        "private_key: |\n  hunter2\n\n  hunter2",
        "my_secret: >-\n  hunter2",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\nhunter2\n-----END RSA PRIVATE KEY-----",
        "cert: |\n  -----BEGIN PRIVATE KEY-----\n  hunter2\n  -----END PRIVATE KEY-----",
        "requirepass hunter2",
        "<password>hunter2</password>",
        '<user name="x" password="hunter2"/>',
        "url=postgres://me:hunter2@db/x",
        "Authorization: Bearer hunter2hunter2",
        "SENTRY_DSN=https://hunter2@sentry.example/1",
        "[db]\npassword = 'hunter2'",
    ],
)
def test_a_secret_is_masked(text: str) -> None:
    assert "hunter2" not in shown(text)


@pytest.mark.parametrize(
    "text",
    [
        "PORT=8080",
        "hosts:\n  - a.example\n  - b.example",
        '{"debug": true, "level": "info"}',
        "# a remark",
        "listen 80;",
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_masking_ends_where_the_secret_does() -> None:
    assert shown("tokens:\n  - a\nport: 1\n") == f"tokens:\n  {MASK}\nport: 1"
    assert shown('{\n "keys": [\n  "a"\n ],\n "port": 1\n}').endswith('"port": 1\n}')


def one(data: bytes) -> Tree:
    return Tree({"/c/a": TreeEntry("file", 0o644, 0, 0, 1, len(data), data.hex())})


def lines(before: bytes, after: bytes) -> tuple[str, ...]:
    (found,) = differences(one(before), one(after), lambda _: before, lambda _: after, MASKS)
    return found.lines


def test_that_a_secret_changed_is_said_and_what_it_was_is_not() -> None:
    found = lines(b"A=1\nAPI_KEY=old\nB=1\n", b"A=1\nAPI_KEY=new\nB=2\nC=3\n")
    assert found == (f"API_KEY={MASK} changed", "- B=1", "+ B=2", "+ C=3")


def test_what_is_no_text_or_too_long_is_told_by_its_size() -> None:
    assert lines(b"\0", b"\0\0") == ("1 bytes became 2 bytes of other content",)
    assert lines(b"a", b"b" * (TEXT_LIMIT + 1)) == (f"1 bytes became {TEXT_LIMIT + 1} bytes of other content",)


def test_what_is_shown_is_bounded_and_harmless() -> None:
    found = lines(b"", b"\n".join(b"%d" % number for number in range(500)))
    assert len(found) == LINES + 1
    assert found[-1] == f"… and {500 - LINES} lines more"
    assert "\x1b" not in "".join(lines(b"", b"\x1b[2Jx"))


def test_line_ends_alone_are_told() -> None:
    assert lines(b"a\n", b"a\r\n") == ("only line ends differ",)


def test_modes_owners_and_kinds_are_told_and_times_are_not() -> None:
    def changed(**changes: object) -> list[tuple[str, ...]]:
        before, after = one(b"x").entries["/c/a"], one(b"x").entries["/c/a"]._replace(**changes)  # type: ignore[arg-type]
        trees = Tree({"/c/a": before}), Tree({"/c/a": after})
        return [found.lines for found in differences(*trees, lambda _: b"x", lambda _: b"x", MASKS)]

    assert changed(mtime_ns=9, seen=(1, 2, 3)) == []
    assert changed(mode=0o600, uid=5) == [("mode 0644 became 0600", "owner 0:0 became 5:0")]
    assert changed(kind="link", content="/etc") == [("- a file of 1 bytes, mode 0644", "+ a link to /etc")]
    assert changed(volatile=True) == []


def test_variables_are_told_apart_from_files() -> None:
    def of(**variables: str | None) -> Tree:
        return Tree({}, {"/e": variables})

    found = differences(
        of(A="1", S_KEY="x", N=None), of(A="2", S_KEY="y", N="z"), lambda _: None, lambda _: None, MASKS
    )
    assert [(one.path, one.kind, one.lines) for one in found] == [
        ("/e A", "changed", ("- A=1", "+ A=2")),
        ("/e N", "added", ("+ N=z",)),
        ("/e S_KEY", "changed", (f"S_KEY={MASK} changed",)),
    ]
