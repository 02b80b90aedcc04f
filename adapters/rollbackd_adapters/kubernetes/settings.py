"""What the configuration says about a layer of adapter `kubernetes`. No I/O."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, OneOrMany, Ref, show
from rollbackd_adapters.web import usable_url

_NAME = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_LONGEST_NAME = 253
NAMESPACE = rf"^{_NAME}$"
_WORKLOAD = re.compile(rf"(?P<kind>deployment|statefulset|daemonset)/(?P<name>{_NAME}(?:\.{_NAME})*)")
_SCALABLE = re.compile(rf"(?P<kind>deployment|statefulset|cronjob)/(?P<name>{_NAME}(?:\.{_NAME})*)")
_ROUTE = re.compile(rf"(?P<kind>virtualservice|httproute)/(?P<name>{_NAME}(?:\.{_NAME})*)")
_PROXIED = re.compile(
    rf"service/(?P<service>(?:https:)?{_NAME}:[a-z0-9](?:[-a-z0-9]{{0,14}}))(?P<path>(?:/[\w~-][\w.~-]*)*/?)", re.ASCII
)
_DESTINATION = rf"^{_NAME}(?:\.{_NAME})*(?::[A-Za-z0-9](?:[-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?)?$"
Owner = Literal["argo", "flux", "helm", "flagger", "rollouts", "controller"]


def is_workload(text: str) -> bool:
    """Whether it names a workload as `workload` does."""
    found = _WORKLOAD.fullmatch(text)
    return found is not None and len(found["name"]) <= _LONGEST_NAME


def _workload(text: str) -> str:
    if not is_workload(text):
        raise ValueError(
            f"{show(text)} is no workload; write it like deployment/web, statefulset/queue or daemonset/agent"
        )
    return text


def _scalable(text: str) -> str:
    found = _SCALABLE.fullmatch(text)
    if found is None or len(found["name"]) > _LONGEST_NAME:
        raise ValueError(
            f"{show(text)} cannot be scaled; write it like deployment/web, statefulset/queue or cronjob/mail"
        )
    return text


def _route(text: str) -> str:
    found = _ROUTE.fullmatch(text)
    if found is None or len(found["name"]) > _LONGEST_NAME:
        raise ValueError(f"{show(text)} is no route; write it like virtualservice/web or httproute/web")
    return text


WorkloadName = Annotated[str, AfterValidator(_workload)]
"""`deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`."""

ObjectName = Annotated[str, Field(pattern=rf"^{_NAME}(?:\.{_NAME})*$", max_length=_LONGEST_NAME)]
ScalableName = Annotated[str, AfterValidator(_scalable)]
"""`deployment/NAME`, `statefulset/NAME` or `cronjob/NAME`."""


class InNamespace(Settings):
    """A layer in a namespace of a cluster."""

    cluster: Annotated[str, Ref("cluster")]
    """One of `clusters`, by name."""
    namespace: str = Field(pattern=NAMESPACE)
    """Where it is."""


class KubernetesSettings(InNamespace):
    """A layer of adapter `kubernetes`: a workload, whose release is the content of its pod template."""

    workload: WorkloadName
    """What is rolled back: `deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`."""
    despite: Annotated[tuple[Owner, ...], OneOrMany()] = ()
    """Owners that would take the change back, and that the plan deals with otherwise, such as by a bracket that
    suspends them: `argo`, `flux`, `helm`, `flagger`, `rollouts`, or the `controller` of its owner references."""
    config_maps: Annotated[tuple[ObjectName, ...], OneOrMany()] = ()
    """ConfigMaps that go back with the template: they are part of the release then. Not for immutable ones, which a
    template names anew each time."""
    pin: bool = False
    """Go back to images by the digest that ran, not by their tag, which may lead elsewhere by now."""
    unstick: bool = False
    """Of a StatefulSet: delete a pod of an older revision that is not ready and keeps the others from being replaced,
    one at a time. Without it a broken pod blocks the way back for ever."""
    keep: int = Field(default=30, ge=1)
    """How many templates are remembered, also when the cluster's own history has dropped them."""
    failing_for: Duration = timedelta(seconds=20)
    """How long a pod of the target may show an error, such as an image that cannot be pulled, before the step fails."""
    every: Duration = timedelta(seconds=2)
    """How often the rollout is looked at where the cluster does not tell of it, and while only old pods end."""
    timeout: Duration = timedelta(minutes=10)
    """For the rollout; tried again, it is waited for as long once more."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if len(set(self.config_maps)) < len(self.config_maps):
            raise ValueError("a ConfigMap is named twice; name it once")
        if self.unstick and not self.workload.startswith("statefulset/"):
            raise ValueError("only a StatefulSet's pods block each other; leave `unstick` out")
        if self.every < timedelta(milliseconds=50):
            raise ValueError("`every` is at least 50ms; write it like 2s")
        return self


def proxied(text: str, namespace: str) -> str | None:
    """The path of the API's proxy to a Service, of what is written like `service/web:80/health`; None: it is a URL."""
    found = _PROXIED.fullmatch(text)
    if found is None:
        return None
    return f"/api/v1/namespaces/{namespace}/services/{found['service']}/proxy{found['path'] or '/'}"


def _health(text: str) -> str:
    if not text.startswith("service/"):
        return usable_url(text)
    if proxied(text, "") is None:
        raise ValueError(f"{show(text)} is no Service's port; write it like service/web-blue:8080/health")
    return text


HealthAddress = Annotated[str, AfterValidator(_health)]
"""A URL, or `service/NAME:PORT/PATH`, which is asked through the API's proxy."""

Colour = Annotated[str, Field(pattern=r"^[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]
"""A label's value."""


class BlueGreenSettings(InNamespace):
    """A layer of adapter `blue_green`: a Service, whose releases are the colours that its selector may name."""

    service: str = Field(pattern=rf"^{_NAME}$")
    """The Service's name."""
    label: str = Field(
        default="color", pattern=r"^(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    )
    """The key of its selector that says the colour; its other keys stay."""
    colours: Annotated[dict[Colour, WorkloadName], Field(min_length=2)]
    """The workload of each colour, by the label's value. One that is not rolled out gets no traffic."""
    healthy: dict[Colour, HealthAddress]
    """What must answer with 2xx, `times` in a row, before the traffic goes to that colour: its own address, not the
    Service's. A URL, or `service/NAME:PORT/PATH` for a Service of its own, asked through the API's proxy."""
    times: int = Field(default=5, ge=1, le=100)
    every: Duration = timedelta(seconds=1)
    """Between two of those questions, and between two looks at the Service's endpoints."""
    despite: Annotated[tuple[Owner, ...], OneOrMany()] = ()
    """Owners of the Service that would take the change back, and that the plan deals with otherwise."""
    timeout: Duration = timedelta(minutes=2)
    """For the endpoints to follow."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if strange := sorted(set(self.healthy) - set(self.colours)):
            raise ValueError(f"`healthy` has {show(strange[0])}, which is not among `colours`; name one of them")
        if unasked := sorted(set(self.colours) - set(self.healthy)):
            raise ValueError(f"`healthy` has no {show(unasked[0])}, so nobody would know that it is well; add it")
        if any(re.match(rf"service/(https:)?{self.service}:", each) for each in self.healthy.values()):
            raise ValueError("`healthy` asks the Service that is switched; give each colour a Service of its own")
        if len(set(self.colours.values())) < len(self.colours):
            raise ValueError("two `colours` are one workload, so nothing would move; give each its own")
        if len(set(self.healthy.values())) < len(self.healthy):
            raise ValueError("two in `healthy` ask the same, which tells nothing of one; give each its own address")
        if self.every < timedelta(milliseconds=50):
            raise ValueError("`every` is at least 50ms; write it like 1s")
        return self


class ScaleSettings(InNamespace):
    """A layer of adapter `scale`: workloads that are at 0 while the bracket is entered."""

    workloads: Annotated[tuple[ScalableName, ...], OneOrMany(), Field(min_length=1)]
    """What is put to rest, in this order, and woken in the reverse one: `deployment/NAME` and `statefulset/NAME` by 0
    replicas, `cronjob/NAME` by suspending it."""
    despite: Annotated[tuple[Owner, ...], OneOrMany()] = ()
    """Owners that would take the change back, and that the plan deals with otherwise."""
    every: Duration = timedelta(seconds=2)
    """Between two looks at the pods that end."""
    timeout: Duration = timedelta(minutes=5)
    """For the pods to end."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if len(set(self.workloads)) < len(self.workloads):
            raise ValueError("a workload is named twice; name it once")
        if self.every < timedelta(milliseconds=50):
            raise ValueError("`every` is at least 50ms; write it like 2s")
        return self


RouteName = Annotated[str, AfterValidator(_route)]
"""`virtualservice/NAME` or `httproute/NAME`."""
Destination = Annotated[str, Field(pattern=_DESTINATION, max_length=_LONGEST_NAME)]
"""A Service's name; in a VirtualService the host, and after a colon the subset, where it has one."""
Share = Annotated[int, Field(ge=0, le=99)]
"""Percent of all traffic of the rule."""


class CanarySettings(InNamespace):
    """A layer of adapter `canary`: a route that sends a share of its traffic to a canary. Going back takes that share
    to 0, in stages; its releases are the shares."""

    route: RouteName
    """The VirtualService of Istio or the HTTPRoute of the Gateway API."""
    rule: str = Field(default="", max_length=_LONGEST_NAME)
    """The name of the rule in it whose weights change; needed where several rules send traffic to both."""
    stable: Destination
    """Where its traffic is to go."""
    canary: Destination
    """Where it is not to go any more."""
    stable_workload: WorkloadName
    """Must be ready for all of the traffic, else nothing is touched."""
    canary_workload: WorkloadName
    at_least: int = Field(default=1, ge=1)
    """So many pods of the stable workload must be available; in any case as many as the canary has."""
    stages: tuple[Share, ...] = (75, 50, 25, 0)
    """The canary's share of all traffic, percent, one after the other; what it is below already is left out."""
    every: Duration = timedelta(seconds=30)
    """Between two stages."""
    between: Annotated[str, Ref("check")] = ""
    """A check of the service that is asked before each stage but the first: when it is bad the rest goes at once."""
    scale_down: bool = False
    """Scale the canary's workload to 0 when it has no traffic any more."""
    despite: Annotated[tuple[Owner, ...], OneOrMany()] = ()
    """Owners that would take the change back, and that the plan deals with otherwise."""
    timeout: Duration = timedelta(minutes=5)
    """For all stages, and for the gateway to take a change over."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.stable == self.canary or self.stable_workload == self.canary_workload:
            raise ValueError("stable and canary are the same, so nothing would move; give each its own")
        if self.stages[-1:] != (0,) or list(self.stages) != sorted(set(self.stages), reverse=True):
            raise ValueError("a canary only goes down, and ends at 0; write `stages` like [75, 50, 25, 0]")
        if self.every * len(self.stages) > self.timeout:
            raise ValueError("the stages take longer than `timeout`; give a longer one, or fewer stages")
        if self.route.startswith("httproute/") and ":" in self.stable + self.canary:
            raise ValueError("an HTTPRoute names Services, which have no subsets; leave out the colon and what follows")
        if self.scale_down and self.canary_workload.startswith("daemonset/"):
            raise ValueError("a DaemonSet cannot be scaled; leave `scale_down` out")
        return self
