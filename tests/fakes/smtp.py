"""A mail server for tests: aiosmtpd with STARTTLS or TLS and a password, its certificate made on the spot."""

import asyncio
import ssl
import subprocess
import warnings
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.authority import NEW_KEY

USER = "rollbackd"
PASSWORD = "correct horse battery"


@dataclass
class MailFake:
    """Takes mail for all but those it is told to refuse."""

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    """Who logged in, by mail; empty text for nobody."""
    wrong: list[str] = field(default_factory=list)
    answers: deque[str] = field(default_factory=deque)
    """What the next mails are answered instead of taking them: `451 try later`."""
    refused: dict[str, str] = field(default_factory=dict)
    """Recipient to answer."""
    port: int = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answers:
            return self.answers.popleft()
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.wrong += self.problems(mail, envelope.content)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        self.encrypted.append(server.transport is not None and bool(server.transport.get_extra_info("sslcontext")))
        self.users.append(USER if session.authenticated else "")
        return "250 taken"

    @staticmethod
    def problems(mail: EmailMessage, raw: bytes) -> list[str]:
        """What RFC 5322 asks for, both forms of the text, and beside it a drawing at most."""
        found = [
            f"no {name}" for name in ("From", "To", "Subject", "Date", "Message-ID", "References") if not mail[name]
        ]
        found += [f"two of {name}" for name in set(mail.keys()) if len(mail.get_all(name, [])) > 1]
        found += [f"a line of {len(line)} bytes" for line in raw.split(b"\r\n") if len(line) > 998]
        beside = list(mail.iter_attachments()) if mail.get_content_type() == "multipart/mixed" else []
        for part in beside:
            name, root = part.get_filename() or "", fromstring(part.get_content())
            if part.get_content_type() != "image/svg+xml" or not name.endswith(".svg") or not root.tag.endswith("}svg"):
                found.append(f"{name} beside it is no drawing")
        text = next(mail.iter_parts()) if beside else mail
        kinds = [part.get_content_type() for part in text.iter_parts()]
        return found + ([] if kinds == ["text/plain", "text/html"] and len(beside) < 2 else [f"parts are {kinds}"])


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", *NEW_KEY, "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return certificate, key


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=right)


@asynccontextmanager
async def serving_mail(
    fake: MailFake, certificate: tuple[Path, Path] | None, *, tls: bool = False, utf8: bool = False
) -> AsyncIterator[str]:
    """Serve it on 127.0.0.1; gives HOST:PORT. With a certificate a password is asked for, after STARTTLS unless `tls`."""
    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, certificate))
    loop = asyncio.get_running_loop()

    def make() -> SMTP:
        with warnings.catch_warnings():
            # aiosmtpd cannot see that the whole connection is encrypted, and warns of a password in the clear.
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
            return SMTP(
                fake,
                hostname="127.0.0.1",
                tls_context=None if tls else context,
                require_starttls=context is not None and not tls,
                auth_required=context is not None,
                auth_require_tls=not tls,
                authenticator=_authenticate,
                enable_SMTPUTF8=utf8,
                loop=loop,
            )

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=context if tls else None)
    try:
        fake.port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{fake.port}"
    finally:
        server.close()
        await server.wait_closed()
