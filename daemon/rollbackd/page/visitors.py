"""Who looks at the page, and whether a form is theirs: cookies, the word of the session, and where a form came from."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import hdrs, web

from rollbackd.api.authorization import Gate, Peer, operator
from rollbackd.api.problems import ProblemError
from rollbackd.config.models import Daemon
from rollbackd.page.sessions import LASTS, PageSession, PageSessions
from rollbackd.syntax.addresses import origin_of
from rollbackd.system import log

WORD = "form"
"""The field of each form that carries the session's word."""
_LOG = log.get("page")


class NotLoggedInError(Exception):
    """Nobody knows who asks; the login page is the answer."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks."""

    peer: Peer
    session: PageSession | None

    @property
    def may_order(self) -> bool:
        """Whether forms are shown: a form needs a session, whoever came in another way uses the API."""
        return self.session is not None and "operator" in self.peer.roles

    @property
    def form(self) -> str:
        return self.session.form if self.session is not None else ""


class Doorkeeper:
    """Knows visitors by their cookie, else as the API does."""

    def __init__(self, daemon: Daemon, gate: Gate, sessions: PageSessions) -> None:
        self.gate = gate
        self._sessions = sessions
        self._ours = origin_of(daemon.url)
        self._sealed = self._ours[0] == "https"
        self.cookie = "__Host-rollbackd" if self._sealed else "rollbackd"
        """The cookie's name; the prefix keeps others of the domain from setting it, where there is TLS."""

    def visitor(self, request: web.Request) -> Visitor:
        """Who asks. :raises NotLoggedInError: ProblemError: that one may not read."""
        session = self._sessions.find(request.cookies.get(self.cookie, ""))
        if session is not None and (peer := self._peer(session)) is not None:
            if "viewer" not in peer.roles:
                raise ProblemError(403, f"{peer.actor} may not read; log in with a token of the role viewer")
            return Visitor(peer, session)
        try:
            return Visitor(self.gate.admit(request, "viewer"), None)
        except ProblemError as error:
            if error.status == 401 and hdrs.AUTHORIZATION not in request.headers:
                raise NotLoggedInError from error
            raise

    def still_there(self, visitor: Visitor) -> bool:
        """Whether a session is not over meanwhile."""
        return visitor.session is None or self._sessions.find(visitor.session.cookie) is not None

    def orderer(self, request: web.Request, fields: Mapping[str, str], *, needs: str = "operator") -> Visitor:
        """Who sent this form, when it is theirs and may be sent. What is refused is logged.

        :raises ProblemError: 403.
        """
        self.check_origin(request)
        try:
            visitor = self.visitor(request)
        except NotLoggedInError as error:
            why = "you are not logged in any more: nothing was done; log in, and give the order again"
            raise self._refused(request, "nobody", why) from error
        session = visitor.session
        if session is None:
            raise self._refused(request, visitor.peer.actor, "forms are for those who logged in here; use the API")
        if not hmac.compare_digest(fields.get(WORD, "").encode(errors="replace"), session.form.encode()):
            why = "this form is of an earlier session: nothing was done; reload the page, and give the order again"
            raise self._refused(request, visitor.peer.actor, why)
        if needs not in visitor.peer.roles:
            why = f"{visitor.peer.actor} may read, and gives no orders: nothing was done"
            raise self._refused(request, visitor.peer.actor, why)
        return visitor

    def check_origin(self, request: web.Request) -> None:
        """A form of another web page does nothing. :raises ProblemError: 403."""
        origin = origin_of(request.headers.get(hdrs.ORIGIN, ""))
        own = request.headers.get(hdrs.HOST, "")
        if not origin[1] or (origin[1] != own and origin != self._ours):
            why = "this form came from another web page: nothing was done; give orders from rollbackd's own page"
            raise self._refused(request, "nobody", why)

    def let_in(self, answer: web.StreamResponse, session: PageSession) -> None:
        """Hand the cookie out. Lax, and not Strict: a link in a message would seem logged out."""
        answer.set_cookie(
            self.cookie,
            session.cookie,
            max_age=int(LASTS.total_seconds()),
            httponly=True,
            samesite="Lax",
            secure=self._sealed,
            path="/",
        )

    def let_out(self, answer: web.StreamResponse, session: PageSession) -> None:
        self._sessions.end(session)
        answer.del_cookie(self.cookie, path="/", httponly=True, samesite="Lax", secure=self._sealed)

    def _peer(self, session: PageSession) -> Peer | None:
        return self.gate.marked(session.mark) if session.mark else operator(session.actor)

    def _refused(self, request: web.Request, actor: str, why: str) -> ProblemError:
        _LOG.warning("an order of the page was refused", path=request.path, actor=actor, reason=why)
        return ProblemError(403, why)
