"""Redaction: secrets and terminal tricks are taken out of what programs print. No I/O; it knows text only."""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

TAIL = 16 * 2**10
"""How many bytes of a program's output are kept as evidence."""
HEADROOM = 4 * 2**10
"""How many bytes are kept before those, so that a secret at the cut can be recognised and removed."""
MASK = "[secret]"

_SHORTEST = 4
"""The fewest characters of a secret; a shorter one would mask half of every text."""

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
_PATTERNS = (
    (
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        MASK,
    ),
    (re.compile(r"\A.*-----END [A-Z0-9 ]*PRIVATE KEY-----", re.DOTALL), MASK),  # its beginning was cut off
    (re.compile(r"(://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)"), rf"\1{MASK}"),
    (re.compile(r"(https?://)[^\s/@:'\"]+(?=@)", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"((?:proxy-)?authorization[\"']?[ \t]*[:=][ \t]*[\"']?)[^\r\n\"']+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(\bbearer[ \t]+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"((?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential)"
            r"[\w.-]{0,40}[\"']?[ \t]*[:=][ \t]*)(?!\[secret\])(\"[^\"\n]*\"?|'[^'\n]*'?|[^\s,;&\"']+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(--(?:password|token|secret|api-key)[ \t]+)[^\s-][^\s]*", re.IGNORECASE), rf"\1{MASK}"),
)


_OF_URLS = re.compile(r"(://)[^\s/?#]+(?=@)")
"""Who somebody is to a server, up to the last `@` of the authority, as urlsplit reads it."""


def without_passwords(text: str) -> str:
    """The text without the users and passwords of any URL in it."""
    return _OF_URLS.sub(rf"\1{MASK}", text) if "://" in text else text


def harmless(text: str) -> str:
    """The text without escape sequences; other control and direction characters become `?`, line ends newlines."""
    plain = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("?", plain)


def one_line(text: str) -> str:
    """The text, harmless and on one line of at most 200 characters: for labels."""
    return " ".join(harmless(text[:TAIL]).split())[:200]


class Redactor:
    """Knows the daemon's secrets, also URL-quoted, JSON-quoted and line by line, and what secrets look like."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known: set[str] = set()
        for secret in secrets:
            for part in {secret, secret.strip(), *(line.strip() for line in secret.splitlines() if len(line) >= 8)}:
                known |= {part, quote(part, safe=""), json.dumps(part)[1:-1]}
        self._secrets = tuple(sorted((text for text in known if len(text) >= _SHORTEST), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """The text, harmless and without secrets; of a long one the beginning, since each character costs time."""
        if len(text) > TAIL + HEADROOM:  # what may be half a secret, at the cut, goes as well
            return self(text[: TAIL + HEADROOM])[:-HEADROOM] + "…"
        text = self._masked(harmless(self._masked(text)))  # before too: an escape sequence may end in its first letter
        for pattern, mask in _PATTERNS:
            text = pattern.sub(mask, text)
        return text

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def tail(self, raw: bytes, *, cut: bool) -> str:
        """The last 16 KiB of an output as evidence; `cut` when `raw` is not all of it."""
        text = self(raw.decode(errors="replace"))
        if cut:  # half a secret may stand at the beginning: the first line goes, or the headroom of one endless line
            newline = text.find("\n", 0, HEADROOM)
            text = "…\n" + text[newline + 1 if newline >= 0 else HEADROOM :]
        if len(text) > TAIL:
            text = "…\n" + text[-TAIL:]
        return text.strip("\n")
