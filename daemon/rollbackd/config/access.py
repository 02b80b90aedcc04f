"""Access to the HTTP side: whoever has a token, or anybody on this host when the file says so. Pure."""

import ipaddress
from collections.abc import Iterator

from rollbackd.config.models import Daemon, listening
from rollbackd.config.outline import Complaint, Outline


def complaints(outline: Outline) -> Iterator[Complaint]:
    """Addresses that can be reached by people whom the file does not name."""
    daemon = outline.section("daemon")
    listen = daemon.get("listen", Daemon().listen)
    try:
        host, _ = listening(listen if isinstance(listen, str) else "")
    except ValueError:
        return
    if daemon.get("open_on_loopback") is True and not _is_loopback(host):
        text = (
            f"open_on_loopback is for a loopback address, and listen is {listen}; listen on 127.0.0.1, or give tokens"
        )
        yield ("daemon", "open_on_loopback"), text
    elif daemon.get("tokens"):
        return
    elif not _is_loopback(host):
        text = f"{listen} can be reached from elsewhere without a token; add tokens, or listen on 127.0.0.1"
        yield ("daemon", "listen"), text
    elif not daemon.get("open_on_loopback"):
        text = f"anybody on this host could use {listen}; add tokens, or say open_on_loopback: true"
        yield ("daemon", "listen"), text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
