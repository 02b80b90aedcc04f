"""What is sent with a request, as bytes."""

import json
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from rollbackd.syntax.connections import SentBody
from rollbackd.syntax.units import Secret


def encoded(
    sent: SentBody | None, reveal: Callable[[Secret], str]
) -> tuple[bytes | None, Mapping[str, str], tuple[str, ...]]:
    """The body, the header that says what it is, and the secrets that are in it.

    :raises ValueError: OSError: a secret cannot be read.
    """
    secrets: list[str] = []

    def text(value: str | Secret) -> str:
        if isinstance(value, Secret):
            secrets.append(reveal(value))
            return secrets[-1]
        return value

    if sent is None:
        return None, {}, ()
    if sent.form is not None:
        body, kind = urlencode([(n, text(v)) for n, v in sent.form.items()]), "application/x-www-form-urlencoded"
    elif sent.body is not None:
        body, kind = text(sent.body), "text/plain; charset=utf-8"
    else:
        body, kind = json.dumps(sent.json_), "application/json"
    return body.encode(), {"Content-Type": kind}, tuple(secrets)
