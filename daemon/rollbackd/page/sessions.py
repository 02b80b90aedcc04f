"""Who is logged in: signed cookies, links that are good once, and a word of the session in each form. No I/O but a key.

A session is in its cookie alone, signed with a key beside the locks, so that it outlives a restart of the daemon. It
ends after twelve hours, when its token is taken out of the configuration, or when its user logs out.
"""

import base64
import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.supervisor import write_durably

LASTS = timedelta(hours=12)
LINK_LASTS = timedelta(seconds=60)
_LINKS = 100
"""Links that wait to be used; of more the oldest is forgotten."""
_LEFT = 1000
"""Sessions whose users logged out, that are remembered until they would have ended."""
_KEY = 32
"""Bytes."""
_LOG = log.get("page")


@dataclass(frozen=True, slots=True)
class PageSession:
    """Somebody who is logged in."""

    actor: str
    mark: str
    """Of the token that it began with, so that it ends with it; empty: it began with a link."""
    form: str
    """What each form of the session carries: a page elsewhere cannot know it."""
    cookie: str


class _Signed(BaseModel):
    actor: str
    mark: str
    nonce: str
    ends: float
    """Seconds since 1970."""


class PageSessions:
    """Makes sessions and links, and knows them again."""

    def __init__(self, clock: Clock, key_file: Path) -> None:
        self._clock = clock
        self._key = _key(key_file)
        self._links: dict[str, tuple[str, datetime]] = {}
        """By the hash of the code: whose it is, and when it ends."""
        self._left: dict[str, None] = {}

    def link(self, actor: str) -> str:
        """A code that lets this actor in, once and soon."""
        now = self._clock.now()
        self._links = {code: one for code, one in self._links.items() if one[1] > now}
        if len(self._links) >= _LINKS:
            del self._links[next(iter(self._links))]
        code = secrets.token_urlsafe(32)
        self._links[_hashed(code)] = (actor, now + LINK_LASTS)
        return code

    def whose(self, code: str) -> str:
        """Whom a link's code would let in; empty: nobody, or not any more."""
        actor, ends = self._links.get(_hashed(code), ("", datetime.min.replace(tzinfo=UTC)))
        return actor if self._clock.now() < ends else ""

    def use(self, code: str) -> PageSession | None:
        """Begin the session of a link; None: it is used, too old, or was never given."""
        actor = self.whose(code)
        self._links.pop(_hashed(code), None)
        return self.begin(actor, "") if actor else None

    def begin(self, actor: str, mark: str) -> PageSession:
        """Let somebody in."""
        ends = (self._clock.now() + LASTS).timestamp()
        body = _Signed(actor=actor, mark=mark, nonce=secrets.token_urlsafe(16), ends=ends)
        packed = base64.urlsafe_b64encode(body.model_dump_json().encode()).decode()
        return self._session(body, f"{packed}.{self._sign('session', packed)}")

    def find(self, cookie: str) -> PageSession | None:
        """The session of a cookie; None when it is none of ours, or over."""
        if not cookie.isascii():
            return None
        packed, _, signature = cookie.partition(".")
        if not hmac.compare_digest(self._sign("session", packed).encode(), signature.encode()):
            return None
        try:
            body = _Signed.model_validate_json(base64.urlsafe_b64decode(packed))
        except (ValidationError, ValueError):  # signed by another version
            return None
        over = self._clock.now().timestamp() >= body.ends or cookie in self._left
        return None if over else self._session(body, cookie)

    def end(self, session: PageSession) -> None:
        """Its user logged out: the cookie lets nobody in any more."""
        if len(self._left) >= _LEFT:
            del self._left[next(iter(self._left))]
        self._left[session.cookie] = None

    def _session(self, body: _Signed, cookie: str) -> PageSession:
        return PageSession(body.actor, body.mark, self._sign("form", body.nonce), cookie)

    def _sign(self, use: str, text: str) -> str:
        return hmac.new(self._key, f"{use}:{text}".encode(), hashlib.sha256).hexdigest()


def _hashed(code: str) -> str:
    return hashlib.sha256(code.encode(errors="surrogateescape")).hexdigest()


def _key(path: Path) -> bytes:
    """The key of all sessions, made at the first start. One that cannot be kept is made anew by each start."""
    with suppress(OSError):
        found = path.read_bytes()
        if len(found) == _KEY:
            return found
    made = secrets.token_bytes(_KEY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, made)
    except OSError as error:
        _LOG.warning("sessions of the page end with this process: their key cannot be kept", error=str(error))
    return made
