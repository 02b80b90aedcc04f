"""What the configuration says about a layer of adapter `kubernetes`. No I/O."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, OneOrMany, Ref, show
from rollbackd_adapters.web import Url

_NAME = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_WORKLOAD = re.compile(rf"(?P<kind>deployment|statefulset|daemonset)/(?P<name>{_NAME}(?:\.{_NAME})*)")
Owner = Literal["argo", "flux", "helm", "flagger", "controller"]


def _workload(text: str) -> str:
    found = _WORKLOAD.fullmatch(text)
    if found is None or len(found["name"]) > 253:
        raise ValueError(
            f"{show(text)} is no workload; write it like deployment/web, statefulset/queue or daemonset/agent"
        )
    return text


WorkloadName = Annotated[str, AfterValidator(_workload)]
"""`deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`."""


class InNamespace(Settings):
    """A layer in a namespace of a cluster."""

    cluster: Annotated[str, Ref("cluster")]
    """One of `clusters`, by name."""
    namespace: str = Field(pattern=rf"^{_NAME}$")
    """Where it is."""


class KubernetesSettings(InNamespace):
    """A layer of adapter `kubernetes`: a workload, whose release is the content of its pod template."""

    workload: WorkloadName
    """What is rolled back: `deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`."""
    despite: Annotated[tuple[Owner, ...], OneOrMany()] = ()
    """Owners that would take the change back, and that the plan deals with otherwise, such as by a bracket that
    suspends them: `argo`, `flux`, `helm`, `flagger`, or the `controller` of its owner references."""
    unstick: bool = False
    """Of a StatefulSet: delete a pod of an older revision that is not ready and keeps the others from being replaced,
    one at a time. Without it a broken pod blocks the way back for ever."""
    keep: int = Field(default=30, ge=1)
    """How many templates are remembered, also when the cluster's own history has dropped them."""
    failing_for: Duration = timedelta(seconds=20)
    """How long a pod of the target may show an error, such as an image that cannot be pulled, before the step fails."""
    every: Duration = timedelta(seconds=2)
    """How often the rollout is looked at."""
    timeout: Duration = timedelta(minutes=10)
    """For the rollout; tried again, it is waited for as long once more."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.unstick and not self.workload.startswith("statefulset/"):
            raise ValueError("only a StatefulSet's pods block each other; leave `unstick` out")
        if self.every < timedelta(milliseconds=50):
            raise ValueError("`every` is at least 50ms; write it like 2s")
        return self


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
    healthy: dict[Colour, Url] = {}
    """What must answer with 2xx, `times` in a row, before the traffic goes to that colour: its own address, not the
    Service's."""
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
        if len(set(self.colours.values())) < len(self.colours):
            raise ValueError("two `colours` are one workload, so nothing would move; give each its own")
        if len(set(self.healthy.values())) < len(self.healthy):
            raise ValueError("two in `healthy` ask the same, which tells nothing of one; give each its own address")
        if self.every < timedelta(milliseconds=50):
            raise ValueError("`every` is at least 50ms; write it like 1s")
        return self
