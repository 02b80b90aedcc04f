r"""Files of environment variables as text: what they set, and the least edit to set something else. No I/O.

Three readers are known, and they do not agree:

- `shell`: `NAME=value` or `export NAME=value`; a value ends at white space, ` #` begins a comment, quotes may begin
  anywhere, and `$NAME`, `$(…)` and backquotes outside of single quotes are expanded by the shell, never here.
- `systemd`: as `EnvironmentFile=` (systemd.exec(5)): a value goes on to the end of its line without the white space
  around it, quotes count only where a value or a part of it begins, nothing is expanded, `#` and `;` begin a comment
  only at the beginning of a line.
- `docker`: as `docker run --env-file` (https://docs.docker.com/reference/cli/docker/container/run/#env): a value is all
  that follows the `=`, quotes, backslashes and white space too; it ends with its line, and `#` begins a comment only at
  the beginning of one. A name that has white space, such as after `export`, makes docker refuse the file.

For the first two, a backslash takes the meaning of the next character, or joins the next line; in double quotes only
before `"`, `\`, `$` and a backquote. A value that was not in the file before is written so that both read the same.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Syntax = Literal["shell", "systemd", "docker"]

_ASSIGNMENT = {
    "shell": re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)="),
    "systemd": re.compile(r"[ \t]*(?![#; \t])([^\r\n][^=\r\n]*)=[ \t]*"),
    "docker": re.compile(r"[^\S\n]*([^#=\s][^=\n]*)="),
}
_COMMENT = {"shell": re.compile(r"[ \t]*#"), "systemd": re.compile(r"[ \t]*[#;]")}
_TO_THE_END = re.compile(r"[^\n]*?(?=\r?(?:\n|\Z))")
_BARE = {
    "shell": re.compile(r"(?:\\[\s\S]|[^ \t\r\n'\"\\;&|<>()])+"),
    "systemd": re.compile(r"(?:\\[\s\S]|[^\r\n\\])+"),
}
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:\\[\s\S]|[^"\\])*)"')
_ESCAPED = re.compile(r"\\([\s\S])")
_ESCAPED_IN_QUOTES = re.compile(r'\\([\n"\\`$])')
_EXPANDS = re.compile(r"`|\$[A-Za-z0-9_{(@*#?$!'\"-]")
_HOME = re.compile(r"(?:\A|:)~")
_AFTER = re.compile(r"[ \t]*(?:(?<=[ \t])#[^\n]*)?\r?(?:\n|\Z)")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_LAST_END = re.compile(r"\r?\n\Z")


class Unreadable(ValueError):  # noqa: N818  # it is what the file is
    """The file cannot be understood; the text says at which line, and what to do."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a variable is set to."""

    text: str
    """What a program finds in it; when a shell would expand it, as it is written."""
    expands: bool = False
    written: str | None = field(default=None, compare=False)
    """As it stands in the file, quotes and all; None when it has not stood in one yet."""


Content = Mapping[str, Value | None]
"""Values by name; None: the file does not set it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the lines of a content stand in its file, so that going back to it restores every byte."""

    rest: str
    """The hash of the file without those lines and without its last line end: in another file it says nothing."""
    end: str
    """The last line end, where there was one."""
    lines: tuple[tuple[int, str], ...]
    """Each line, and its place in the rest."""


@dataclass(frozen=True, slots=True)
class _Assignment:
    name: str
    value: Value
    line: tuple[int, int]
    """From the beginning of its first line to behind the end of its last."""
    written: tuple[int, int]


class EnvText:
    """One file's text."""

    def __init__(self, text: str, syntax: Syntax, names: Iterable[str]) -> None:
        """:raises Unreadable: a line that sets one of `names` cannot be understood, or a quote is never closed."""
        self._text = text
        self._syntax: Syntax = syntax
        self._names = tuple(names)
        self._assignments = self._parsed()

    @property
    def content(self) -> Content:
        """The values of the names in this file; the last line that sets one counts."""
        last = {each.name: each.value for each in self._assignments}
        return {name: last.get(name) for name in self._names}

    @property
    def layout(self) -> Layout:
        """Where the lines of the names stand."""
        removed, lines = 0, []
        for each in self._assignments:
            start, end = each.line
            lines.append((start - removed, self._text[start:end]))
            removed += end - start
        rest, end_of_file = self._rest()
        return Layout(_hash(rest), end_of_file, tuple(lines))

    def _rest(self) -> tuple[str, str]:
        """The text without the lines of the names, and its last line end apart."""
        text = self._text
        for each in reversed(self._assignments):
            text = text[: each.line[0]] + text[each.line[1] :]
        rest = _LAST_END.sub("", text)
        return rest, text[len(rest) :]

    def changed(self, target: Content, layout: Layout | None = None) -> str:
        """The text that sets what `target` says, with nothing else changed; of a name set twice, both lines.

        :param layout: where the lines stood when the file said that; used while the rest is the same.
        :raises Unreadable: it cannot be said in this syntax.
        """
        if layout is not None and (whole := self._as_before(target, layout)) is not None:
            return whole
        text, present = self._text, self.content
        edits = [
            self._edit(each, target[each.name])
            for each in self._assignments
            if each.name in target and each.value != target[each.name]
        ]
        for start, end, new in reversed(edits):
            text = text[:start] + new + text[end:]
        last = [(len(self._text), "")] == [(end, new) for _, end, new in edits[-1:]]
        if last and not self._text.endswith("\n"):
            text = _LAST_END.sub("", text)  # the line that was last is gone, and its end was missing
        for name, value in target.items():
            if value is not None and present.get(name) is None:
                text = self._appended(text, f"{name}={self._written(value)}")
        if EnvText(text, self._syntax, self._names).content != {**present, **target}:
            raise Unreadable("what it should set cannot be written in this syntax; edit it by hand")
        return text

    def _as_before(self, target: Content, layout: Layout) -> str | None:
        """The file as it was, where all that differs is ours; None where it is not, or would not say the target."""
        rest, _ = self._rest()
        if _hash(rest) != layout.rest:
            return None
        text = rest + layout.end
        for place, line in reversed(layout.lines):
            text = text[:place] + line + text[place:]
        try:
            says = EnvText(text, self._syntax, self._names).content
        except Unreadable:
            return None
        return text if says == target else None

    def _edit(self, each: _Assignment, value: Value | None) -> tuple[int, int, str]:
        if value is None:
            return (*each.line, "")
        return (*each.written, self._written(value, like=each.value.written or ""))

    def _written(self, value: Value, like: str = "") -> str:
        if self._syntax == "docker":
            return value.text
        return quoted(value.text, like) if value.written is None else value.written

    def _appended(self, text: str, line: str) -> str:
        """The text with one more line; a missing end of the last line stays missing."""
        end = "\r\n" if "\r\n" in self._text else "\n"
        if self._text.endswith("\n") or not self._text:
            return f"{text}{line}{end}"
        return f"{text}{end}{line}" if text else line

    # -- reading --------------------------------------------------------------------------------
    def _parsed(self) -> list[_Assignment]:
        found = []
        at = 1 if self._text.startswith("\ufeff") else 0
        while at < len(self._text):
            match = _ASSIGNMENT[self._syntax].match(self._text, at)
            if self._syntax == "docker":
                self._check_docker_takes(at)
            if match is None:
                at = self._skipped(at)
                continue
            name = match[1].rstrip(" \t")
            value, ends = self._value(match.end(), name)
            after = self._behind(ends, name)
            if name in self._names:
                found.append(_Assignment(name, value, (at, after), (match.end(), ends)))
            at = after
        return found

    def _check_docker_takes(self, at: int) -> None:
        """:raises Unreadable: docker refuses a line that means one of ours, or takes its value from elsewhere."""
        words, equals, _ = self._text[at : self._skipped(at)].strip().partition("=")
        if words in self._names and not equals:
            raise self._wrong(at, f"{words} has no value, so docker takes it from its own environment; write one")
        last = words.split()[-1:]
        if words not in self._names and not words.startswith("#") and set(last) & set(self._names):
            raise self._wrong(at, f"docker refuses a name with white space; write {last[0]}= alone")

    def _skipped(self, at: int) -> int:
        """The place behind a line that sets nothing, and in a shell behind the lines that it is joined to."""
        if self._syntax == "docker":
            return self._text.find("\n", at) + 1 or len(self._text)
        comment = _COMMENT[self._syntax].match(self._text, at) is not None
        while True:
            end = self._text.find("\n", at)
            if end < 0:
                return len(self._text)
            joined = self._text[at:end].rstrip("\r").endswith("\\")
            if joined and comment and self._syntax == "systemd":
                raise self._wrong(at, "versions of systemd disagree on a comment that ends in a backslash; remove it")
            at = end + 1
            if comment or not joined or self._syntax == "systemd":
                return at

    def _value(self, at: int, name: str) -> tuple[Value, int]:
        """A value from `at` on, and where it ends."""
        if self._syntax == "docker":
            whole = _TO_THE_END.match(self._text, at)[0]  # type: ignore[index]  # it matches anywhere
            return Value(whole, written=whole), at + len(whole)
        start, ends, text, expands = at, at, "", False
        while (found := self._part(at, name)) is not None:
            quote = found[0][0] if found.re in {_SINGLE, _DOUBLE} else ""
            written = found[1] if quote else _trimmed(found[0]) if self._syntax == "systemd" else found[0]
            text += written if quote == "'" else (_ESCAPED_IN_QUOTES if quote else _ESCAPED).sub(_meant, written)
            following = "" if quote else self._text[found.end() : found.end() + 1]  # a quote after `$` is bash's own
            expands = expands or (quote != "'" and self._expands(written + following, quoted=bool(quote)))
            ends = found.end() if quote else found.start() + len(written)
            at = found.end()
            while self._syntax == "systemd" and self._text[at : at + 1] in {" ", "\t"}:
                at += 1
        whole = self._text[start:ends]
        return Value(whole if expands else text, expands, whole), ends

    def _part(self, at: int, name: str) -> re.Match[str] | None:
        """The next quoted or bare part of a value; None when it has ended."""
        quotes = {"'": _SINGLE, '"': _DOUBLE}.get(self._text[at : at + 1])
        if quotes is None:
            return _BARE[self._syntax].match(self._text, at)
        found = quotes.match(self._text, at)
        if found is None:
            raise self._wrong(at, f"the quote in the value of {name} is never closed; close it")
        return found

    def _expands(self, written: str, *, quoted: bool) -> bool:
        if self._syntax == "systemd":
            return False
        bare = _ESCAPED.sub("", written)
        return _EXPANDS.search(bare) is not None or (not quoted and _HOME.search(bare) is not None)

    def _behind(self, at: int, name: str) -> int:
        """Behind the line that a value ends in. :raises Unreadable: something of meaning follows a value of ours."""
        if (found := _AFTER.match(self._text, at)) is not None:
            return found.end()
        if name in self._names:
            raise self._wrong(at, f"more than a value follows {name}=; put the value in quotes, one variable a line")
        return self._skipped(at)

    def _wrong(self, at: int, text: str) -> Unreadable:
        return Unreadable(f"line {self._text.count(chr(10), 0, at) + 1}: {text}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def quoted(text: str, like: str = "") -> str:
    """The value as both readers understand it, in quotes like those of `like` where that can be."""
    plain = _PLAIN.fullmatch(text) is not None
    if plain and like[:1] not in {"'", '"'}:
        return text
    if "'" not in text and (like[:1] == "'" or not plain) and like[:1] != '"':
        return f"'{text}'"
    return '"' + re.sub(r'(["\\`$])', r"\\\1", text) + '"'


def _trimmed(written: str) -> str:
    """The text without white space at its end, except a character that a backslash stands before."""
    short = written.rstrip(" \t")
    escaped = (len(short) - len(short.rstrip("\\"))) % 2 == 1
    return written[: len(short) + 1] if escaped else short


def _meant(found: re.Match[str]) -> str:
    """What an escaped character stands for: itself, and nothing for a line's end."""
    return found[1].strip("\r\n")
