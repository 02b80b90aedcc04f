"""What goes along with a request to one server: headers with their secrets, certificates, a proxy."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from rollbackd.syntax.connections import ConnectionSettings, Tls, breaks_line, proxy_url
from rollbackd.syntax.units import Secret

MASK = "***"


@dataclass(frozen=True, slots=True, repr=False)
class HttpConnection:
    """What `ConnectionSettings` say, ready to be used once: secrets are read anew for each request."""

    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    proxy: str = ""
    secrets: tuple[str, ...] = ()
    """In every form in which they are sent."""
    confidential: bool = False
    """It is for this server alone, so that no redirect may carry it elsewhere."""

    def masked(self, text: str) -> str:
        """What a server says, without the secrets that it may repeat."""
        return masked(text, self.secrets)


DIRECT = HttpConnection()
"""Nothing beyond the request."""


def overlaid(under: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Headers over others, whatever the case of their names."""
    named = {name.lower() for name in over}
    return {**{name: text for name, text in under.items() if name.lower() not in named}, **over}


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def connection_of(
    settings: ConnectionSettings, reveal: Callable[[Secret], str], fill: Callable[[str], str] = str
) -> HttpConnection:
    """What goes along with the next request.

    :param fill: makes of a header's text what is sent.
    :raises ValueError: OSError: a secret cannot be read, or does not fit; a note names the key that it is for.
    """
    headers, secrets = dict[str, str](), list[str]()

    def revealed(secret: Secret, what: str) -> str:
        try:
            secrets.append(reveal(secret))
        except (ValueError, OSError) as error:
            error.add_note(what)
            raise
        return secrets[-1]

    if (basic := settings.basic_auth) is not None:
        pair = base64.b64encode(f"{basic.username}:{revealed(basic.password, 'basic_auth')}".encode()).decode()
        secrets.append(pair)
        headers["Authorization"] = f"Basic {pair}"
    if (token := settings.authorization) is not None:
        headers["Authorization"] = f"{token.type} {revealed(token.credentials, 'authorization')}"
    for name, value in settings.headers.items():
        headers[name] = revealed(value, f"header {name}") if isinstance(value, Secret) else fill(value)
    for name, text in headers.items():
        if breaks_line(text):
            raise ValueError(f"header {name} has a line break in it; write it on one line")
    proxy = settings.proxy
    if isinstance(proxy, Secret):
        proxy = proxy_url(revealed(proxy, "proxy").strip())
        secrets += _of_url(proxy)
    return HttpConnection(headers, settings.tls, proxy or "", tuple(secrets), settings.is_confidential)


def _of_url(url: str) -> Iterator[str]:
    """The secrets in an address."""
    yield url
    if password := urlsplit(url).password:
        yield from {password, unquote(password), quote(unquote(password), safe="")}
