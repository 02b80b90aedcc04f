"""What is logged is one JSON object a line, and no variable of a failed function, which may be a secret."""

import asyncio
import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TextIO, cast

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage

from rollbackd.system import log
from tests.fakes.clock import ManualClock
from tests.servers import wait_until


def test_a_module_s_logger_that_was_made_before_logs_were_set_up_follows_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    early = log.get("web")
    log.configure(readable=False)
    try:
        token = "hunter" + "2"
        raise ValueError(f"a failure of {len(token)} characters")
    except ValueError:
        early.exception("request failed", path="/x")
    finally:
        structlog.reset_defaults()
    said = json.loads(capsys.readouterr().err)
    assert (said["part"], said["event"], said["path"]) == ("web", "request failed", "/x")
    assert "a failure of 7 characters" in said["exception"]
    assert "hunter2" not in json.dumps(said)


@contextmanager
def logging_to(file: object) -> Iterator[None]:
    """Logs go to this as if it were stderr."""
    handlers = logging.getLogger().handlers[:]
    before, sys.stderr = sys.stderr, cast("TextIO", file)
    try:
        log.configure(readable=False)
        yield
    finally:
        sys.stderr = before
        logging.getLogger().handlers[:] = handlers
        structlog.reset_defaults()


def test_lines_for_the_journal_begin_with_their_level(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for ours in (True, False):
        with path.open("w+") as file:
            there = os.fstat(file.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino if ours else there.st_ino + 1}")
            with logging_to(file):
                for level in ("info", "warning", "error", "critical"):
                    getattr(log.get("x"), level)("said", level=level)
                log.say("rollbackd ends")
                log.finish()
            lines = path.read_text().splitlines()
        assert [line[:3] for line in lines[:4]] == (["<6>", "<4>", "<3>", "<2>"] if ours else ['{"p'] * 4)
        assert lines[4] == ("<3>" if ours else "") + "rollbackd ends"
        assert json.loads(lines[3].removeprefix("<2>"))["event"] == "said"


@contextmanager
def broken(how: str) -> Iterator[object]:
    """A stderr that takes nothing, or nothing more."""
    if how == "closed before the start":
        yield None
        return
    if how == "a full disk":
        with open("/dev/full", "w") as file:
            yield file
        return
    reader, writer = socket.socketpair() if "socket" in how else os.pipe()
    if "gone" in how:
        os.close(reader) if isinstance(reader, int) else reader.close()
    file = os.fdopen(writer if isinstance(writer, int) else writer.detach(), "w")
    if how == "closed":
        file.close()
    yield file
    with suppress(OSError):
        file.close()
    if "gone" not in how:
        os.close(reader) if isinstance(reader, int) else reader.close()


@pytest.mark.parametrize(
    "how",
    [
        "closed before the start",
        "closed",
        "a full disk",
        "a pipe whose reader is gone",
        "a socket whose reader is gone",
        "a pipe that nobody reads",
        "a socket that nobody reads",
    ],
)
def test_a_line_that_cannot_be_written_is_dropped_and_counted(how: str) -> None:
    with broken(how) as stderr, logging_to(stderr):
        begun = time.monotonic()
        for number in range(2000):
            log.get("judge").warning("a line", number=number, text="x" * 300)
        assert log.dropped() >= (1 if "nobody reads" in how else 2000)
        assert time.monotonic() - begun < 2, "nobody is waited for"


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def in_a_circle() -> object:
    one: list[object] = []
    one.append(one)
    return one


@pytest.mark.parametrize("value", [Unspeakable(), in_a_circle(), {("a", "key"): 1}], ids=["fails", "circle", "key"])
def test_a_line_that_cannot_be_made_is_dropped_and_counted(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(sys.stderr):
        log.get("judge").warning("unspeakable", value=value)
        log.get("judge").warning("a line")
        assert log.dropped() == 1
    assert json.loads(capsys.readouterr().err)["event"] == "a line"


def test_a_reader_that_comes_back_gets_whole_lines(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as stderr, logging_to(stderr):
        for number in range(500):
            log.get("judge").warning("a line", number=number, text="x" * 6000)
        lost = log.dropped()
        before = os.read(reader, 2**20)
        log.get("judge").warning("the last line")
        after = os.read(reader, 2**20)
        assert 0 < lost == log.dropped()
    os.close(reader)
    *whole, _torn = before.splitlines()
    assert [json.loads(line)["number"] for line in whole] == list(range(len(whole)))
    assert json.loads(after.splitlines()[-1])["event"] == "the last line"


def test_what_libraries_say_is_json_and_of_each_kind_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    library, lines = logging.getLogger("asyncio"), log.LibraryLines(clock)
    with logging_to(sys.stderr):
        logging.getLogger().handlers[:] = [lines]

        def flood() -> None:
            for number in range(1000):
                try:
                    raise OSError(24, "Too many open files")
                except OSError as error:
                    library.error(f"socket.accept() out of system resource\nsocket: <fd={number}>", exc_info=error)
                library.warning("Executing <Handle at 0x%x> took %s seconds", number, number)

        flood()
        clock.advance(timedelta(seconds=59))
        flood()
        first = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        clock.advance(timedelta(seconds=2))
        flood()
        again = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in first] == [
        "socket.accept() out of system resource",
        "Executing <Handle at 0x0> took 0 seconds",
    ]
    assert (first[0]["level"], first[0]["part"], first[0]["details"]) == ("error", "asyncio", "socket: <fd=0>")
    assert "Too many open files" in first[0]["exception"]
    assert [line["left_out"] for line in again] == [1999, 1999]


def test_what_somebody_sent_wrong_is_no_fault_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(sys.stderr):
        try:
            raise BadHttpMessage("Got more than 8190 bytes when reading:\n\n  " + "y" * 9000)
        except BadHttpMessage as error:
            logging.getLogger("aiohttp.server").error("Error handling request from %s", "127.0.0.1", exc_info=error)
        (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["level"], line["event"]) == ("warning", "Error handling request from 127.0.0.1")
    assert line["error"].startswith("400, message: Got more than 8190 bytes when reading: yyy")
    assert "exception" not in line
    assert len(line["error"]) < 3000


def test_a_warning_of_the_interpreter_is_a_line_as_any_other() -> None:
    program = "import warnings; from rollbackd.system import log; log.configure(readable=False); warnings.warn('odd')"
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert (said["part"], said["level"], "odd" in line) == ("py.warnings", "warning", True)


def test_kinds_without_end_are_one_kind_more(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(sys.stderr):
        logging.getLogger().handlers[:] = [log.LibraryLines(ManualClock())]
        for number in range(1000):
            logging.getLogger("wild").error("x" * (number + 1))
    assert len(capsys.readouterr().err.splitlines()) <= 101


async def test_what_asyncio_says_of_a_forgotten_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(sys.stderr):
        asyncio.get_running_loop().call_exception_handler({"message": "it failed", "exception": ValueError("why")})
    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["event"], "ValueError: why" in json.loads(line)["exception"]) == ("it failed", True)


def test_a_disk_that_hangs_holds_nobody_up_and_what_it_takes_in_the_end_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, write = threading.Event(), os.write

    def hangs(fd: int, line: bytes) -> int:
        answers.wait()
        return write(fd, line)

    monkeypatch.setattr(os, "write", hangs)
    monkeypatch.setattr(log, "_LAST_WORDS", timedelta(seconds=0.1))
    path = tmp_path / "log"
    with path.open("w") as file, logging_to(file):
        before, began = log.dropped(), time.monotonic()
        for number in range(1100):
            log.get("web").warning("a line", number=number)
        log.say("the last words")
        assert time.monotonic() - began < 5
        assert 90 <= log.dropped() - before <= 100
        answers.set()
        log.finish()
        wait_until(lambda: "the last words" in path.read_text(), "the disk has taken all")
    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines() if line.startswith("{")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 1000


def test_lines_for_a_disk_that_is_full_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (tmp_path / "log").open("w") as file, logging_to(file):
        before = log.dropped()
        monkeypatch.setattr(os, "write", full)
        log.get("web").warning("a line")
        log.finish()
        assert log.dropped() == before + 1
