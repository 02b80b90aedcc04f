"""The manual page and the shells' completions, made of the commands themselves, as `--help` is.

click-man would do for click; typer has a click of its own inside, of whose options it sees none.
"""

from collections.abc import Iterator
from typing import Any

from rollbackd import __version__
from rollbackd.setup.service_files import OwnTexts

_MARK = "Written by `rollbackd install`, from rollbackd's own commands."
_SHARED = frozenset({"--json", "--config", "--socket", "--help"})
"""Every command has them; they are described once."""


def texts() -> OwnTexts:
    """All of them."""
    return OwnTexts({shell: _completion(shell) for shell in ("bash", "zsh", "fish")}, manual())


def _completion(shell: str) -> str:
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="rollbackd", complete_var="_ROLLBACKD_COMPLETE", shell=shell)
    first, _, rest = script.partition("\n")
    marked = f"{first}\n# {_MARK}\n{rest}" if first.startswith("#compdef") else f"# {_MARK}\n{script}"
    return f"{marked.rstrip()}\n"


# -- the manual page ----------------------------------------------------------------------------
def manual() -> str:
    """rollbackd(1) in roff, by man(7)."""
    import typer.main

    from rollbackd.cli.commands import app

    program: Any = typer.main.get_command(app)
    return "\n".join([f'.\\" {_MARK}', f'.TH ROLLBACKD 1 "" "rollbackd {__version__}"', *_page(program), ""])


def _page(program: Any) -> Iterator[str]:
    context = program.make_context("rollbackd", [], resilient_parsing=True)
    summary, *rest = program.help.split("\n\n")
    yield from (".SH NAME", f"rollbackd \\- {_roff(summary)}")
    yield from (".SH SYNOPSIS", _roff(program.get_usage(context).partition(": ")[2]))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(rest)
    yield ".SH OPTIONS"
    yield from _options(program, context, frozenset())
    yield ".SH COMMANDS"
    yield "Each also takes \\-\\-json, \\-\\-config, \\-\\-socket and \\-\\-help."
    yield from _commands(program, context)
    yield from (".SH SEE ALSO", "systemctl(1), journalctl(1)")


def _commands(group: Any, context: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        within = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield f".SS {_roff(within.command_path.partition(' ')[2])}"
        yield f".B {_roff(command.get_usage(within).partition(': ')[2])}"
        yield ".br"
        yield from _paragraphs((command.help or "").split("\n\n"))
        yield from _options(command, within, _SHARED)
        yield from _commands(command, within) if hasattr(command, "commands") else ()


def _options(command: Any, context: Any, without: frozenset[str]) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and not without.intersection(parameter.opts):
            yield from (".TP", f".B {_roff(record[0])}", _roff(record[1]))


def _paragraphs(texts: list[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number:
            yield ".PP"
        yield _roff(text)


def _roff(text: str) -> str:
    """Plain text on one line: no escape, no request, and a hyphen that can be copied as one."""
    line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line[:1] in {".", "'"} else line
