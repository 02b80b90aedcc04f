"""One HTTP request of an adapter: bounded in time and size, never led to another host, secrets in headers alone.

A connection is made for each request and closed after it: one kept from before a release ends with the old process.
Certificates are always verified, and the environment's proxies are not used.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, model_validator

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Change
from rollbackd.syntax import json_path
from rollbackd.syntax.addresses import is_url
from rollbackd.syntax.connections import ConnectionSettings, SentBody
from rollbackd.syntax.units import format_duration, show
from rollbackd.system import http_client
from rollbackd.system.boundary import boundary
from rollbackd.system.certificates import tls_context
from rollbackd.system.http_body import encoded
from rollbackd.system.http_client import HttpError
from rollbackd.system.http_connection import HttpConnection, connection_of, masked, overlaid
from rollbackd.system.spawner import one_line
from rollbackd_adapters.ids import incident_of

LARGEST = 2**20
"""Bytes of an answer to a question; a longer one is an error, since half of a document says nothing."""
WORDS = frozenset({"service", "layer", "incident", "key", "before", "after"})
"""What `{…}` in a URL, a body or a header may name. All come from the journal, none from an alert."""

_QUOTED = 2048
"""Bytes of a refusal that are kept as evidence."""
_REDIRECTS = 3
_CONFLICT = 409
"""A refusal that passes, of an order: it conflicts with what runs just now."""
_WORD = re.compile(r"\{([A-Za-z_]+)\}")


def usable_url(text: str) -> str:
    """The text, when it is a URL that can be asked. :raises ValueError: it is none."""
    if not is_url(text) or not text.isprintable():
        raise ValueError(f"{show(text)} is not a URL that can be asked; write it like https://ci.example/api/rollback")
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "a URL with a user or password in it is shown; give `basic_auth`, or send a header from a secret"
        )
    if _WORD.search(parts.netloc):
        raise ValueError(f"{show(text)}: the host is fixed by the configuration; only what follows it may have {{…}}")
    return text


Url = Annotated[str, AfterValidator(usable_url)]
"""Where a request goes; its path and query may have `{service}` and the other words."""


class Question(ConnectionSettings):
    """A request that only reads."""

    url: Url
    send: SentBody | None = None
    """A body; a question that has one is asked by POST. `{service}` and the other words are filled into `json` and
    `form`, and not into `body`, which has no structure that would keep them apart."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        plain = [value for value in self.headers.values() if isinstance(value, str)]
        # those in its depths too, and its keys
        sent = None if self.send is None else (self.send.json_, self.send.form)
        texts = repr([self.url, plain, getattr(self, "body", None), sent])
        for word in sorted(set(_WORD.findall(texts)) - WORDS):
            raise ValueError(f"{{{word}}} is not known here; there is {', '.join(sorted(WORDS))}")
        return self

    @property
    def asks_by(self) -> str:
        """The method."""
        return "GET" if self.send is None else "POST"


class Call(Question):
    """A request that does something."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: Any = None
    """Sent as JSON, as it stands here: in short for `send: {json: …}`. None: no body."""

    @property
    def asks_by(self) -> str:
        return self.method

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.body is not None and self.send is not None:
            raise ValueError("`body` and `send` both say what is sent; give one of them")
        if self.send is not None and self.method == "GET":
            raise ValueError("what is sent needs another method; write POST, PUT, PATCH or DELETE")
        return self


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What came back, whatever its status."""

    status: int
    body: bytes
    where: str
    """Method and address, without the query: for messages."""
    clean: Callable[[str], str] = str
    """Takes secrets out: whoever answers may send back what they were sent."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> object:
        """The body as JSON. :raises AdapterError: not permanent, when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            start = self.quoted(self.body[:_QUOTED].decode(errors="replace"))
            raise AdapterError(f"{self.where}: the answer is not JSON: {start}", permanent=False) from None

    def at(self, path: str) -> object:
        """What its JSON document has at a path. :raises AdapterError: not permanent, when nothing is there."""
        try:
            return json_path.at(self.json(), path)
        except ValueError as error:
            raise AdapterError(f"{self.where}: {error}", permanent=False) from None

    def quoted(self, text: str) -> str:
        """A part of it, for a message: cut off only when no secret is in it any more."""
        return show(one_line(self.clean(text)))


def words_of(place: Place, key: str = "", change: Change | None = None) -> dict[str, str]:
    """What `{…}` stands for; `before` and `after` only for a change, `incident` and `key` empty for a look."""
    key = change.key if change is not None else key
    known = {"service": place.service, "layer": place.layer, "incident": incident_of(key), "key": key}
    given = {"before": "", "after": ""} if change is None else {"before": change.before.id, "after": change.after.id}
    return known | given


async def ask(question: Question, place: Place, words: Mapping[str, str], timeout: timedelta) -> HttpReply:
    """Read; redirects are followed while they stay on the host. Any answer of at most `LARGEST` bytes is given back.

    :raises AdapterError: nothing or too much was answered; permanent only when the same cannot be asked.
    """
    return await _send(question, place, words, timeout, {})


async def call(
    call: Call, place: Place, words: Mapping[str, str], timeout: timedelta, *, headers: Mapping[str, str] | None = None
) -> HttpReply:
    """Send the request once: no redirect is followed, nothing is repeated. Without an answer it may have been done.

    :param headers: more of them, such as an idempotency key.
    :raises AdapterError: as `ask`.
    """
    boundary("web.call")
    answer = await _send(call, place, words, timeout, headers or {})
    boundary("web.called")
    return answer


async def prepare(question: Question, place: Place) -> HttpConnection:
    """What a request would need, without sending it: for `ready`.

    :raises AdapterError: a secret or a certificate cannot be read; not permanent, since it may be put right.
    """
    connection, *_ = _prepared(question, place, words_of(place), where_of(question))
    if connection.tls is not None:
        try:
            await asyncio.to_thread(tls_context, connection.tls)
        except ValueError as error:
            raise AdapterError(f"{where_of(question)}: {error}", permanent=False) from None
    return connection


async def unprepared(place: Place, *questions: Question | None) -> list[str]:
    """Why some of them could not be sent, whoever is there to hear them: for `ready`."""
    found: list[str] = []
    for question in filter(None, questions):
        try:
            await prepare(question, place)
        except AdapterError as error:
            found.append(str(error))
    return found


def where_of(question: Question, words: Mapping[str, str] | None = None) -> str:
    """Method and address, without the query: for messages."""
    parts = urlsplit(question.url if words is None else _in_url(question.url, words))
    return one_line(f"{question.asks_by} {parts.scheme}://{parts.netloc}{parts.path}")


def accepted(answer: HttpReply, place: Place) -> HttpReply:
    """The answer when it is a 2xx.

    :raises AdapterError: for any other; permanent when the same request will be refused again.
    """
    if answer.ok:
        return answer
    said = place.spawner.clean(answer.clean(answer.body[: 2 * _QUOTED].decode(errors="replace")))[:_QUOTED]
    permanent = not (http_client.is_transient(answer.status) or answer.status == _CONFLICT)
    hint = "; a redirect is not followed, write the URL that it leads to" if answer.status in http_client.MOVED else ""
    raise AdapterError(f"{answer.where} answered {answer.status}{hint}", permanent=permanent, evidence=said)


async def _send(
    question: Question, place: Place, words: Mapping[str, str], timeout: timedelta, more: Mapping[str, str]
) -> HttpReply:
    asked = not isinstance(question, Call)
    url = _in_url(question.url, words)
    method, where = question.asks_by, where_of(question, words)
    connection, headers, data, secrets = _prepared(question, place, words, where)

    def clean(text: str) -> str:
        return str(place.spawner.clean(masked(text, (*connection.secrets, *secrets))))

    headers = overlaid(headers, more)
    try:
        async with asyncio.timeout(timeout.total_seconds()), http_client.lone_session() as session:
            for _ in range(_REDIRECTS + 1):
                sent = http_client.http_answer(
                    session, method, url, limit=timeout, headers=headers, body=data, connection=connection
                )
                async with sent as answer:
                    said, whole = await http_client.body_of(answer, LARGEST, to_the_end=not asked)
                if asked and not whole:
                    raise AdapterError(f"{where}: the answer is longer than {LARGEST // 2**20} MiB", permanent=False)
                onward = http_client.onward(url, answer) if method == "GET" and asked else ""
                if not onward:
                    return HttpReply(answer.status, said[:LARGEST], where, clean)
                url = onward
    except TimeoutError:
        raise AdapterError(f"{where}: no answer within {format_duration(timeout)}", permanent=False) from None
    except HttpError as failed:
        raise AdapterError(f"{where}: {failed}", permanent=not failed.transient) from None
    raise AdapterError(f"{where}: more than {_REDIRECTS} redirects; write the URL that answers", permanent=True)


def _prepared(
    question: Question, place: Place, words: Mapping[str, str], where: str
) -> tuple[HttpConnection, Mapping[str, str], bytes | None, tuple[str, ...]]:
    """How it is sent, its headers, its body, and the secrets in that.

    :raises AdapterError: a secret cannot be read or does not fit; not permanent, since it may be put right.
    """
    body = question.send
    if isinstance(question, Call) and question.body is not None:
        body = SentBody(json_=question.body)
    if body is not None:
        body = SentBody(json_=_filled(body.json_, words), form=_filled(body.form, words), body=body.body)
    try:
        connection = connection_of(question, place.reveal, lambda text: str(_filled(text, words)))
        data, kind, secrets = encoded(body, place.reveal)
    except (ValueError, OSError) as error:
        named = ": ".join([where, *getattr(error, "__notes__", ()), str(error)])
        raise AdapterError(named, permanent=False) from None
    return connection, overlaid({"User-Agent": "rollbackd", **kind}, connection.headers), data, secrets


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """The structure with its words filled in; as values, so that no word can add to the structure."""
    match value:
        case str():
            return _WORD.sub(lambda found: words.get(found[1], ""), value)
        case Mapping():
            return {_filled(key, words): _filled(item, words) for key, item in value.items()}
        case list() | tuple():
            return [_filled(item, words) for item in value]
        case _:
            return value


def _in_url(url: str, words: Mapping[str, str]) -> str:
    """Each word percent-encoded, slashes too, so that none can reach another path.

    :raises AdapterError: permanent, for a word of only dots: encoded or not, it leads a path upwards.
    """
    for name in _WORD.findall(url):
        if (word := words.get(name, "")) and not word.strip("."):
            raise AdapterError(f"{{{name}}} is {show(word)}, which cannot be part of a URL", permanent=True)
    return _WORD.sub(lambda found: quote(words.get(found[1], ""), safe=""), url)
