"""Logs: one JSON object a line on stderr, or readable lines on a terminal. Secrets are masked before they get here.

What observes never stops what acts: a line that cannot be made or written is dropped and counted, whatever the reason.
"""

import atexit
import logging
import os
import queue
import re
import select
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, ProcessorReturnValue, WrappedLogger

from rollbackd.system.clock import Clock, SystemClock
from rollbackd.system.redaction import without_passwords

_PIECE = 4096
"""Bytes that a pipe or socket takes without waiting once it says that it can be written."""
_PATIENCE = 20
"""Milliseconds that a line waits for a reader that is behind."""
_REST = timedelta(seconds=1)
"""Before another line waits, after one waited in vain: a reader that hangs must not cost more than a moment of it."""
_MINUTE = 60.0
_KINDS = 100
"""Kinds of lines of libraries that are told apart; whatever comes beyond them is one kind more."""
_WORDS = 200
"""Characters by which such a line is told from others."""
_DETAILS = 2000
"""Characters of such a line that are kept."""
_PRIORITY = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
"""Levels as syslog(3) numbers them."""
_VARIES = re.compile(r"<.*>|0x[0-9a-f]+|[0-9]+|'.*'")
"""What differs from line to line of one kind: objects, addresses, numbers, names."""


_KEPT_BACK = 1000
"""Lines that wait for a disk."""
_LAST_WORDS = timedelta(seconds=1)
"""How long a disk is waited for in the end."""


class FileWriter:
    """Writes lines into a regular file on a thread of its own: a file system that hangs says so to nobody, and whoever
    writes into it waits with it. The thread is begun anew by the next line where it is gone, as after a fork.
    """

    def __init__(self, fd: int, lost: Callable[[], None]) -> None:
        self._fd = fd
        self._lost = lost
        self._lines = queue.Queue[bytes](_KEPT_BACK)
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Have it written. :raises BlockingIOError: too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            raise BlockingIOError("the disk that the log is on does not answer") from None
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="log-writer", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait until all is written, for as long as a disk may take."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, _LAST_WORDS.total_seconds())

    def _work(self) -> None:
        while True:
            line = self._lines.get()
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                self._lost()
            finally:
                self._lines.task_done()


class LogOutput:
    """Where lines go. Nothing is raised, and neither a reader nor a disk that does not take them is waited for."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._fd = _descriptor(file)
        self._poll = select.poll()
        self._on_disk = FileWriter(self._fd, self._lose) if self._fd >= 0 and _is_file(self._fd) else None
        if self._fd >= 0 and self._on_disk is None:
            self._poll.register(self._fd, select.POLLOUT)
        self._clock = SystemClock()
        self._hurry_until = 0.0
        self._torn = False
        """The last line was written in part."""
        self.dropped = 0
        """Lines that are lost."""

    def write(self, text: str) -> None:
        """Write a line, or count it as lost."""
        try:
            self._write(text)
        except (OSError, ValueError, RuntimeError):  # a ValueError: the file is closed; the last: no thread can begin
            self._lose()

    def flush(self) -> None:
        """Nothing, since it is called after each line."""

    def finish(self) -> None:
        """Wait a moment for a disk; nothing else is kept back."""
        if self._on_disk is not None:
            self._on_disk.finish()

    def _lose(self) -> None:
        self.dropped += 1

    def _write(self, text: str) -> None:
        if self._on_disk is not None:
            return self._on_disk.put(text.encode(errors="backslashreplace"))
        if self._fd >= 0:
            return self._send(text.encode(errors="backslashreplace"))
        if self._file is None:
            raise ValueError("there is no stderr")
        self._file.write(text)
        return self._file.flush()

    def _send(self, line: bytes) -> None:
        left = b"\n" + line if self._torn else line
        while left:
            self._await_room()
            written = os.write(self._fd, left[:_PIECE])
            left = left[written:]
            self._torn = bool(left)

    def _await_room(self) -> None:
        """:raises BlockingIOError: there is none."""
        patience = _PATIENCE if self._clock.monotonic() >= self._hurry_until else 0
        if not self._poll.poll(patience):
            if patience:
                self._hurry_until = self._clock.monotonic() + _REST.total_seconds()
            raise BlockingIOError("whoever reads the log does not read")


def _descriptor(file: TextIO | None) -> int:
    """The file's number; -1 when it has none, as what a test puts in its place."""
    with suppress(OSError, ValueError):
        return file.fileno() if file is not None else -1
    return -1


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:  # it is closed, which each line finds out
        return False


def _to_the_journal(file: TextIO | None) -> bool:
    """Whether systemd's journal reads it: systemd.exec(5), JOURNAL_STREAM."""
    with suppress(OSError):
        found = os.fstat(_descriptor(file))
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


_output = LogOutput(None)


def dropped() -> int:
    """How many lines were lost since the start."""
    return _output.dropped


def say(text: str) -> None:
    """Write a line for people on stderr as it is: before there is a log, or when it is the last one."""
    finish()
    last = LogOutput(sys.stderr)
    last.write(f"{_PRIORITY['error'] if _to_the_journal(sys.stderr) else ''}{text}\n")
    last.finish()


def finish() -> None:
    """Wait a moment for lines that a disk has not taken yet: before the process ends or becomes another program."""
    _output.finish()


atexit.register(finish)


def configure(level: str = "info", *, readable: bool | None = None) -> None:
    """Set structlog up once; `readable` is by default whether stderr is a terminal."""
    global _output  # noqa: PLW0603  # there is one stderr
    stderr = cast("TextIO | None", sys.stderr)  # None when it was closed before the start
    _output = LogOutput(stderr)
    if readable is None:
        readable = stderr is not None and stderr.isatty()
    renderer: Processor = structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    if _to_the_journal(stderr):
        renderer = _with_priority(renderer)
    _hear_libraries()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _unless_it_fails(structlog.processors.format_exc_info),
            _unless_it_fails(_without_passwords),
            _unless_it_fails(renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _output)),
        cache_logger_on_first_use=False,
    )


def _with_priority(render: Processor) -> Processor:
    """Lines that begin with their level as sd-daemon(3) has it, so that `journalctl -p warning` finds them."""

    def process(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = _PRIORITY.get(event.get("level", ""), _PRIORITY["info"])
        return priority + cast("str", render(logger, name, event))

    return process


def _without_passwords(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = without_passwords(value)
        elif isinstance(value, list | tuple):
            event[key] = [without_passwords(one) if isinstance(one, str) else one for one in value]
    return event


def _unless_it_fails(processor: Processor) -> Processor:
    """A processor that drops what it cannot put into words, such as a value that has none."""

    def process(logger: WrappedLogger, name: str, event: EventDict) -> ProcessorReturnValue:
        try:
            return processor(logger, name, event)
        except Exception as error:  # whatever a value's own words raise
            _output.dropped += 1
            raise structlog.DropEvent from error

    return process


_OF_SENDERS = "aiohttp.http_exceptions"
"""Where errors are defined that say what is wrong with what somebody sent: no fault of ours, and no traceback."""


class LibraryLines(logging.Handler):
    """Brings what libraries say, asyncio and aiohttp above all, into our log: of each kind one line a minute.

    What makes them say something often comes from outside, and comes again and again.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}
        """When a kind was written last, and how many of it were left out since."""

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        kind = self._kind(record)
        now = self._clock.monotonic()
        before, left_out = self._kinds.get(kind, (-_MINUTE, 0))
        if now - before < _MINUTE:
            self._kinds[kind] = (before, left_out + 1)
            return
        self._kinds[kind] = (now, 0)
        event, _, details = said.partition("\n")
        more: dict[str, object] = {"details": details[:_DETAILS]} if details else {}
        if left_out:
            more["left_out"] = left_out
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__module__ == _OF_SENDERS:
            get(record.name).warning(event[:_DETAILS], error=" ".join(str(error)[:_DETAILS].split()), **more)
        else:
            get(record.name).log(record.levelno, event[:_DETAILS], exc_info=record.exc_info, **more)

    def _kind(self, record: logging.LogRecord) -> str:
        words = _VARIES.sub("", str(record.msg)[:_WORDS].partition("\n")[0])
        error = type(record.exc_info[1]).__name__ if record.exc_info else ""
        kind = f"{record.name} {words} {error}"
        return kind if kind in self._kinds or len(self._kinds) < _KINDS else ""


def _hear_libraries() -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, LibraryLines):
            root.removeHandler(handler)
    root.addHandler(LibraryLines(SystemClock()))
    logging.captureWarnings(capture=True)  # else they are lines of their own, and no JSON


def get(name: str) -> FilteringBoundLogger:
    """A logger; `incident`, `service` and `step` are bound by who works on them."""
    # Not bound here: a module's logger would have structlog's defaults for ever, which print locals, secrets and all.
    made: FilteringBoundLogger = structlog.get_logger(part=name)
    return made
