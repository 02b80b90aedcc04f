"""Mail by SMTP, as text and HTML. All mails about one trouble refer to the same first Message-ID, as one thread.

https://aiosmtplib.readthedocs.io/
"""

import asyncio
import hashlib
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.message import EmailMessage
from email.policy import SMTP
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self

import aiosmtplib
from pydantic import Field, field_validator, model_validator

from rollbackd.adapter import DeliveryError, Message, NotifierSettings, PartlyDeliveredError
from rollbackd.notify.messages import plain_text
from rollbackd.notify.receivers.http_post import LIMIT, Sender, retrying
from rollbackd.syntax.connections import Tls
from rollbackd.syntax.units import Secret
from rollbackd.system.certificates import CertificateTrouble, tls_context

if TYPE_CHECKING:
    from jinja2 import Environment

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\x00-\x1f\x7f]+@[A-Za-z0-9.-]+")
_SERVER = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63})\.?):(?P<port>\d{1,5})"
)
_HELLO = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\]|\[IPv6:[0-9A-Fa-f:.]+\]")
_NAMED_WITHIN = 3.0
"""Seconds that our own name may take to look up."""
_FULL = frozenset({552, 554})
"""Answers about a mailbox or a policy of the moment, though they begin with 5."""
_FAREWELL = 2.0
"""Seconds that an answer to QUIT is waited for."""
_NOT_ASCII = 553
"""What such a recipient is refused with where the server does not offer SMTPUTF8 (RFC 6531); the others get theirs."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_TEXT = """\
{{ title }}

{% for heading, text in lines %}{% if heading %}{{ heading }}:
{{ text | indent(2, first=True) }}{% else %}{{ text }}{% endif %}

{% endfor %}{% if about %}-- 
{{ about }}
{% endif %}"""  # noqa: W291  # a signature begins with two hyphens and a space
_HTML = """\
<!DOCTYPE html>
<html><body style="font-family: sans-serif; max-width: 50em">
<h2 style="border-left: 6px solid {{ colour }}; padding-left: 10px">{{ title }}</h2>
<table cellpadding="6">
{% for heading, text in lines %}<tr>{% if heading %}\
<th align="left" valign="top" style="white-space: nowrap">{{ heading }}</th>{% endif %}\
<td style="white-space: pre-wrap; word-break: break-word">{{ text }}</td></tr>
{% endfor %}</table>
{% if about %}<p style="color: #666">{{ about }}</p>
{% endif %}</body></html>
"""
_COLOURS = {"info": "#2e7d32", "warning": "#ef6c00", "critical": "#c62828"}


class EmailSettings(NotifierSettings):
    """`{name: leads, email: {to: [a@example.com], from: rollbackd@example.com, smtp: mail.example.com:587}}`."""

    to: tuple[str, ...] = Field(min_length=1)
    from_: str = Field(alias="from")
    smtp: str
    """HOST:PORT."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` on port 587, `tls` on port 465; `none` only where nobody listens in."""
    tls: Tls | None = None
    """Certificates of its own: `ca`, `cert` and `key`. The server's is always verified."""
    hello: str = ""
    """The name that this host has in the greeting (EHLO); by default its own, where that has a domain."""
    username: str = ""
    password: Secret | None = None

    @field_validator("to", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("to", "from_")
    @classmethod
    def _addresses(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for address in (value,) if isinstance(value, str) else value:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f'"{plain_text.line(address, 60)}" is not an address; write it like leads@example.com')
        return value

    @field_validator("hello")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not _HELLO.fullmatch(value):
            raise ValueError(f'"{plain_text.line(value, 60)}" is not a host\'s name; write it like ops.example.com')
        return value

    @field_validator("smtp")
    @classmethod
    def _server(cls, value: str) -> str:
        found = _SERVER.fullmatch(value)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise ValueError(f'"{plain_text.line(value, 60)}" is not a mail server; write it like mail.example.com:587')
        return value

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if bool(self.username) != (self.password is not None):
            raise ValueError("`username` and `password` belong together; give both or none")
        if self.username and self.security == "none" and self.server[0] not in _LOOPBACK:
            raise ValueError("a password would go unencrypted; use `security: starttls` or `tls`")
        if self.tls is not None and self.security == "none":
            raise ValueError("`tls` says how to encrypt, and `security: none` not to; take one of them away")
        if self.tls is not None and self.tls.server_name:
            raise ValueError("mail has no `server_name`; write the name that the certificate has in `smtp`")
        return self

    @property
    def server(self) -> tuple[str, int]:
        found = _SERVER.fullmatch(self.smtp)
        assert found is not None
        return found["six"] or found["host"], int(found["port"])


class Email(Sender[EmailSettings]):
    """People who read mail."""

    settings_model = EmailSettings
    who = "email"
    shows_plots = True

    async def send(self, message: Message) -> None:
        wanted = message.recipients or self._settings.to
        try:
            async with asyncio.timeout(LIMIT):
                async for attempt in retrying(aiosmtplib.SMTPConnectError, 2, 0.5):
                    with attempt:
                        refused = await self._handed_over(mail(message, self._settings), wanted)
        except CertificateTrouble as error:
            raise DeliveryError(str(error), permanent=False) from None
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as error:
            raise _delivery_error(error, self._settings.smtp) from None
        if refused:
            raise self._refused(refused)

    def _refused(self, refused: Mapping[str, int]) -> DeliveryError:
        """That some recipients, or all, did not get it. The codes are of the server's answers to their addresses."""
        names = ", ".join(f"{plain_text.line(name, 100)} ({code})" for name, code in refused.items())
        text = f"{self._settings.smtp} takes no mail for {names}"
        left = [name for name, code in refused.items() if code < 500 or code in _FULL]
        if set(refused) >= set(self._settings.to):  # nobody has it
            return DeliveryError(text, permanent=not left)
        return PartlyDeliveredError(text, left=left, lost=[name for name in refused if name not in left])

    async def _handed_over(self, sent: EmailMessage, wanted: Sequence[str]) -> dict[str, int]:
        """Who of them was refused, by the code of the answer."""
        host, port = self._settings.server
        secret = self._settings.password
        password = self._revealed(secret) if secret is not None else None
        security = self._settings.security
        client = aiosmtplib.SMTP(
            local_hostname=self._settings.hello or await _own_name(),
            hostname=host,
            port=port,
            username=self._settings.username or None,
            password=password,
            use_tls=security == "tls",
            start_tls=security == "starttls",
            tls_context=await asyncio.to_thread(self._trusted) if security != "none" else None,
            timeout=12,
        )
        try:
            await client.connect()
            beyond = [name for name in wanted if not name.isascii()]
            if beyond and client.is_ehlo_or_helo_needed:
                with suppress(aiosmtplib.SMTPHeloError):
                    await client.ehlo()
            if client.supports_extension("smtputf8"):
                beyond = []
            refused = dict.fromkeys(beyond, _NOT_ASCII)
            if known := [name for name in wanted if name not in refused]:
                refused |= await self._taken(client, sent, known)
            with suppress(aiosmtplib.SMTPException, OSError):  # whatever is said now, it has the mail
                await client.quit(timeout=_FAREWELL)
        finally:
            client.close()
        return refused

    async def _taken(self, client: aiosmtplib.SMTP, sent: EmailMessage, wanted: Sequence[str]) -> dict[str, int]:
        try:
            refused, said = await client.send_message(sent, sender=self._settings.from_, recipients=list(wanted))
        except aiosmtplib.SMTPRecipientsRefused as error:
            return {one.recipient: one.code for one in error.recipients}
        self.said = plain_text.fit(said, 100)
        return {name: response.code for name, response in refused.items()}

    def _trusted(self) -> ssl.SSLContext:
        """What the server's certificate is checked by. :raises CertificateTrouble: a file cannot be used."""
        tls = self._settings.tls
        return ssl.create_default_context() if tls is None else tls_context(tls)


async def _own_name() -> str:
    """What we call ourselves to a server. Our name as it is where it has a domain, else as the resolver completes it.

    Looked up here, since aiosmtplib does so on the threads that file work needs, and for as long as it takes.
    """
    name = socket.gethostname()
    with suppress(OSError, UnicodeError):
        async with asyncio.timeout(0 if "." in name else _NAMED_WITHIN):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, flags=socket.AI_CANONNAME)
            name = next((str(one[3]) for one in found if "." in str(one[3])), name)
    return name if _HELLO.fullmatch(name) else "[127.0.0.1]"


@cache
def _templates(*, marked: bool) -> "Environment":
    """Imported with the first mail: most hosts send none, and it takes 3 MiB."""
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=marked, undefined=StrictUndefined, keep_trailing_newline=not marked)  # noqa: S701  # text


def mail(message: Message, settings: EmailSettings) -> EmailMessage:
    """The mail. Only the title and the event reach headers from outside, both on one line."""
    domain = settings.from_.rpartition("@")[2]
    parts = [str(part) for part in (message.priority, message.event, message.service, message.thread) if part]
    given = {
        "title": plain_text.line(message.headline),
        "lines": [
            (plain_text.line(heading), plain_text.paragraph(text, 4000)) for heading, text in message.lines[:100]
        ],
        "about": "" if message.own_words else plain_text.line(" · ".join(dict.fromkeys(parts))),
        "colour": _COLOURS[message.severity],
    }
    sent = EmailMessage(policy=SMTP)
    sent["From"] = settings.from_
    sent["To"] = ", ".join(settings.to)
    sent["Subject"] = plain_text.fit(message.headline, 250)
    sent["Date"] = message.at
    sent["Message-ID"] = _message_id("message", message.key, domain)
    root = _message_id("thread", message.thread, domain)
    sent["In-Reply-To"] = root
    sent["References"] = root
    sent["Auto-Submitted"] = "auto-generated"
    sent["X-Rollbackd-Event"] = plain_text.fit(message.event, 60)
    sent.set_content(_templates(marked=False).from_string(_TEXT).render(given))
    sent.add_alternative(_templates(marked=True).from_string(_HTML).render(given), subtype="html")
    if message.plot:  # a file beside the text: every browser opens SVG, and a PNG would need a library that draws
        name = f"{plain_text.fit(message.incident, 100)}.svg"
        sent.add_attachment(message.plot.encode(), maintype="image", subtype="svg+xml", filename=name)
    return sent


def _message_id(kind: str, text: str, domain: str) -> str:
    return f"<{kind}.{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:32]}@{domain}>"


def _delivery_error(error: Exception, server: str) -> DeliveryError:
    """The error as a receiver's. Only a refusal of the text itself is permanent: the same mail will get it again.

    A banner, a greeting, a password, a sender or a missing STARTTLS is about the server, where it can be mended.
    """
    if isinstance(error, aiosmtplib.SMTPResponseException):
        text = f"{server} answered {error.code}: {plain_text.fit(error.message, 200)}"
        return DeliveryError(text, permanent=isinstance(error, aiosmtplib.SMTPDataError) and error.code >= 500)
    if isinstance(error, TimeoutError):
        return DeliveryError(f"{server} did not answer in time", permanent=False)
    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return DeliveryError(
            f"{server} does not offer what it takes: {plain_text.fit(str(error), 200)}", permanent=False
        )
    return DeliveryError(f"{server} cannot be reached: {plain_text.fit(str(error), 200)}", permanent=False)
