"""The manual page and the completions are made of the commands themselves."""

import os
import re
import subprocess
import sys

import typer.main

from rollbackd.cli.commands import app
from rollbackd.cli.own_texts import manual, texts
from tests.unit.test_docs import _options


def test_the_manual_page_has_every_command_and_every_option() -> None:
    page = manual().replace("\\-", "-")
    program = typer.main.get_command(app)
    titles = re.findall(r"^\.SS (.*)$", page, re.MULTILINE)
    assert {"rollback", "snapshot take", "install"} <= set(titles)
    assert [name for name in program.commands if name not in titles] == []  # type: ignore[attr-defined]
    assert sorted({option for option in _options(program) if option not in page}) == []


def test_no_line_of_it_is_a_request_by_accident() -> None:
    known = {"TH", "SH", "SS", "TP", "B", "PP", "br", '\\"'}
    requests = [line.split(" ")[0][1:] for line in manual().splitlines() if line.startswith((".", "'"))]
    assert set(requests) <= known
    assert not re.search(r"\\(?![-e&\"])", manual()), "no escape that is not ours"


def test_a_shell_completes_what_help_lists() -> None:
    script = texts().completions["bash"]
    assert "_ROLLBACKD_COMPLETE=complete_bash" in script
    around = {**os.environ, "_ROLLBACKD_COMPLETE": "complete_bash", "COMP_WORDS": "rollbackd in", "COMP_CWORD": "1"}
    argv = [sys.executable, "-c", "from rollbackd.cli import main; main()"]
    done = subprocess.run(argv, env=around, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == {"incidents", "init", "install"}
