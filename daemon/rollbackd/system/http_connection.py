"""What goes along with a request to one server: headers with their secrets, certificates, a proxy."""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ssl import SSLContext
from urllib.parse import quote, unquote, urlsplit

from rollbackd.syntax.connections import ConnectionSettings, Tls, api_address, proxy_url, unfit
from rollbackd.syntax.units import Secret, shortened
from rollbackd.system.redaction import harmless

MASK = "***"
_SHORTEST = 4
"""The fewest characters that are the beginning of a secret."""
_SAID = 200
"""How many characters of a server's own words are shown."""
_TAG = re.compile(r"<[!/A-Za-z][^<>]*>")


@dataclass(frozen=True, slots=True, repr=False)
class HttpConnection:
    """What `ConnectionSettings` say, ready to be used once: secrets are read anew for each request."""

    url: str = ""
    """The server's address, where that is a secret too; else it stands beside this."""
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    proxy: str = ""
    secrets: tuple[str, ...] = ()
    """In every form in which they are sent."""
    confidential: bool = False
    """It is for this server alone, so that no redirect may carry it elsewhere."""
    trusted: SSLContext | None = None
    """What certificates were made into that are in no files `tls` could name."""

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
    """The text without these secrets, nor the beginning of one at its end, where it may have been cut."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
        for start in range(max(0, len(text) - len(secret) + 1), len(text) - _SHORTEST + 1):
            if secret.startswith(text[start:]):
                text = text[:start] + MASK
                break
    return text


def in_short(words: str) -> str:
    """What a refusal says, to be put behind its status: `: ` and one line of it, without a page's tags."""
    plain = " ".join(harmless(_TAG.sub(" ", words)).split())
    return f": {shortened(plain, _SAID)}" if plain else ""


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
        if fault := unfit(text):
            raise ValueError(f"header {name} {fault}")
    proxy = settings.proxy
    if isinstance(proxy, Secret):
        proxy = proxy_url(revealed(proxy, "proxy").strip())
        secrets += _of_url(proxy)
    return HttpConnection("", headers, settings.tls, proxy or "", tuple(secrets), settings.is_confidential)


def connection_to(
    address: str | Secret, settings: ConnectionSettings, reveal: Callable[[Secret], str]
) -> HttpConnection:
    """The same, to an API whose address may be a secret. :raises ValueError: OSError: as `connection_of`."""
    made = connection_of(settings, reveal)
    if isinstance(address, str):
        return made
    url = api_address(reveal(address).strip()).rstrip("/")
    return replace(made, url=url, secrets=(*made.secrets, *_of_url(url)))


def shown(address: str | Secret) -> str:
    """What messages call it."""
    if isinstance(address, str):
        return without_password(address)
    (place, name), *_ = ((place, name) for place, name in address if name)
    return f"{{{place}: {name}}}"


def without_password(url: str) -> str:
    """The address as messages show it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _of_url(url: str) -> Iterator[str]:
    """The secrets in an address."""
    yield url
    if password := urlsplit(url).password:
        yield from {password, unquote(password), quote(unquote(password), safe="")}
