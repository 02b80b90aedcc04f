"""Counts the lines of a log that match. Run as a file, in a process of its own; standard library and RE2 only.

`python -I -S log_lines.py REQUEST`: REQUEST is JSON; a journal's entries come by standard input; the answer is JSON.
What only Python's regular expressions can say may take hours over one line that somebody outside wrote, and holds the
interpreter all the while: no thread could be stopped, a process can.
"""

import json
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

LARGEST = 64 * 2**20
"""Bytes of a file that are looked through, from its end."""
LONGEST = 2**16
"""Bytes of a line that are looked at; journald takes no longer one (`LineMax=48K`) from what a unit prints."""
LAST = 3
"""Lines that are shown."""

_BLOCK = 2**20
_OFF = timedelta(minutes=10)
"""By which times of lines may differ from the file's own; zones differ by a quarter of an hour at least."""
_HEAD = 256
"""Characters at the beginning of a line that its time is searched in."""
_BEFORE = 64
"""Bytes before a mark by which its place is recognised: a file cut short and grown again is another."""
_DIRECTIVES = {
    "Y": r"\d{4}", "y": r"\d{2}", "m": r"\d{1,2}", "d": r"[ \d]?\d", "j": r"\d{1,3}", "H": r"\d{1,2}", "I": r"\d{1,2}",
    "M": r"\d{1,2}", "S": r"\d{1,2}", "f": r"\d{1,6}", "p": "[AaPp][Mm]", "b": "[A-Za-z]{3}", "B": "[A-Za-z]{3,9}",
    "a": "[A-Za-z]{3}", "A": "[A-Za-z]{6,9}", "z": r"(?:Z|[+-]\d{2}:?\d{2})", "%": "%",
}  # fmt: skip
"""What `datetime.strptime` reads, in the C locale."""
_DROPPED = "a596d6fe7bfa4994828e72309e95d61e"
"""journald's own message (SD_MESSAGE_JOURNAL_DROPPED) that it dropped some of a unit that wrote too fast."""
_NANOSECONDS = re.compile(r"(\d[.,]\d{6})\d{1,3}(?!\d)")


def searcher(pattern: str, re2: Any) -> Callable[[str], object]:
    """What finds an expression in a line: by RE2, in linear time, where that can say it; else by Python.

    :param re2: the module; None where there is none.
    :raises re.error: or OverflowError, or RecursionError: neither can read it.
    """
    if re2 is not None:
        options = re2.Options()
        options.log_errors, options.never_capture = False, True
        try:
            search = re2.compile(pattern.encode(errors="replace"), options).search
        except re2.error:
            pass
        else:
            return lambda line: search(line.encode(errors="replace"))
    return re.compile(pattern).search


def _re2(beside: str) -> Any:
    """RE2's module, from where the daemon has it."""
    if beside:
        sys.path.append(beside)
    try:
        import re2
    except ImportError:
        return None
    return re2


class Tally:
    """A count of matching lines, and the last few of them."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._search = searcher(request["matching"], _re2(request.get("re2", "")))
        self.number = 0
        self.last: deque[str] = deque(maxlen=LAST)

    def add(self, line: str) -> bool:
        """Count it when it matches."""
        line = line[:LONGEST]
        if self._search(line) is None:
            return False
        self.number += 1
        self.last.append(line)
        return True

    def add_message(self, message: str) -> None:
        """Count a journal's entry once, also when it has several lines: it matches as a whole, or one of them does."""
        for text in (message, *message.split("\n")[1:]):
            if self.add(text):
                return


class LineTimes:
    """A reader of lines' times in one format. Without a zone in it they are local; without a year, the last that fits.

    :raises ValueError: the format cannot be read.
    """

    def __init__(self, written: str, now: datetime) -> None:
        directives = re.findall(r"%(.?)", written)
        unknown = [each for each in directives if each not in _DIRECTIVES]
        if unknown:
            raise ValueError(f"%{unknown[0]} is not known; there is %{', %'.join(_DIRECTIVES)}")
        if not ({"d", "j"} & {*directives} and {"H", "I"} & {*directives} and "M" in directives):
            raise ValueError("it has no day, hour and minute; write it like %Y-%m-%dT%H:%M:%S%z")
        parts = re.split(r"%(.)", written)
        pattern = "".join(_DIRECTIVES[part] if n % 2 else re.escape(part) for n, part in enumerate(parts))
        self._find = re.compile(pattern).search
        self._now = now.astimezone()
        self._year = not {"Y", "y"} & {*directives}
        self._format = f"%Y {written}" if self._year else written
        self._read = ("", self._now)

    def of(self, line: str) -> datetime | None:
        """The line's time; None when it has none, as the lines of a stack trace."""
        found = self._find(_NANOSECONDS.sub(r"\1", line[:_HEAD]))
        if found is None:
            return None
        if found[0] != self._read[0]:
            try:
                self._read = (found[0], self._parsed(found[0]))
            except (ValueError, OverflowError):
                return None
        return self._read[1]

    def _parsed(self, text: str) -> datetime:
        if not self._year:
            return datetime.strptime(text, self._format).astimezone()
        time = datetime.strptime(f"{self._now.year} {text}", self._format).astimezone()
        if time > self._now + timedelta(days=1):
            time = datetime.strptime(f"{self._now.year - 1} {text}", self._format).astimezone()
        return time


# -- a file -------------------------------------------------------------------------------------
def of_file(request: Mapping[str, Any]) -> dict[str, Any]:
    """Count the lines of a file since a time.

    `sure` were written since, `maybe` is how many could have been; `gap` says why there may be more, and is empty when
    there are not. `mark` is where the file ends now; marks of earlier looks tell which lines came after them.
    """
    try:
        fd = os.open(request["file"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        return {"problem": os.strerror(error.errno or 0).lower()}
    try:
        return _of_open(fd, request)
    finally:
        os.close(fd)


def _of_open(fd: int, request: Mapping[str, Any]) -> dict[str, Any]:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return {"problem": "is no regular file"}
    size = status.st_size
    marks = [mark for mark in request["marks"] if _stands(fd, mark, status)]
    told = {"mark": _mark(fd, size, status, request["now"]), "marks": marks}
    if status.st_mtime < request["since"]:  # being rotated, cut short or made counts as written
        return {"sure": 0, "maybe": 0, "gap": "", "last": [], **told}
    turned = len(marks) < len(request["marks"])
    counted = _timed if request["time"] else _by_marks
    return counted(fd, size, request, marks, turned) | told


def _stands(fd: int, mark: Mapping[str, Any], status: os.stat_result) -> bool:
    here = (mark["device"], mark["inode"]) == (status.st_dev, status.st_ino)
    return here and mark["offset"] <= status.st_size and _before(fd, mark["offset"]) == mark["before"]


def _before(fd: int, offset: int) -> str:
    begin = max(0, offset - _BEFORE)
    return os.pread(fd, offset - begin, begin).hex()


def _mark(fd: int, size: int, status: os.stat_result, now: float) -> dict[str, Any]:
    """The end of the last whole line: the rest of a line that is just being written belongs to the next look."""
    begin = max(0, size - LONGEST)
    end = os.pread(fd, size - begin, begin).rfind(b"\n")
    offset = size if end < 0 else begin + end + 1
    place = {"device": status.st_dev, "inode": status.st_ino, "offset": offset}
    return {"at": now, **place, "before": _before(fd, offset)}


def _by_marks(
    fd: int, size: int, request: Mapping[str, Any], marks: Sequence[Mapping[str, Any]], turned: bool
) -> dict[str, Any]:
    """The count of lines without times; what lies after a mark was written after that look."""
    since = request["since"]
    older = max((mark["offset"] for mark in marks if mark["at"] <= since), default=None)
    newer = min((mark["offset"] for mark in marks if mark["at"] >= since), default=size)
    begin = newer if older is None else older
    gap = ""
    if older is None:
        gap = "the file was rotated or cut short" if turned else "its lines have no times, and are counted from now on"
    if size - begin > LARGEST:
        begin = size - LARGEST
        gap = f"more than {LARGEST >> 20} MiB were written"
    tally, sure = Tally(request), 0
    for offset, line in _lines(fd, begin, size):
        sure += tally.add(line) and offset >= newer
    return {"sure": sure, "maybe": tally.number, "gap": gap, "last": list(tally.last)}


def _timed(
    fd: int, size: int, request: Mapping[str, Any], marks: Sequence[Mapping[str, Any]], turned: bool
) -> dict[str, Any]:
    """The count of lines with times, read backwards until they are too old; a line without one has that before it."""
    since = datetime.fromtimestamp(request["since"], UTC)
    times = LineTimes(request["time"], datetime.fromtimestamp(request["now"], UTC))
    begin, first = size, None
    while begin > max(0, size - LARGEST) and (first is None or first >= since):
        end, begin = begin, max(0, begin - _BLOCK)
        found = (times.of(line) for _, line in _lines(fd, begin, end, whole=begin > 0))
        first = next((time for time in found if time is not None), first)
    if first is None:
        words = "has no line yet" if size == 0 else f"has no time like {request['time']} in its lines"
        return {"problem": words}
    gap = ""
    if first >= since and begin > 0:
        gap = f"more than {LARGEST >> 20} MiB were written"
    elif first >= since and not any(mark["at"] <= request["since"] for mark in marks):
        gap = "the file was rotated or cut short" if turned else f"it begins at {first.isoformat(timespec='seconds')}"
    tally, time, newest = Tally(request), None, first
    for _, line in _lines(fd, begin, size, whole=begin > 0):
        time = times.of(line) or time
        if time is not None and time >= since:
            tally.add(line)
            newest = max(newest, time)
    written = datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC)
    said = f"{newest.isoformat(timespec='seconds')}, and the file of {written.isoformat(timespec='seconds')}"
    if newest > datetime.fromtimestamp(request["now"], UTC) + _OFF:
        return {"problem": f"its last line would be of {said}; are the lines of another zone? Give `time` a %z"}
    if written - newest > _OFF and not gap:
        gap = f"its last line with a time is of {said}: of another zone, or without a time"
    return {"sure": tally.number, "maybe": tally.number, "gap": gap, "last": list(tally.last)}


def _lines(fd: int, begin: int, end: int, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Lines with the offsets they begin at, the last maybe unfinished; `whole`: without what is left of the first."""
    offset, rest = begin, b""
    at = begin
    while at < end:
        block = os.pread(fd, min(_BLOCK, end - at), at)
        if not block:
            return
        at += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if not (whole and offset == begin):
                yield offset, line[:LONGEST].decode(errors="replace")
            offset += len(line) + 1
    if rest and not (whole and offset == begin):
        yield offset, rest[:LONGEST].decode(errors="replace")


# -- the journal --------------------------------------------------------------------------------
def of_journal(entries: Iterable[bytes], request: Mapping[str, Any]) -> dict[str, Any]:
    """Count the entries of `journalctl --output=json`; one that was cut off is none.

    `seen` is how many there are, `dropped` how many lines since then journald says that it did not take.
    """
    tally, seen, dropped = Tally(request), 0, 0
    for entry in entries:
        try:
            found = json.loads(entry)
            at = int(found["__REALTIME_TIMESTAMP"]) / 1e6
        except (ValueError, KeyError, TypeError):
            continue
        seen += 1
        if at >= request["since"]:
            tally.add_message(_message(found.get("MESSAGE")))
            if found.get("MESSAGE_ID") == _DROPPED:
                dropped += _number(found.get("N_DROPPED"))
    told = {"last": list(tally.last), "seen": seen, "dropped": dropped}
    return {"sure": tally.number, "maybe": tally.number, "gap": "", **told}


def _number(value: object) -> int:
    """The number in a field, into which a unit may write anything; 1 for what is no number."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else 1


def _message(value: object) -> str:
    """The text of a field; bytes that are not UTF-8 come as numbers, fields of one name as a list of texts."""
    if isinstance(value, list):
        if all(isinstance(each, int) and 0 <= each < 256 for each in value):
            return bytes(value).decode(errors="replace")
        return "\n".join(map(_message, value))
    return value if isinstance(value, str) else ""


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.argv[1])
    answer = of_file(request) if "file" in request else of_journal(sys.stdin.buffer, request)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
