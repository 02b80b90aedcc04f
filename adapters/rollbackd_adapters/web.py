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
from rollbackd.syntax.units import Secret, Spec, format_duration, show
from rollbackd.system import http_client
from rollbackd.system.boundary import boundary
from rollbackd.system.http_client import HttpError, breaks_line
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
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _url(text: str) -> str:
    if not is_url(text) or not text.isprintable():
        raise ValueError(f"{show(text)} is not a URL that can be asked; write it like https://ci.example/api/rollback")
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or password in it is shown in messages; send a header from a secret")
    if _WORD.search(parts.netloc):
        raise ValueError(f"{show(text)}: the host is fixed by the configuration; only what follows it may have {{…}}")
    return text


Url = Annotated[str, AfterValidator(_url)]
"""Where a request goes; its path and query may have `{service}` and the other words."""


class Question(Spec):
    """A request that only reads."""

    url: Url
    headers: dict[str, str | Secret] = {}
    """Beside the usual ones; a token is a secret: `{Authorization: {credential: NAME}}`, with its `Bearer `."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for name, value in self.headers.items():
            if _HEADER.fullmatch(name) is None:
                raise ValueError(f"{show(name)} is not the name of a header; write it like X-Api-Key")
            if isinstance(value, str) and breaks_line(value):
                raise ValueError(f"header {name} has a line break in it; write it on one line")
        plain = [value for value in self.headers.values() if isinstance(value, str)]
        texts = repr([self.url, plain, getattr(self, "body", None)])  # those in its depths too, and its keys
        for word in sorted(set(_WORD.findall(texts)) - WORDS):
            raise ValueError(f"{{{word}}} is not known here; there is {', '.join(sorted(WORDS))}")
        return self


class Call(Question):
    """A request that does something."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    body: Any = None
    """Sent as JSON, as it stands here; `{service}` and the other words in its texts are filled in. None: no body."""


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


def accepted(answer: HttpReply, place: Place) -> HttpReply:
    """The answer when it is a 2xx.

    :raises AdapterError: for any other; permanent when the same request will be refused again.
    """
    if answer.ok:
        return answer
    said = place.spawner.clean(answer.body[: 2 * _QUOTED].decode(errors="replace"))[:_QUOTED]
    permanent = not (http_client.is_transient(answer.status) or answer.status == _CONFLICT)
    hint = "; a redirect is not followed, write the URL that it leads to" if answer.status in http_client.MOVED else ""
    raise AdapterError(f"{answer.where} answered {answer.status}{hint}", permanent=permanent, evidence=said)


async def _send(
    question: Question, place: Place, words: Mapping[str, str], timeout: timedelta, more: Mapping[str, str]
) -> HttpReply:
    asked = not isinstance(question, Call)
    method, body = (question.method, question.body) if isinstance(question, Call) else ("GET", None)
    data = None if body is None else json.dumps(_filled(body, words)).encode()
    kind = {} if data is None else {"Content-Type": "application/json"}
    url = _in_url(question.url, words)
    parts = urlsplit(url)
    where = one_line(f"{method} {parts.scheme}://{parts.netloc}{parts.path}")
    headers = {**_headers(question, place, words, where), **kind, **more}
    try:
        async with asyncio.timeout(timeout.total_seconds()), http_client.lone_session() as session:
            for _ in range(_REDIRECTS + 1):
                sent = http_client.http_answer(session, method, url, limit=timeout, headers=headers, body=data)
                async with sent as answer:
                    said, whole = await http_client.body_of(answer, LARGEST, to_the_end=not asked)
                if asked and not whole:
                    raise AdapterError(f"{where}: the answer is longer than {LARGEST // 2**20} MiB", permanent=False)
                onward = http_client.onward(url, answer) if asked else ""
                if not onward:
                    return HttpReply(answer.status, said[:LARGEST], where, place.spawner.clean)
                url = onward
    except TimeoutError:
        raise AdapterError(f"{where}: no answer within {format_duration(timeout)}", permanent=False) from None
    except HttpError as failed:
        raise AdapterError(f"{where}: {failed}", permanent=not failed.transient) from None
    raise AdapterError(f"{where}: more than {_REDIRECTS} redirects; write the URL that answers", permanent=True)


def _headers(question: Question, place: Place, words: Mapping[str, str], where: str) -> dict[str, str]:
    """:raises AdapterError: a secret cannot be read; not permanent, since it may be put right."""
    made = {"User-Agent": "rollbackd"}
    for name, value in question.headers.items():
        try:
            text = place.reveal(value) if isinstance(value, Secret) else _filled(value, words)
        except (ValueError, OSError) as error:
            raise AdapterError(f"{where}: header {name}: {error}", permanent=False) from None
        if breaks_line(text):
            raise AdapterError(f"{where}: header {name} has a line break in it; write it on one line", permanent=True)
        made[name] = text
    return made


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
