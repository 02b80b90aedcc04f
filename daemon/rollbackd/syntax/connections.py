"""How a server is reached by HTTP, as Prometheus's `http_config` says it: the same keys beside every URL. No I/O."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from rollbackd.syntax.addresses import is_url
from rollbackd.syntax.units import Secret, Spec, show

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
AUTHORIZATION = "authorization"
"""The header that says who asks; names of headers have no case."""


def unfit(value: str) -> str:
    """Why it cannot be a header's value; empty when it can. The value may be a secret and is not quoted."""
    if any(character in value for character in "\r\n\0"):
        return "has a line break in it; write it on one line"
    if any((character < " " and character != "\t") or character == "\x7f" for character in value):
        return "has a control character in it; remove that"
    return ""


def _header(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"{show(name)} is not the name of a header; write it like X-Scope-OrgID")
    return name


def _scheme(text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise ValueError(f"{show(text)} is no kind of authorization; write it like Bearer")
    if text.lower() == "basic":
        raise ValueError("give `basic_auth: {username: …, password: …}` instead; it is encoded from these")
    return text


def _username(text: str) -> str:
    if ":" in text or unfit(text):
        raise ValueError("a user's name has no colon in it, and is on one line; the password stands under `password`")
    return text


def proxy_url(text: str) -> str:
    """The address of a proxy. :raises ValueError: for anything else; it may hold a password, and is not quoted."""
    if not is_url(text, ("http",)) or urlsplit(text).path.strip("/"):
        raise ValueError("this is no proxy; write it like http://proxy.example:3128, also for what is encrypted")
    return text


def api_address(text: str) -> str:
    """The address that a secret has; it may hold a password, and is not quoted. :raises ValueError: it is none."""
    if not is_url(text) or urlsplit(text).query or urlsplit(text).fragment:
        raise ValueError("this secret is no URL; it is like https://prometheus.example/prometheus")
    return text


def _plain_proxy(text: str) -> str:
    if "@" in urlsplit(proxy_url(text)).netloc:
        raise ValueError("a user or password in it would be shown; give the whole address as a secret: {env: NAME}")
    return text


def _file(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f'{show(path)} depends on where the daemon is started; write a path that begins with "/"')
    return path


File = Annotated[str, AfterValidator(_file)]


def look_into(secret: Secret, info: ValidationInfo, read: Callable[[str], object]) -> None:
    """Where secrets are looked for, this one is one that the function reads. :raises ValueError: as the function."""
    if info.context and (look_for := info.context.get("look_for")) and isinstance(text := look_for(secret), str):
        read(text.strip())


class BasicAuth(Spec):
    """A user and a password."""

    username: Annotated[str, Field(min_length=1), AfterValidator(_username)]
    password: Secret


class Credentials(Spec):
    """The header Authorization."""

    type: Annotated[str, AfterValidator(_scheme)] = "Bearer"
    """What stands before the credentials."""
    credentials: Secret


class Tls(Spec):
    """Certificates. The server's is always verified. All files are read again when they change."""

    ca: File | None = None
    """Certificates that are trusted, in PEM, instead of the system's: of an own authority, or the server's own."""
    cert: File | None = None
    """The certificate that says who asks, with those between it and its authority, in PEM."""
    key: File | None = None
    """Its key, in PEM, without a passphrase, closed to others. Without it the key is in `cert`, too."""
    server_name: str = ""
    """The name that the server's certificate has, when that is not the URL's host."""

    @model_validator(mode="after")
    def _there(self, info: ValidationInfo) -> Self:
        """A context may have `try_tls`: called with the settings, it raises ValueError when they cannot be used."""
        if self.key is not None and self.cert is None:
            raise ValueError("`key` belongs to a certificate; give `cert` as well")
        if info.context and (try_tls := info.context.get("try_tls")):
            try_tls(self)
        return self


class ConnectionSettings(Spec):
    """How a server is reached, and who asks. Proxies of the environment are not used."""

    basic_auth: BasicAuth | None = None
    """User and password."""
    authorization: Credentials | None = None
    """A token: `{credentials: {credential: NAME}}` is sent as `Bearer` and the secret."""
    headers: dict[Annotated[str, AfterValidator(_header)], str | Secret] = {}
    """More headers, such as a tenant's; each value a text or a secret."""
    tls: Tls | None = None
    """Certificates of its own."""
    proxy: Annotated[str, AfterValidator(_plain_proxy)] | Secret | None = None
    """The address of an HTTP proxy that everything goes through, or a secret with it."""

    @model_validator(mode="after")
    def _of_one_mind(self, info: ValidationInfo) -> Self:
        for name, value in self.headers.items():
            if isinstance(value, str) and (fault := unfit(value)):
                raise ValueError(f"header {name} {fault}")
        if len(ways := list(self._identities())) > 1:
            raise ValueError(f"{' and '.join(ways)} both say who asks; give one of them")
        if isinstance(self.proxy, Secret):
            look_into(self.proxy, info, proxy_url)
        return self

    def _identities(self) -> Iterator[str]:
        if self.basic_auth is not None:
            yield "`basic_auth`"
        if self.authorization is not None:
            yield "`authorization`"
        yield from (f"header {name}" for name in self.headers if name.lower() == AUTHORIZATION)

    @property
    def is_confidential(self) -> bool:
        """Whether something goes along that is for this server alone."""
        secrets = any(isinstance(value, Secret) for value in self.headers.values())
        return secrets or self.tls is not None or self.basic_auth is not None or self.authorization is not None


class SentBody(Spec):
    """What is sent: exactly one of `json`, `form` and `body`. A header Content-Type says otherwise what it is."""

    json_: object = Field(default=None, alias="json")
    """Sent as JSON, as it stands here."""
    form: dict[str, str | Secret] | None = None
    """Sent as a browser sends a form."""
    body: str | Secret | None = None
    """Sent as text, in UTF-8; a secret when as a whole it is one."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(part is not None for part in (self.json_, self.form, self.body)) != 1:
            raise ValueError("nothing, or too much, says what is sent; give one of json, form and body")
        return self
