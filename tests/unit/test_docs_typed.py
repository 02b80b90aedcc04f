"""What the documentation shows is what works: command lines are ours, and each other snippet is read by its own program.

The first document is typed word for word on a Debian of its own: tests/e2e/test_first_document.py.
"""

import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from typer.testing import CliRunner

from rollbackd.cli import command_frame
from rollbackd.cli.commands import app
from rollbackd.config.alert_cases import read
from rollbackd.operations.parameters import ChangeBody
from rollbackd.signals.events import parse_events
from tests.unit.test_docs import PAGES, PROJECT

EVERYWHERE = (*PAGES, *sorted((PROJECT / "examples").glob("*/README.md")))
READ = {"sh", "yaml", "ini", "nginx", "promql", "text", "sql", "python", ""}
"""Languages whose snippets some test reads; `text`, `sql` and `python` by tests of their own beside their subject."""


_ASSIGNED = re.compile("[A-Z]+=")
"""What is set for a command, before it."""


def snippets(language: str) -> Iterator[tuple[str, str]]:
    """Each with its page's name."""
    for page in EVERYWHERE:
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield str(page.relative_to(PROJECT)), text


def typed(block: str) -> Iterator[list[str]]:
    """The commands of a block as a shell splits them, without what is written into files, and without comments."""
    block = re.sub(r"<<'END'\n.*?^END$", "", block, flags=re.MULTILINE | re.DOTALL)
    block = re.sub(r"(?:^|\s+)# .*$", "", block.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(block, posix=True, punctuation_chars=";|&\n")
    lexer.whitespace_split, lexer.whitespace, lexer.commenters = True, " \t", ""
    for ends, words in groupby(lexer, lambda word: not word.strip(";|&\n")):
        if not ends:
            yield list(dropwhile(_ASSIGNED.match, words))


COMMANDS = [(page, words) for page, block in snippets("sh") for words in typed(block)]
OURS = [
    pytest.param(words, id=f"{page}-{shlex.join(words)[:60]}")
    for page, words in COMMANDS
    if words[0].endswith("rollbackd")
]


@pytest.mark.parametrize("words", OURS)
def test_a_command_that_is_shown_is_one(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_frame, "_guarded", lambda *_: 0)
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output


def test_a_command_that_is_none_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_frame, "_guarded", lambda *_: 0)
    for words in (["plna", "checkout"], ["plan"], ["plan", "checkout", "--too", "x"]):
        assert CliRunner().invoke(app, words).exit_code == 2


def test_every_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    asked = {words[1] for _, words in COMMANDS if words[0] == "make"}
    assert {"demo", "test", "wheel"} <= asked
    assert asked <= targets


def test_every_other_program_is_one_of_debians_or_of_an_example() -> None:
    known = {"rollbackd", "make", "curl", "git", "systemctl", "journalctl", "install", "apt-get", "python3", "adduser",
             "touch", "rm", "printf", "cat", "chmod", "su", "until", "do", "done", "sleep", "true", "jq", "setfacl",
             "createdb", "createuser", "python"}  # fmt: skip
    assert {Path(words[0]).name for _, words in COMMANDS} - known <= {"pip"}


def test_what_curl_posts_is_understood() -> None:
    event, change = (words[words.index("-d") + 1] for _, words in COMMANDS if words[0] == "curl")
    assert [one.event for one in parse_events(event.encode())] == ["e2e_failed"]
    assert ChangeBody.model_validate(json.loads(change)).key == "job-4711"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize(("page", "text"), list(snippets("ini")))
def test_a_drop_in_that_is_shown_is_one(page: str, text: str, tmp_path: Path) -> None:
    unit = (PROJECT / "systemd" / "rollbackd.service").read_text()
    (tmp_path / "rollbackd.service").write_text(unit.replace("ExecStart=rollbackd run", "ExecStart=/bin/true"))
    drop_in = tmp_path / "rollbackd.service.d" / "shown.conf"
    drop_in.parent.mkdir()

    def said() -> str:
        argv = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "rollbackd.service")]
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stderr

    drop_in.write_text(text)
    assert said() == "", page
    drop_in.write_text(text.replace("ReadWritePaths=", "ReadWritePath="))
    assert "ReadWritePath" in said()


@pytest.mark.needs("nginx")
def test_nginxs_part_is_understood_by_nginx(tmp_path: Path) -> None:
    ((_, text),) = snippets("nginx")
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"events {{}}\npid {tmp_path}/pid;\nhttp {{ access_log off; server {{ listen 127.0.0.1:1; {text} }} }}\n"
    )
    argv = ["nginx", "-t", "-q", "-e", str(tmp_path / "log"), "-c", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_queries_that_are_shown_parse() -> None:
    (shown,) = (text for _, text in snippets("promql"))
    promql_parser.parse(shown)


def test_cases_that_are_shown_are_read(tmp_path: Path) -> None:
    (shown,) = (text for _, text in snippets("text") if text.startswith("cases:"))
    (tmp_path / "cases.yaml").write_text(shown)
    assert [case.name for case in read(tmp_path / "cases.yaml")]


def test_the_case_that_is_shown_is_one_of_the_table() -> None:
    (shown,) = (text for page, text in snippets("text") if page == "docs/judgement.md")
    table = (PROJECT / "tests/unit/judgement/situations/01-evidence.yaml").read_text()
    assert textwrap.indent(shown, "  ") in table


def test_there_is_no_snippet_of_another_language() -> None:
    languages: set[Any] = set()
    for page in EVERYWHERE:
        languages |= set(re.findall(r"^```(\w*)\n(?:.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    assert languages <= READ
