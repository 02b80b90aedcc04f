"""What somebody needs from the command line when things are bad: output, what is still closed, a sentence for each no."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollbackd.cli import incident_text, order_commands, service_text
from rollbackd.cli.command_frame import Session, StopError
from rollbackd.cli.commands import app
from rollbackd.cli.daemon_client import UnreachableError
from rollbackd.views.shapes import RecordView
from tests import forks
from tests.fakes.operations import NOON, OPENED
from tests.fakes.serving import serving

CLOSED = asdict(replace(OPENED, status="closed", outcome="failed", entered=("page",)))


def printed(shown: Callable[[], object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        shown()
    return out.getvalue()


async def rollbackd(*arguments: str) -> tuple[int, str, str]:
    ended = await asyncio.to_thread(forks.run, "rollbackd", arguments, 30)
    return ended.returncode, ended.stdout, ended.stderr


def test_a_failed_step_shows_the_end_of_its_output_below_itself() -> None:
    said = "\n".join(f"line {number}" for number in range(30)) + "\n\x1b[2Jno space left"
    fact = {"layer": "code", "evidence": said}
    failed = asdict(RecordView(3, NOON, "daemon", "ApplyFailed", "applying code failed: exit 1", fact))
    lines = printed(lambda: incident_text.Timeline().add([failed])).splitlines()
    assert lines[1] == "  12:00:00Z  daemon  applying code failed: exit 1"
    assert lines[-1] == "                     | \\x1b[2Jno space left"
    assert lines[2].endswith("| line 11")
    assert len(lines) == 2 + 20


def test_what_an_ended_incident_left_closed_is_in_the_status_with_the_command_that_opens_it() -> None:
    said = "page is still entered since checkout-1; when it can be left: rollbackd ack checkout-1 --leave"
    assert said in printed(lambda: service_text.services([], [CLOSED])).splitlines()
    assert incident_text.still_entered({**CLOSED, "entered": []}) == ""
    assert incident_text.still_entered({**CLOSED, "outcome": ""}) == "", (
        "a page that is up while it runs is as it should be"
    )


async def test_the_status_looks_for_it_itself(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock") as served:
        served.operations.incidents_["checkout-1"] = replace(
            OPENED, status="closed", outcome="failed", entered=("page",)
        )
        for arguments in ((), ("checkout",)):
            code, out, _ = await rollbackd("--socket", str(served.socket), "status", *arguments)
            assert code == 0
            assert (
                "page is still entered since checkout-1; when it can be left: rollbackd ack checkout-1 --leave" in out
            )


def test_who_may_not_read_the_configuration_still_reaches_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator is in the socket's group, and need not be in the file's."""
    config, path = tmp_path / "config.yaml", tmp_path / "s.sock"
    config.write_text("daemon: {}")
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda *_: False)
    ran = CliRunner().invoke(app, ["--config", str(config), "--socket", str(path), "status"])
    assert (ran.exit_code, ran.stderr.splitlines()[0]) == (
        3, f"rollbackd: the daemon does not answer on {path}: connection refused",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "title"),
    [
        (("status",), 3, "Unreachable"),
        (("hold",), 2, "Wrong usage"),
        (("audit", "--journal", "/nowhere"), 1, "Not done"),
    ],
)
async def test_with_json_a_no_is_json_too(tmp_path: Path, arguments: tuple[str, ...], code: int, title: str) -> None:
    ended, out, error = await rollbackd("--json", "--socket", str(tmp_path / "no.sock"), *arguments)
    problem = json.loads(out)
    assert (ended, problem["title"]) == (code, title)
    assert f"rollbackd: {problem['detail']}" in error


def test_a_daemon_of_an_older_version_is_named_as_such() -> None:
    def people() -> None:
        raise KeyError("notes")

    with pytest.raises(StopError) as caught:
        Session().show({}, people)
    assert str(caught.value).startswith("the daemon is of another version, its answer has no 'notes'; restart it")


async def test_a_shell_can_complete_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"_ROLLBACKD_COMPLETE": "complete_bash", "COMP_WORDS": "rollbackd roll", "COMP_CWORD": "1"}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert await rollbackd() == (0, "rollback\n", "")


@pytest.mark.parametrize("arguments", [("schema",), ("--help",)])
async def test_output_that_cannot_be_written_is_a_sentence(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rollbackd", *arguments, stdout=full, stderr=asyncio.subprocess.PIPE
        )
        _, error = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, error.decode()) == (
        1, "rollbackd: what it says cannot be written: no space left on device\n",
    )  # fmt: skip


async def test_an_interrupted_order_is_not_called_undone(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    path = tmp_path / "hangs.sock"
    server = await asyncio.start_unix_server(hang, path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rollbackd", "--socket", str(path), "hold", "checkout", stderr=asyncio.subprocess.PIPE
    )
    await asyncio.wait_for(asked.wait(), 30)
    process.send_signal(signal.SIGINT)
    _, error = await asyncio.wait_for(process.communicate(), 30)
    server.close()
    await server.wait_closed()
    assert (process.returncode, error.decode()) == (
        130, "rollbackd: interrupted; the order may have been taken: rollbackd incidents; rollbackd status\n",
    )  # fmt: skip


def test_whoever_wants_a_hold_hears_soon_that_the_daemon_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the way then, and nobody thinks of it while a command waits."""
    monkeypatch.setattr(order_commands, "QUICK", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        for asked in (order_commands.hold, order_commands.abort):
            with pytest.raises(UnreachableError, match="no answer in time"):
                asked(Session(socket=tmp_path / "s"), "checkout")
