"""What is done to the daemon, each in a thread of its own until the end."""

import gzip
import itertools
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.attack.far_side import SLOW
from tests.e2e.toy import Toy

_GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "gc.auto=0")
MEANT = "ROLLBACK.repo"
"""The one file that somebody means."""
_CONNECTIONS = 1100
_FILES = 3000
_BOMB = gzip.compress(b" " * 2**29)
_NOW = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
_ALERT = '{"status":"firing","labels":{"alertname":"Sick","service":"crowd","n":"%s"},"startsAt":"NOW"}'.replace(
    "NOW", _NOW
)


class Attack:
    """One kind of attack, and what came of it."""

    def __init__(self, name: str, shop: Toy, over: threading.Event) -> None:
        self.name = name
        self.shop = shop
        self.over = over
        self.sent = 0
        self.answers: Counter[str] = Counter()
        self.accepted = 0
        """Alerts that the daemon said it took."""

    def post(self, body: bytes, *, path: str = "alerts", method: str = "POST", **headers: str) -> None:
        """One request; its status is counted."""
        self.sent += 1
        url = f"http://127.0.0.1:{self.shop.port}/api/v1/{path}"
        request = urllib.request.Request(url, body, {**self.shop.headers, **headers}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.answers[str(answer.status)] += 1
                self.accepted += int(json.load(answer).get("accepted", 0))
        except urllib.error.HTTPError as error:
            with error:
                self.answers[str(error.code)] += 1
        except (OSError, ValueError):
            self.answers["hung up"] += 1


def bombs(attack: Attack) -> None:
    """Half a gigabyte in half a megabyte, by somebody who may post and by somebody who may not."""
    for number in itertools.count():
        if attack.over.is_set():
            return
        who = {} if number % 2 else {"Authorization": "Bearer nobody"}
        attack.post(_BOMB, **{"Content-Encoding": "gzip"}, **who)


def floods(attack: Attack) -> None:
    """Bodies of ten thousand alerts, of far too many, of one label that is a book."""
    for number in itertools.count():
        if attack.over.wait(1):
            return
        count = 220_000 if number % 3 == 1 else 2_000
        one = "x" * (31 * 2**20) if number % 3 == 2 else ""
        names = [one] if one else (f"{number}-{place}" for place in range(count))
        attack.post(('{"version":"4","alerts":[' + ",".join(_ALERT % name for name in names) + "]}").encode())


def connections(attack: Attack) -> None:
    """More connections than there may be open files, each with half a request, opened again when they are closed."""
    held: list[socket.socket] = []
    said = (b"", b"POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    while not attack.over.is_set():
        with suppress(OSError):
            one = socket.create_connection(("127.0.0.1", attack.shop.port), timeout=2)
            one.setblocking(False)
            with suppress(OSError):
                one.send(said[attack.sent % len(said)])
            held.append(one)
            attack.sent += 1
        if len(held) > _CONNECTIONS:
            held.pop(0).close()
        else:
            continue
        attack.over.wait(0.01)
    for one in held:
        one.close()


def signal_files(attack: Attack) -> None:
    """Thousands of files that order something of services that are not there, of odd names, of nothing."""
    while not attack.over.wait(1):
        for number in range(_FILES):
            attack.sent += 1
            name = (f"ROLLBACK.nobody{number}", f"HOLD.{os.urandom(8).hex()}", f"x{number}")[number % 3]
            with suppress(OSError):
                (attack.shop.signals / name).touch()
        attack.over.wait(3)
        for path in list(attack.shop.signals.iterdir()):
            if path.name != MEANT:
                with suppress(OSError):
                    path.unlink()


def labels(attack: Attack) -> None:
    """Alerts with a label that a backtracking engine would look at for ever."""
    while not attack.over.wait(0.2):
        attack.post(('{"version":"4","alerts":[' + _ALERT % SLOW + "]}").encode())


def noise(attack: Attack) -> None:
    """Bytes that are no HTTP, on the port and on the socket."""
    places = ((socket.AF_INET, ("127.0.0.1", attack.shop.port)), (socket.AF_UNIX, str(attack.shop.root / "socket")))
    while not attack.over.wait(0.02):
        family, address = places[attack.sent % 2]
        attack.sent += 1
        with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as wire:
            wire.settimeout(2)
            wire.connect(address)
            wire.sendall(os.urandom(4000))


def forged_copies(attack: Attack) -> None:
    """What is no copy, sent to be taken in."""
    while not attack.over.wait(1):
        for body in (os.urandom(2**20), gzip.compress(b"\0" * 2**26), b""):
            path = "services/kept/snapshots/file?layer=etc"
            attack.post(body, path=path, method="PUT", **{"Content-Type": "application/octet-stream"})


def odd_history(attack: Attack) -> None:
    """Tags in the year 3170843, subjects of a megabyte, refs called HEAD, in the repository that goes back."""
    repo = attack.shop.root / "repo"
    for number in itertools.count():
        if attack.over.wait(0.5):
            return
        attack.sent += 1
        with suppress(subprocess.SubprocessError, OSError):
            _odd(repo, number)


def _odd(repo: Path, number: int) -> None:
    def git(*arguments: str, said: str = "") -> str:
        done = subprocess.run(
            [*_GIT, *arguments], cwd=repo, input=said, capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    tree = git("rev-parse", "HEAD^{tree}")
    year = "99999999999999 +0000"
    header = f"tree {tree}\nauthor x <x> {year}\ncommitter x <x> {year}\n\n"
    commit = git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", said=header + "s" * 2**20)
    for ref in (f"refs/tags/odd-{number}", "refs/heads/HEAD", "refs/tags/HEAD", f"refs/tags/{commit}"):
        git("update-ref", ref, commit)


ATTACKS: tuple[tuple[str, Callable[[Attack], None]], ...] = (
    ("bombs", bombs),
    ("floods of alerts", floods),
    ("idle connections", connections),
    ("crowds of signal files", signal_files),
    ("labels for slow expressions", labels),
    ("noise", noise),
    ("forged copies", forged_copies),
    ("odd history of git", odd_history),
)
