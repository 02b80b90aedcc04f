"""The layers of a service as a play has them: they say what it runs, and nothing can change them."""

from collections.abc import Mapping, Sequence
from typing import cast

from rollbackd.adapter import Adapter
from rollbackd.config.models import Service
from rollbackd.execution.layers import Layers
from rollbackd.model import NO_RELEASE, Change, Problem, Release, State, Traits


class PlayedLayer:
    """One layer: what it is said to run, and whatever it ran before can be gone back to."""

    def __init__(self, name: str, traits: Traits, present: Release) -> None:
        self.name = name
        self.traits = traits
        self._known = [present]

    @property
    def present(self) -> Release:
        return self._known[-1]

    def run(self, release: Release) -> None:
        """From now on it runs that."""
        self._known = [*(one for one in self._known if one != release), release]

    async def current(self) -> Release:
        return self.present

    async def releases(self) -> Sequence[Release]:
        return tuple(reversed(self._known))

    async def plan(self, target: Release) -> Change:
        """That it can be taken back is supposed: nobody wrote down what would have stood in the way."""
        return Change(self.name, self.present if self.traits.releases else NO_RELEASE, target)

    async def ready(self) -> Sequence[Problem]:
        return ()


class PlayedLayers:
    """All layers of one service."""

    def __init__(self, service: Service, traits: Mapping[str, Traits], begin: State) -> None:
        self._layers = {
            name: PlayedLayer(name, traits[name], begin.releases.get(name, NO_RELEASE)) for name in service.layers
        }
        adapters = {name: cast("Adapter", layer) for name, layer in self._layers.items()}
        self.layers = Layers(service, adapters)

    def run(self, state: State) -> None:
        """From now on the service runs that state."""
        for name, release in state.releases.items():
            self._layers[name].run(release)
