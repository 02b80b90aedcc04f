"""What holds a service: signal files, read afresh each time, and those of other hosts as the journal has them; holds by
API or command line; silences in Alertmanager.
"""

from collections.abc import Callable, Iterator, Mapping

from rollbackd.config.models import Config
from rollbackd.model import SignalHold
from rollbackd.policy.ledger import Hold
from rollbackd.rules.matchers import Matcher
from rollbackd.signals.signal_files import SignalFiles
from rollbackd.signals.silences import Patience, Silence
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock
from rollbackd.views.shapes import HoldView

_REMEMBERED = 10_000


class ActiveHolds:
    """Called with a service and a trigger's labels, gives a sentence for each thing that holds the service."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        files: SignalFiles,
        clock: Clock,
        silences: Callable[[], tuple[Silence, ...]],
    ) -> None:
        self._config = config
        self._names = tuple(service.name for service in config.services)
        self._read_model = read_model
        self._files = files
        self._clock = clock
        self._silences = silences
        self._compared: tuple[Silence, ...] = ()
        self._fits: dict[tuple[Matcher, str], bool] = {}
        """What the expressions of these silences said of which values; of others nothing is kept."""

    def __call__(self, service: str, labels: Mapping[str, str], *, silences: bool = True) -> tuple[str, ...]:
        found = [f"held: {hold.reason}" for hold in self._files.holds(service)]
        found += [f"held on {host}: {hold.reason}" for host, hold in self._elsewhere("*", service)]
        found += self._ordered("all services held", self._read_model.fleet.hold)
        found += self._ordered("held", self._read_model.of(service).hold)
        found += self._silenced(service, labels) if silences else ()
        return tuple(found)

    def _silenced(self, service: str, labels: Mapping[str, str]) -> Iterator[str]:
        own, silences = self._config.service(service), self._silences()
        patience = self._patience(silences)
        for silence in silences:
            if any(silence.matches({**match, **labels}, patience) for match in (own.match if own is not None else ())):
                yield f"silenced in Alertmanager by {silence.created_by}: {silence}"
            if patience.over:
                yield "the expressions of Alertmanager's silences take too long; the others count as matching"
                return

    def _patience(self, silences: tuple[Silence, ...]) -> Patience:
        others = silences is not self._compared and silences != self._compared
        if others or len(self._fits) > _REMEMBERED:
            self._fits.clear()
        self._compared = silences
        return Patience(self._fits)

    def of_all(self) -> tuple[str, ...]:
        """A sentence for each thing that holds all services."""
        files = [f"held: {hold.reason}" for hold in self._files.holds_of_all()]
        files += [f"held on {host}: {hold.reason}" for host, hold in self._elsewhere("*")]
        return (*files, *self._ordered("all services held", self._read_model.fleet.hold))

    def _elsewhere(self, *scopes: str) -> list[tuple[str, SignalHold]]:
        """What the signal files of other hosts hold, as the journal says; all of it when no scope is given."""
        now = self._clock.now()
        return [
            (host, hold)
            for host, holds in self._read_model.fleet.signal_holds.items()
            if host != self._config.daemon.here
            for hold in holds
            if (not scopes or hold.scope in scopes) and (hold.until is None or now < hold.until)
        ]

    def _ordered(self, held: str, hold: Hold | None) -> list[str]:
        if hold is None or not hold.holds(self._clock.now()):
            return []
        return [f"{held} by {hold.actor}" + (f": {hold.reason}" if hold.reason else "")]

    def listed(self) -> list[HoldView]:
        """Everything that holds anything, for people."""
        found = [
            HoldView(scope, hold.actor, hold.reason, "file", hold.until)
            for scope, hold in sorted(self._files.all_holds(self._names).items())
        ]
        found += [HoldView(one.scope, one.actor, one.reason, "file", one.until) for _, one in self._elsewhere()]
        api: list[tuple[str, Hold | None]] = [("*", self._read_model.fleet.hold)]
        api += [(one.name, self._read_model.of(one.name).hold) for one in self._config.services]
        now = self._clock.now()
        for scope, hold in api:
            if hold is not None and hold.holds(now):
                found.append(HoldView(scope, hold.actor, hold.reason, "api", hold.until))
        silences = self._silences()
        patience = self._patience(silences)
        for silence in silences:
            for one in self._config.services:
                if any(silence.matches(match, patience) for match in one.match):
                    found.append(HoldView(one.name, silence.created_by, str(silence), "silence", silence.ends_at))
        return found

    def how_to_lift(self, scope: str) -> str:
        """A sentence on what else holds a scope than a hold by API or command line, and what lifts that."""
        files = self._files.all_holds(self._names)
        hold = files.get(scope) or files.get("*")
        if hold is not None:
            return f"it is held by a file; lift it with `rm {self._config.daemon.signals / hold.name}`"
        for host, elsewhere in self._elsewhere("*", scope):
            name = "HOLD" if elsewhere.scope == "*" else f"HOLD.{elsewhere.scope}"
            gone = f"where that host is gone, `rollbackd resume --from {host}`"
            return f"it is held by the file {name} on {host}; remove it there, or {gone}"
        if scope == "*":
            return "nothing holds all services"
        fleet = self._read_model.fleet.hold
        if fleet is not None and fleet.holds(self._clock.now()):
            return f"all services are held by {fleet.actor}; `rollbackd resume --all` lifts that"
        others = self(scope, {})
        return f"{'; '.join(others)}; lift that there" if others else f"nothing holds {scope}"
