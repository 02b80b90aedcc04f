"""Who is asking, and what they may: nobody does anything without a token, a peer of the socket, or a stated exception.

Roles: `source` posts alerts and events, announces changes, and nothing else; `viewer` reads and nothing else;
`operator` does everything.

The Unix socket's mode says who may connect; whoever does is an operator, named by the kernel (SO_PEERCRED). What a step
runs is the daemon's own user and none: the code of a release may read, and gives no orders.
`open_on_loopback` lets this host post alerts and read without a token, and never give orders: a web page that runs in
a browser here reaches the same port, so for these peers the Host and Origin headers must be this host's own too.
"""

import hashlib
import hmac
import os
import pwd
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from rollbackd.api.problems import ProblemError
from rollbackd.api.server import CannotListenError
from rollbackd.config.models import Daemon, Role, listening
from rollbackd.syntax.addresses import origin_of
from rollbackd.syntax.units import Secret
from rollbackd.system import step_processes

_MAY: Mapping[Role, frozenset[Role]] = {
    "source": frozenset({"source"}),
    "viewer": frozenset({"viewer"}),
    "operator": frozenset({"source", "viewer", "operator"}),
}
_PEER = struct.Struct("3i")
"""`struct ucred` of unix(7): process, user, group."""
_OF_A_STEP = "step:"
_MARK = 32
"""Hexadecimal digits that tell one token from another, and nobody what it is."""
_CHALLENGE = 'Bearer realm="rollbackd"'


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request."""

    actor: str
    roles: frozenset[Role]


def operator(actor: str) -> Peer:
    """Somebody who may do everything."""
    return Peer(actor, _MAY["operator"])


_OPEN = Peer("open:loopback", frozenset({"source", "viewer"}))


class Gate:
    """Decides who a request is from and whether its role is enough.

    :raises CannotListenError: a token is not there, is empty or has two names; or open access on a public address.
    """

    def __init__(self, daemon: Daemon, reveal: Callable[[Secret], str]) -> None:
        self._tokens: dict[bytes, Peer] = {}
        for token in daemon.tokens:
            try:
                text = reveal(token.token)
            except ValueError as error:
                raise CannotListenError(f"daemon.tokens: {token.name}: {error}") from error
            if not text.strip():
                raise CannotListenError(
                    f"daemon.tokens: the secret of {token.name} is empty; put a long random text there"
                )
            peer = Peer(f"token:{token.name}", _MAY[token.role])
            if (other := self._tokens.setdefault(_digest(text), peer)) is not peer:
                raise CannotListenError(
                    f"daemon.tokens: {token.name} and {other.actor[6:]} have the same secret; change one"
                )
        self._of_host = daemon.of_host
        self._open = daemon.open_on_loopback
        if self._open and not is_loopback(listening(daemon.listen)[0]):
            raise CannotListenError(
                f"daemon.open_on_loopback: {daemon.listen} is no loopback address; listen on 127.0.0.1, or use tokens"
            )

    def admit(self, request: web.Request, needed: Role) -> Peer:
        """The peer, when it may do what needs this role.

        :raises ProblemError: 401 when nobody knows who it is, 403 when it may not.
        """
        peer = socket_peer(request, self._of_host) or self._bearer(request) or self._neighbour(request)
        if peer is None:
            raise ProblemError(401, self._how_to_come_in(), {"WWW-Authenticate": _CHALLENGE})
        if needed not in peer.roles:
            header = {"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope"'}
            raise ProblemError(403, f"{peer.actor} may not do this; it needs the role {needed}{_way(peer)}", header)
        return peer

    def token(self, text: str) -> tuple[Peer, str] | None:
        """Whose token this is, and a mark of it that `marked` knows again; None: nobody's."""
        digest = _digest(text)
        found: Peer | None = None
        for known, peer in self._tokens.items():
            if hmac.compare_digest(known, digest):  # all are compared, so that the time taken tells nothing
                found = peer
        return (found, digest.hex()[:_MARK]) if found is not None else None

    def marked(self, mark: str) -> Peer | None:
        """Whose token has this mark; None: it is not configured any more."""
        return next((peer for digest, peer in self._tokens.items() if digest.hex()[:_MARK] == mark), None)

    def _bearer(self, request: web.Request) -> Peer | None:
        given = request.headers.get(hdrs.AUTHORIZATION)
        if given is None:
            return None
        scheme, _, text = given.partition(" ")
        found, _mark = self.token(text) or (None, "")
        if found is None or scheme.lower() != "bearer":
            header = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}
            raise ProblemError(
                401, "this token is not one of daemon.tokens; send `Authorization: Bearer TOKEN`", header
            )
        return found

    def _neighbour(self, request: web.Request) -> Peer | None:
        if not self._open or not is_loopback(request.remote or ""):
            return None
        headers = request.headers
        if "Forwarded" in headers or "X-Forwarded-For" in headers:
            return None  # a proxy on this host speaks for somebody elsewhere
        host = headers.get(hdrs.HOST, "")
        if not _is_local_name(host):
            raise ProblemError(403, "the Host header is not this host's; without a token ask for localhost by name")
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None and origin_of(origin)[1] != host:
            raise ProblemError(403, "a web page of another origin may not ask without a token")
        return _OPEN

    def _how_to_come_in(self) -> str:
        if self._tokens:
            return "send `Authorization: Bearer TOKEN`, or use the command line on the daemon's host"
        return "no token is configured: add one to daemon.tokens, or use the command line on the daemon's host"


def socket_peer(request: web.Request, of_host: str = "") -> Peer | None:
    """The user at the other end, on the Unix socket; None on TCP, where SO_PEERCRED answers -1 without an error.

    :param of_host: what follows a user's name.
    """
    transport = request.transport
    if transport is None or isinstance(transport.get_extra_info("sockname"), tuple):  # an address of IP
        return None
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    process, user, _group = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if step_processes.is_of_a_step(process, ours=user == os.geteuid()):
        return Peer(f"{_OF_A_STEP}{_user_name(user)}", _MAY["viewer"])
    return Peer(f"unix:{_user_name(user)}{of_host}", _MAY["operator"])


@lru_cache(maxsize=256)
def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether an address, or `localhost`, is this host's own."""
    if address == "localhost":
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


@lru_cache(maxsize=1024)
def _is_local_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode(errors="surrogateescape")).digest()


def _way(peer: Peer) -> str:
    if peer.actor.startswith(_OF_A_STEP):
        return ": what a step runs may read, and gives no orders; a person gives them from a login of their own"
    if peer is _OPEN:
        return ": use the command line on the daemon's host, or a token of that role"
    return "; give the token that role in daemon.tokens, or use another"
