"""People who answer what rollbackd asks: with a token by HTTP, or as this process's user on the socket."""

import http.client
import json
import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.town import Town


@dataclass(frozen=True)
class Person:
    """Somebody who may give orders to a town's rollbackd."""

    actor: str
    town: Town
    token: str = ""
    """Empty: through the socket."""

    def says(self, word: str, incident: str, reason: str = "") -> dict[str, Any]:
        """`approve` or `deny`, taken."""
        return self.order(f"incidents/{incident}/{word}", reason=reason)

    def refused(self, word: str, incident: str) -> str:
        """The sentence with which it is not taken."""
        status, body = self._send(f"incidents/{incident}/{word}", {})
        assert status == 409, body
        return str(body["detail"])

    def order(self, path: str, **body: Any) -> dict[str, Any]:
        """A POST that must be taken."""
        status, found = self._send(path, body)
        assert status < 300, found
        return dict(found)

    def _send(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        connection: http.client.HTTPConnection = _Socket(self.town.root / "socket")
        headers = {"Content-Type": "application/json"}
        if self.token:
            connection = http.client.HTTPConnection(urlsplit(self.town.api).netloc, timeout=30)
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.load(answer)
        finally:
            connection.close()


class _Socket(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("rollbackd", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def here(town: Town) -> Person:
    """This process's user."""
    return Person(f"unix:{pwd.getpwuid(os.getuid()).pw_name}", town)


def tokens(town: Town, *names: str) -> tuple[list[dict[str, Any]], list[Person]]:
    """The configuration's `daemon.tokens` of operators by these names, and the people."""
    listed, people = [], []
    for name in names:
        path = town.root / f"token-{name}"
        path.write_text(f"the secret of {name}")
        path.chmod(0o600)
        listed.append({"name": name, "role": "operator", "token": {"file": str(path)}})
        people.append(Person(f"token:{name}", town, path.read_text()))
    return listed, people
