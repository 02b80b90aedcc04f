"""Where Alertmanager's own configuration leads an alert to. No I/O.

https://prometheus.io/docs/alerting/latest/configuration/#route
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rollbackd.config.positions import Document
from rollbackd.rules.matchers import Matcher, parse_matchers

PATH = "/api/v1/alerts"
"""Where rollbackd takes alerts."""
_HIDDEN = "<secret>"
_DEEPEST = 50


@dataclass(frozen=True, slots=True)
class _Route:
    matchers: tuple[Matcher, ...]
    receiver: str
    goes_on: bool
    routes: tuple["_Route", ...]

    def led(self, labels: Mapping[str, str]) -> set[str]:
        """The receivers of an alert that this route takes."""
        found: set[str] = set()
        for route in self.routes:
            if all(one.matches(labels) for one in route.matchers):
                found |= route.led(labels)
                if not route.goes_on:
                    break
        return found or {self.receiver}


@dataclass(frozen=True, slots=True)
class Routing:
    """A tree of routes, and where receivers post to."""

    root: _Route
    posts: Mapping[str, tuple[str, ...]]
    """Each receiver with the addresses of its webhooks."""
    ends_unsent: frozenset[str]
    """Receivers that do not hear of an alert's end."""

    def receivers(self, labels: Mapping[str, str]) -> frozenset[str]:
        """Who is told of an alert with these labels."""
        return frozenset(self.root.led(labels))

    def posting_to(self, listen: str) -> frozenset[str]:
        """The receivers whose webhook has our path and our port, by whatever name it knows this host."""
        port = listen.rpartition(":")[2]
        return frozenset(name for name, urls in self.posts.items() if any(_is_ours(url, port) for url in urls))

    @property
    def hidden(self) -> frozenset[str]:
        """The receivers that post to where Alertmanager does not show."""
        return frozenset(name for name, urls in self.posts.items() if _HIDDEN in urls)


def _is_ours(url: str, port: str) -> bool:
    try:
        parts = urlsplit(url)
        known = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return False
    # A proxy in front of us has another port; our path is rarely anybody else's.
    return parts.path.rstrip("/").endswith(PATH) and (str(known) == port or known in {80, 443})


def routing_of(text: str) -> Routing:
    """The routing of a configuration as Alertmanager shows it. :raises ValueError: it is none."""
    read = Document(text, "Alertmanager's configuration")
    if read.faults:
        raise ValueError(str(read.faults[0]))
    document: Any = read.data
    try:
        receivers = {str(one["name"]): one.get("webhook_configs") or [] for one in document["receivers"]}
        posts = {
            name: tuple(str(hook.get("url") or (_HIDDEN if "url_file" in hook else "")) for hook in hooks)
            for name, hooks in receivers.items()
        }
        unsent = {name for name, hooks in receivers.items() if hooks and not any(map(_sends_ends, hooks))}
        return Routing(_route(document["route"], "", 0), posts, frozenset(unsent))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its configuration cannot be read ({type(error).__name__})") from error


def _sends_ends(hook: Mapping[str, object]) -> bool:
    return bool(hook.get("send_resolved", True))


def _route(written: Mapping[str, Any], receiver: str, depth: int) -> _Route:
    if depth > _DEEPEST:
        raise ValueError(f"its routes are nested deeper than {_DEEPEST} levels")
    own = str(written.get("receiver") or receiver)
    matchers = [one for text in written.get("matchers") or () for one in parse_matchers(str(text))]
    matchers += [Matcher(str(name), "=", str(value)) for name, value in (written.get("match") or {}).items()]
    matchers += [Matcher(str(name), "=~", str(value)) for name, value in (written.get("match_re") or {}).items()]
    routes = tuple(_route(one, own, depth + 1) for one in written.get("routes") or ())
    return _Route(tuple(matchers), own, bool(written.get("continue")), routes)
