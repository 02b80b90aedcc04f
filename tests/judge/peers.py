"""Models of what else takes releases back, by their published rules, on the same samples without any rollback.

A model acts once a deployment, or once a service; nobody checks a model's own errors of construction, so each is as
simple as its documentation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.judge.configurations import ALERTS, RATIO
from tests.judge.incident import MINUTE, Deploy, Incident
from tests.judge.play import Played, Rollback, course, fits
from tests.judge.promql import Evaluation, parse
from tests.judge.series import PACE, Flags, Floats, Found
from tests.judge.traffic import Traffic, Turn

_GROUP_WAIT = 30.0


class Watched:
    """An incident in which nobody goes back."""

    def __init__(self, incident: Incident, seed: Sequence[int]) -> None:
        self.incident = incident
        self.course = course(incident)
        turns: dict[tuple[str, str], list[Turn]] = {}
        for host in incident.hosts:
            for layer in host.layers:
                name = layer[0] if layer != "code" else "v"
                past = incident.past_deploys
                turns[host.name, layer] = [Turn(at, f"{name}{n + 2 - len(past)}") for n, at in enumerate(past)]
        self.deploys = [one for one in incident.deploys if not one.after_rollback]
        for one in sorted(self.deploys, key=lambda one: one.at):
            layer, _, release = one.release.partition("=")
            turns[one.service, layer].append(Turn(one.at, release, one.stagger, one.first))
        self.turns = turns
        traffic = Traffic(incident, seed, {key: tuple(each) for key, each in turns.items()}, self.course.until + 60)
        start = min([self.course.start, *(one.at for one in self.deploys if one.at > -MINUTE * 60)])
        self.at: Floats = np.arange(start, self.course.until, PACE)
        self._work = Evaluation(lambda name: traffic.metric(name, float(self.at[0])), self.at)

    def of(self, query: str) -> Found:
        """An expression at each time."""
        found = self._work.of(parse(query))
        assert isinstance(found, Found)
        return found

    def of_service(self, query: str, service: str, version: str = "") -> tuple[Floats, Flags]:
        """The series of a service, or of a version of it; where there is none, nothing is there."""
        found = self.of(query)
        for labels, values, there in zip(found.labels, found.values, found.there, strict=True):
            if labels["service"] == service and labels.get("version", version) == version:
                return values, there
        return np.zeros(len(self.at)), np.zeros(len(self.at), dtype=bool)

    def of_release(self, query: str, deploy: Deploy) -> tuple[Floats, Flags]:
        """What is measured of a release alone where its version is a label, else of its service since it came."""
        layer, _, release = deploy.release.partition("=")
        host = next(one for one in self.incident.hosts if one.name == deploy.service)
        versioned = host.versioned and layer == "code"
        return self.of_service(
            query.replace("LABELS", "service, version" if versioned else "service"),
            deploy.service,
            release if versioned else "",
        )

    def asked(self, deploy: Deploy, every: float) -> Iterator[int]:
        """The places of the times at which an analysis after a deployment asks, so often."""
        when = deploy.at + every
        while when < self.at[-1]:
            yield int(np.searchsorted(self.at, when))
            when += every

    def runs(self, service: str, at: float) -> str:
        """What each layer of a service runs, as LAYER=RELEASE, the newest first."""
        newest = [
            (turns[-1].at, layer, turns)
            for (name, layer), each in self.turns.items()
            if name == service
            for turns in [[turn for turn in each if turn.at <= at]]
        ]
        _, layer, turns = max(newest, key=lambda one: one[0])
        before = turns[-2].release if len(turns) > 1 else turns[-1].release
        return f"{layer}={turns[-1].release}>{layer}={before}"


Acts = Iterator[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A model."""

    name: str
    rule: str
    """What it does, with where that is published."""
    act: Callable[[Watched], Acts]

    def play(self, watched: Watched) -> Played:
        """What it makes of an incident."""
        made: list[Rollback] = []
        rights = [one for one in watched.incident.rights if not one.after_rollback]
        for at, service in self.act(watched):
            before, after = watched.runs(service, at).split(">")
            number = next(
                (
                    n
                    for n, one in enumerate(rights)
                    if fits(one, service, before, after) and one.harm <= at <= one.until
                ),
                None,
            )
            made.append(
                Rollback(at, service, before, after, number, at - rights[number].harm if number is not None else 0.0)
            )
        done = {one.right for one in made}
        return Played(tuple(made), tuple(n for n, one in enumerate(rights) if one.required and n not in done))


def _lasting(met: Flags, count: int) -> int | None:
    """The first place at which it was met so many times in a row."""
    row = 0
    for place, one in enumerate(met):
        row = row + 1 if one else 0
        if row >= count:
            return place
    return None


def _alert_executor(watched: Watched) -> Acts:
    for host in watched.incident.hosts:
        first = []
        for rule in ALERTS:
            values, there = watched.of_service(rule.query, host.name)
            place = _lasting(there & ~np.isnan(values), int(rule.waits / PACE) + 1)
            first += [float(watched.at[place]) + _GROUP_WAIT] if place is not None else []
        if first:
            yield min(first), host.name


def _fixed_window(watched: Watched) -> Acts:
    for host in watched.incident.hosts:
        values, there = watched.of_service(RATIO, host.name)
        with np.errstate(invalid="ignore"):
            place = _lasting(there & (values > 0.1), int(5 * MINUTE / PACE) + 1)
        if place is not None:
            yield float(watched.at[place]), host.name


_SUCCESS = (
    'sum by (LABELS) (rate(http_requests_total{code!~"5.."}[%s])) / sum by (LABELS) (rate(http_requests_total[%s]))'
)
_P99 = "histogram_quantile(0.99, sum by (LABELS, le) (rate(http_request_duration_seconds_bucket[1m])))"


def _flagger(watched: Watched) -> Acts:
    for deploy in watched.deploys:
        success, seen = watched.of_release(_SUCCESS % ("1m", "1m"), deploy)
        slow, slow_seen = watched.of_release(_P99, deploy)
        weight = failed = 0
        for place in watched.asked(deploy, MINUTE):
            if seen[place] and slow_seen[place] and success[place] >= 0.99 and slow[place] <= 0.5:
                weight += 10
            else:
                failed += 1
            if failed >= 5:
                yield float(watched.at[place]), deploy.service
            if failed >= 5 or weight > 50:
                break


def _argo_rollouts(watched: Watched) -> Acts:
    for deploy in watched.deploys:
        success, seen = watched.of_release(_SUCCESS % ("5m", "5m"), deploy)
        failed = 0
        for count, place in enumerate(watched.asked(deploy, 5 * MINUTE)):
            failed += not (seen[place] and success[place] >= 0.95)
            if failed > 3:
                yield float(watched.at[place]), deploy.service
            if failed > 3 or count >= 8:
                break


def _nomad(watched: Watched) -> Acts:
    for deploy in watched.deploys:
        found = watched.of("up")
        span = (watched.at >= deploy.at) & (watched.at < deploy.at + 5 * MINUTE)
        own = [
            values[span] * there[span]
            for labels, values, there in zip(found.labels, found.values, found.there, strict=True)
            if labels["service"] == deploy.service
        ]
        if span.any() and any(_lasting(one > 0, 2) is None for one in own):
            yield deploy.at + 5 * MINUTE, deploy.service


PEERS = (
    Peer(
        "alert executor",
        "takes the service of every critical alert back (5 % errors over 5m for 5m, p95 above 2 s for 5m, half of the "
        "instances down for 2m), as an automation behind Alertmanager's webhook does",
        _alert_executor,
    ),
    Peer("5m window", "takes a service back when 10 % fail over 5m for 5m, whatever else is so", _fixed_window),
    Peer(
        "Flagger's rule",
        "asks each minute after a deployment for 99 % success and a p99 of 500 ms over 1m; the fifth failed check goes "
        "back, five good ones more promote (docs.flagger.app, deployment strategies)",
        _flagger,
    ),
    Peer(
        "Argo Rollouts' rule",
        "asks every 5m during the 40 minutes of a rollout for 95 % success, failureLimit 3 (argo-rollouts.readthedocs.io"
        ", background analysis; rate in place of irate)",
        _argo_rollouts,
    ),
    Peer(
        "Nomad's auto_revert",
        "goes back when an instance is not healthy for 10 s within 5m of its deployment (developer.hashicorp.com, "
        "update block)",
        _nomad,
    ),
)
