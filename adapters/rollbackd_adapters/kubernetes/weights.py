"""The weights of a route, and the share of its traffic that a canary gets. No I/O.

https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRouteDestination
https://gateway-api.sigs.k8s.io/guides/traffic-splitting/
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rollbackd.model import Release
from rollbackd_adapters.kubernetes.client import Object


class RouteKind(NamedTuple):
    """A kind of route: where it is in the API, and where its weights are."""

    group: str
    resource: str
    rules: str
    """In its spec."""
    destinations: str
    """In a rule."""


KINDS: Mapping[str, RouteKind] = {
    "virtualservice": RouteKind("networking.istio.io", "virtualservices", "http", "route"),
    "httproute": RouteKind("gateway.networking.k8s.io", "httproutes", "rules", "backendRefs"),
}
SHARE = re.compile(r"\d{1,3}(?:\.\d{1,2})?")
"""The id of a release."""
STABLE_ONLY = Release("0", "stable only")


class Split(NamedTuple):
    """How one rule of a route divides its traffic. Only the sum of its weights counts, which is not always 100."""

    place: str
    """Of the rule in the object, as RFC 6901 writes it."""
    rule: Object
    stable: tuple[str, int]
    """The place of the weight in the rule, and the weight."""
    canary: tuple[str, int]
    total: int

    @property
    def release(self) -> Release:
        """The canary's share of all traffic, in percent."""
        return self._share(self.canary[1])

    def weight_at(self, percent: int) -> int:
        """The canary's weight for a share; rounded down, since a canary only goes down."""
        return self.total * percent // 100

    def moved(self, weight: int) -> tuple[Release, list[dict[str, Any]]]:
        """The share with another weight of the canary, and the operations that give the rest to the stable one.

        The rule must be as it was read; all else in the object may be another one.
        """
        rest = self.stable[1] + self.canary[1] - weight
        return self._share(weight), [
            {"op": "test", "path": self.place, "value": self.rule},
            {"op": "add", "path": f"{self.place}/{self.stable[0]}", "value": rest},
            {"op": "add", "path": f"{self.place}/{self.canary[0]}", "value": weight},
        ]

    def _share(self, weight: int) -> Release:
        if not weight:
            return STABLE_ONLY
        text = f"{max(0.01, weight * 100 / self.total):.2f}".rstrip("0").rstrip(".")
        return Release(text, f"{text}% canary")


def split_of(route: Object, kind: RouteKind, rule: str, stable: str, canary: str) -> Split:
    """The split of the rule that sends traffic to both.

    :param rule: its name; empty: the only one.
    :raises ValueError: there is none, there are several, or it sends no traffic anywhere.
    """
    rules = (route.get("spec") or {}).get(kind.rules) or []
    found = [
        split
        for n, each in enumerate(rules)
        if (not rule or each.get("name") == rule) and (split := _split(each, n, kind, stable, canary)) is not None
    ]
    if len(found) != 1:
        named = f" called {rule}" if rule else ""
        counted = f"{len(found)} rules{named} that send" if found else f"no rule{named} that sends"
        raise ValueError(f"it has {counted} traffic to {stable} and {canary} once each")
    if not found[0].total:
        raise ValueError("all weights of its rule are 0, so it sends no traffic anywhere")
    return found[0]


def _split(rule: Object, n: int, kind: RouteKind, stable: str, canary: str) -> Split | None:
    weights: dict[str, list[tuple[str, int]]] = {}
    for m, destination in enumerate(rule.get(kind.destinations) or ()):
        default = 1 if kind.resource == "httproutes" else 0
        weight = destination.get("weight", default)
        place = f"{kind.destinations}/{m}/weight"
        weights.setdefault(_name(destination), []).append((place, weight if isinstance(weight, int) else 0))
    if len(weights.get(stable, ())) != 1 or len(weights.get(canary, ())) != 1:
        return None
    total = sum(weight for each in weights.values() for _, weight in each)
    return Split(f"/spec/{kind.rules}/{n}", rule, weights[stable][0], weights[canary][0], total)


def _name(destination: Object) -> str:
    """As the configuration writes it."""
    of = destination.get("destination")
    if of is None:
        return str(destination.get("name"))
    return f"{of.get('host')}:{of['subset']}" if of.get("subset") else str(of.get("host"))


def unaccepted(route: Object) -> str:
    """Why an HTTPRoute, as it is now, does not steer the traffic; empty when its gateways have taken it over."""
    generation = route["metadata"].get("generation")
    parents = (route.get("status") or {}).get("parents") or []
    for parent in parents:
        for kind in ("Accepted", "ResolvedRefs"):
            said: Object = next((each for each in parent.get("conditions") or () if each.get("type") == kind), {})
            name = (parent.get("parentRef") or {}).get("name")
            if said.get("observedGeneration") != generation:
                return f"gateway {name} has not seen it yet ({kind})"
            if said.get("status") != "True":
                return f"gateway {name} says {kind} is {said.get('status')}: {said.get('reason')} {said.get('message')}"
    return "" if parents else "no gateway has accepted it"
