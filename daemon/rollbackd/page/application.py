"""The page's routes, beside those of the API and on the same port."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

from aiohttp import web
from prometheus_client import Gauge
from pydantic import Field, ValidationError

from rollbackd import __version__
from rollbackd.api.answers import written
from rollbackd.api.application import GATE
from rollbackd.api.authorization import socket_peer
from rollbackd.api.problems import ProblemError, invalid, told
from rollbackd.api.request_body import read_form
from rollbackd.config.models import Daemon
from rollbackd.model import Request
from rollbackd.operations import Operations
from rollbackd.operations.parameters import RequestFields
from rollbackd.page.contents import FleetQuery, ListQuery, PageContents, ReportQuery
from rollbackd.page.orders import ORDERS, PageOrder, read
from rollbackd.page.rendering import page_templates
from rollbackd.page.sessions import LINK_LASTS, PageSessions
from rollbackd.page.streams import PageStreams
from rollbackd.page.visitors import Doorkeeper, NotLoggedInError, Visitor
from rollbackd.syntax.units import roughly
from rollbackd.system.clock import Clock

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with `no-referrer` a browser would not say where a form comes from either
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HTML = {**_HEADERS, "Cache-Control": "no-store"}
_ASSETS = Path(__file__).parent / "assets"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FORM = 16 * 1024
"""Bytes."""
_GUESSES = 8
"""Wrong tokens that are waited for at once; meanwhile no other is looked at."""
_GUESS = 1.0
"""Seconds before a wrong token is answered."""
_NEXT = re.compile(r"(services|incidents)/[A-Za-z0-9][A-Za-z0-9._-]{0,200}|decisions|incidents|reports|")
"""Where a login may lead: pages of our own."""

_Q = TypeVar("_Q", bound=RequestFields)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Gather = Callable[[web.Request], Awaitable[Mapping[str, object]]]


def add_page(app: web.Application, operations: Operations, daemon: Daemon, clock: Clock) -> None:
    """Let an application of the API show the page, too."""
    sessions = PageSessions(clock, daemon.scratch / "page.key")
    page = _Page(operations, daemon, clock, sessions, Doorkeeper(daemon, app[GATE], sessions))
    for path, template, gather in page.pages():
        app.router.add_get(path, page.guarded(partial(page.show, template, gather)))
    for path in ORDERS:
        app.router.add_post(path, page.guarded(partial(page.order, path)))
    app.router.add_post("/services/{name}/plan", page.guarded(page.plan))
    app.router.add_get("/login", page.guarded(page.login))
    app.router.add_post("/login", page.guarded(page.log_in))
    app.router.add_post("/logout", page.guarded(page.log_out))
    app.router.add_get("/assets/{version}/{file}", page.guarded(page.asset))
    app.router.add_post("/api/v1/login", page.link)

    open_pages = Gauge("rollbackd_page_streams", "Pages that are kept up to date now.", registry=operations.registry)
    open_pages.set_function(lambda: page.streams.count)

    async def end_streams(_app: web.Application) -> None:
        page.streams.end()
        operations.registry.unregister(open_pages)

    app.on_shutdown.append(end_streams)


class _Page:
    def __init__(
        self, operations: Operations, daemon: Daemon, clock: Clock, sessions: PageSessions, doorkeeper: Doorkeeper
    ) -> None:
        self._operations = operations
        self._daemon = daemon
        self._clock = clock
        self._sessions = sessions
        self._doorkeeper = doorkeeper
        self._gate = doorkeeper.gate
        self._contents = PageContents(operations, clock)
        self._assets = {one.name: one.read_bytes() for one in _ASSETS.iterdir() if one.suffix in _KINDS}
        self._version = hashlib.sha256(b"".join(self._assets[name] for name in sorted(self._assets))).hexdigest()[:12]
        self._guessing = 0
        self.streams = PageStreams(operations, clock)

    def pages(self) -> list[tuple[str, str, Gather]]:
        """The path of each page, its template, and what gathers what it shows."""
        return [
            ("/", "fleet", lambda request: self._contents.fleet(_query(FleetQuery, request))),
            ("/services/{name}", "service", lambda request: self._contents.service(request.match_info["name"])),
            ("/incidents", "incidents", lambda request: self._contents.incidents(_query(ListQuery, request))),
            ("/incidents/{name}", "incident", lambda request: self._contents.incident(request.match_info["name"])),
            ("/incidents/{name}/report", "report", lambda request: self._contents.report(request.match_info["name"])),
            ("/reports", "report", lambda request: self._contents.month(_query(ReportQuery, request))),
            ("/decisions", "decisions", lambda request: self._contents.decisions(_query(ListQuery, request))),
        ]

    def guarded(self, handler: Handler) -> Handler:
        """A handler whose errors are pages; who is not logged in is sent to do so."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except NotLoggedInError:
                if "live" in request.query:
                    return web.Response(status=401, headers=_HTML)
                wanted = quote(request.path.lstrip("/"), safe="")
                return _see(request, f"login?next={wanted}" if wanted else "login")
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001  # one request must not end the others; `told` logs its cause
                return self._trouble(request, told(request, error))

        return answer

    # -- pages --------------------------------------------------------------------------------------
    async def show(self, template: str, gather: Gather, request: web.Request) -> web.StreamResponse:
        """A page as it is now, or the stream that keeps it up to date."""
        visitor = self._doorkeeper.visitor(request)
        if "live" not in request.query or not page_templates().is_live(template):
            return self._html(request, template, await gather(request), visitor)

        frame = self._frame(request, visitor)
        del frame["actor"]  # what is live is the same for all who may do the same

        async def parts() -> Mapping[str, str]:
            return page_templates().live(template, {**await gather(request), **frame})

        await gather(request)  # what is not there is told by a status, before the stream begins
        same = (request.path_qs, *frame.items())
        return await self.streams.serve(
            request, visitor.form, same, parts, lambda: self._doorkeeper.still_there(visitor)
        )

    def _frame(self, request: web.Request, visitor: Visitor | None) -> dict[str, object]:
        """What every page has around what it shows. Links are relative: a proxy may have us below any path."""
        return {
            "root": _root(request),
            "assets": f"{_root(request)}assets/{self._version}/",
            "actor": visitor.peer.actor if visitor is not None else "",
            "logged_in": visitor is not None and visitor.session is not None,
            "may_order": visitor is not None and visitor.may_order and not self._operations.standing_by,
            "live_at": _live(request),
            "called": self._daemon.called,
            "version": __version__,
        }

    def _html(
        self,
        request: web.Request,
        template: str,
        context: Mapping[str, object],
        visitor: Visitor | None,
        status: int = 200,
        headers: Mapping[str, str] = {},
    ) -> web.Response:
        form = visitor.form if visitor is not None else ""
        text = page_templates().whole(template, {**context, **self._frame(request, visitor)}, form)
        return web.Response(status=status, text=text, content_type="text/html", headers={**headers, **_HTML})

    def _trouble(self, request: web.Request, problem: ProblemError) -> web.Response:
        try:
            visitor = self._doorkeeper.visitor(request)
        except (NotLoggedInError, ProblemError):
            visitor = None
        against = [one for one in problem.more.get("findings", ()) if one["against"]]  # type: ignore[attr-defined]
        context = {"status": problem.status, "detail": str(problem), "findings": against}
        return self._html(request, "trouble", context, visitor, problem.status, problem.headers)

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """A file of the page itself, under a name that changes with it."""
        name = request.match_info["file"]
        if name not in self._assets:
            raise web.HTTPNotFound
        kept = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return web.Response(body=self._assets[name], content_type=_KINDS[Path(name).suffix], headers=kept)

    # -- orders -------------------------------------------------------------------------------------
    async def order(self, path: str, request: web.Request) -> web.StreamResponse:
        """Do what a form orders, then show what became of it."""
        fields = await read_form(request, _FORM)
        visitor = self._doorkeeper.orderer(request, fields)
        self._refuse_standing_by()
        given = PageOrder(
            self._operations, self._clock, visitor.peer.actor, request.match_info.get("name", ""), read(fields)
        )
        return _see(request, await ORDERS[path](given))

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """What a rollback would be. It is written down to be ordered by its id, so it is a form, too."""
        visitor = self._doorkeeper.orderer(request, await read_form(request, _FORM), needs="viewer")
        self._refuse_standing_by()
        plan = await self._operations.plan(Request(request.match_info["name"], visitor.peer.actor))
        return self._html(request, "plan", {"plan": plan}, visitor)

    def _refuse_standing_by(self) -> None:
        if driver := self._operations.standing_by:
            raise ProblemError(409, f"this daemon stands by; {driver}: give orders there, or on the command line here")

    # -- coming in and going ------------------------------------------------------------------------
    async def link(self, request: web.Request) -> web.StreamResponse:
        """A link for the user at the other end of the socket; on the network there is none."""
        if socket_peer(request) is None:
            raise ProblemError(403, "links are made on the daemon's host: `rollbackd login`")
        actor = self._gate.admit(request, "operator").actor
        where = self._daemon.url or f"http://{self._daemon.listen}"
        made = LoginLink(f"{where}/login?code={self._sessions.link(actor)}", actor, roughly(LINK_LASTS))
        return web.Response(body=written(LoginLink).dump_json(made), content_type="application/json", headers=_HTML)

    async def login(self, request: web.Request) -> web.StreamResponse:
        """The form; a link only fills it in, since scanners of mail open links."""
        query = _query(LoginQuery, request)
        context = {"code": query.code, "whose": self._sessions.whose(query.code), "next": query.next, "wrong": ""}
        return self._html(request, "login", context, None)

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        """Let somebody in by a link's code or a token."""
        self._doorkeeper.check_origin(request)
        fields = await read_form(request, _FORM)
        if code := fields.get("code", ""):
            session, wrong = self._sessions.use(code), "this link was used or is older than a minute; make another"
        else:
            session, wrong = None, "this is no token of daemon.tokens that may read"
            found = await self._token(fields.get("token", ""))
            if found is not None:
                session = self._sessions.begin(*found)
        if session is None:
            context = {"code": "", "whose": "", "next": fields.get("next", ""), "wrong": wrong}
            return self._html(request, "login", context, None, 403)
        wanted = fields.get("next", "")
        answer = _see(request, wanted if _NEXT.fullmatch(wanted) else "")
        self._doorkeeper.let_in(answer, session)
        return answer

    async def _token(self, text: str) -> tuple[str, str] | None:
        """The actor and the mark of a token that may read. Wrong ones are slowed down, all of them together."""
        if self._guessing >= _GUESSES:
            raise ProblemError(429, "too many wrong tokens; wait, or use `rollbackd login`", {"Retry-After": "2"})
        found = self._gate.token(text)
        if found is not None and "viewer" in found[0].roles:
            return found[0].actor, found[1]
        self._guessing += 1
        try:
            await self._clock.sleep(timedelta(seconds=_GUESS))
        finally:
            self._guessing -= 1
        return None

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        visitor = self._doorkeeper.orderer(request, await read_form(request, _FORM), needs="viewer")
        answer = _see(request, "login")
        if visitor.session is not None:
            self._doorkeeper.let_out(answer, visitor.session)
        return answer


@dataclass(frozen=True, slots=True)
class LoginLink:
    """A way in for one browser."""

    url: str
    actor: str
    lasts: str


class LoginQuery(RequestFields):
    """Where a link leads."""

    code: str = Field(default="", max_length=200)
    next: str = Field(default="", max_length=300)


def _query(kind: type[_Q], request: web.Request) -> _Q:
    given = {name: text for name, text in request.query.items() if name != "live" and text}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from error


def _root(request: web.Request) -> str:
    """The way from a page to the first one."""
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"


def _live(request: web.Request) -> str:
    """Where the stream of a page is, from the page itself."""
    return "?" + urlencode([*((name, text) for name, text in request.query.items() if name != "live"), ("live", "1")])


def _see(request: web.Request, page: str) -> web.Response:
    """Go on to a page of ours, by a GET."""
    return web.Response(status=303, headers={**_HTML, "Location": f"{_root(request)}{page}"})
