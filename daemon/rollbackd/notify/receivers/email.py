"""Mail by SMTP, as text and HTML. All mails about one trouble refer to the same first Message-ID, as one thread.

https://aiosmtplib.readthedocs.io/
"""

import asyncio
import hashlib
import re
import ssl
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, Literal, Self

import aiosmtplib
from jinja2 import Environment, StrictUndefined
from pydantic import Field, field_validator, model_validator

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.notify.messages import plain_text
from rollbackd.notify.receivers.http_post import LIMIT, Sender, retrying
from rollbackd.syntax.units import Secret

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\x00-\x1f\x7f]+@[A-Za-z0-9.-]+")
_SERVER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_TEXT = """\
{{ title }}

{% for heading, text in lines %}{{ heading }}:
{{ text | indent(2, first=True) }}

{% endfor %}-- 
{{ about }}
"""  # noqa: W291  # a signature begins with two hyphens and a space
_HTML = """\
<!DOCTYPE html>
<html><body style="font-family: sans-serif; max-width: 50em">
<h2 style="border-left: 6px solid {{ colour }}; padding-left: 10px">{{ title }}</h2>
<table cellpadding="6">
{% for heading, text in lines %}<tr><th align="left" valign="top" style="white-space: nowrap">{{ heading }}</th>\
<td style="white-space: pre-wrap; word-break: break-word">{{ text }}</td></tr>
{% endfor %}</table>
<p style="color: #666">{{ about }}</p>
</body></html>
"""
_COLOURS = {"info": "#2e7d32", "warning": "#ef6c00", "critical": "#c62828"}
_PLAIN = Environment(autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701  # text
_MARKED = Environment(autoescape=True, undefined=StrictUndefined)


class EmailSettings(NotifierSettings):
    """`{name: leads, email: {to: [a@example.com], from: rollbackd@example.com, smtp: mail.example.com:587}}`."""

    to: tuple[str, ...] = Field(min_length=1)
    from_: str = Field(alias="from")
    smtp: str
    """HOST:PORT."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` on port 587, `tls` on port 465; `none` only where nobody listens in."""
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

    async def send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                async for attempt in retrying(aiosmtplib.SMTPConnectError, 2, 0.5):
                    with attempt:
                        refused = await self._handed_over(mail(message, self._settings))
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as error:
            raise _delivery_error(error, self._settings.smtp) from None
        if refused:
            code = max(response.code for response in refused.values())
            names = ", ".join(plain_text.line(name, 100) for name in refused)
            raise DeliveryError(f"{self._settings.smtp} did not take it for {names} ({code})", permanent=code >= 500)

    async def _handed_over(self, sent: EmailMessage) -> dict[str, Any]:
        host, port = self._settings.server
        secret = self._settings.password
        password = self._revealed(secret) if secret is not None else None
        security = self._settings.security
        answer = await aiosmtplib.send(
            sent,
            sender=self._settings.from_,
            recipients=list(self._settings.to),
            hostname=host,
            port=port,
            username=self._settings.username or None,
            password=password,
            use_tls=security == "tls",
            start_tls=security == "starttls",
            tls_context=ssl.create_default_context() if security != "none" else None,
            timeout=12,
        )
        return dict(answer[0])


def mail(message: Message, settings: EmailSettings) -> EmailMessage:
    """The mail. Only the title and the event reach headers from outside, both on one line."""
    domain = settings.from_.rpartition("@")[2]
    parts = [str(part) for part in (message.priority, message.event, message.service, message.thread) if part]
    given = {
        "title": plain_text.line(message.title),
        "lines": [
            (plain_text.line(heading), plain_text.paragraph(text, 4000)) for heading, text in message.lines[:100]
        ],
        "about": plain_text.line(" · ".join(dict.fromkeys(parts))),
        "colour": _COLOURS[message.severity],
    }
    sent = EmailMessage(policy=SMTP)
    sent["From"] = settings.from_
    sent["To"] = ", ".join(settings.to)
    sent["Subject"] = plain_text.fit(f"[rollbackd] {message.title}", 250)
    sent["Date"] = message.at
    sent["Message-ID"] = _message_id("message", message.key, domain)
    root = _message_id("thread", message.thread, domain)
    sent["In-Reply-To"] = root
    sent["References"] = root
    sent["Auto-Submitted"] = "auto-generated"
    sent["X-Rollbackd-Event"] = plain_text.fit(message.event, 60)
    sent.set_content(_PLAIN.from_string(_TEXT).render(given))
    sent.add_alternative(_MARKED.from_string(_HTML).render(given), subtype="html")
    return sent


def _message_id(kind: str, text: str, domain: str) -> str:
    return f"<{kind}.{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:32]}@{domain}>"


def _delivery_error(error: Exception, server: str) -> DeliveryError:
    """The error as a receiver's. A 4xx of SMTP is transient, a 5xx permanent; TLS and the network may come back."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        worst = max((refused.code for refused in error.recipients), default=450)
        names = ", ".join(plain_text.line(refused.recipient, 100) for refused in error.recipients)
        return DeliveryError(f"{server} takes no mail for {names} ({worst})", permanent=worst >= 500)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        text = f"{server} answered {error.code}: {plain_text.fit(error.message, 200)}"
        return DeliveryError(text, permanent=error.code >= 500)
    if isinstance(error, TimeoutError):
        return DeliveryError(f"{server} did not answer in time", permanent=False)
    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return DeliveryError(f"{server} does not offer what `security` asks for", permanent=True)
    return DeliveryError(f"{server} cannot be reached: {plain_text.fit(str(error), 200)}", permanent=False)
