"""What a drill that touches the world must never come on top of. It asks, and touches nothing."""

from rollbackd.config.models import Config, Service
from rollbackd.decision.holds import ActiveHolds
from rollbackd.decision.refusals import OrderRefused
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock


class DrillNotAllowed(OrderRefused):
    """A drill is not held now; the sentence says why, and what to do."""


class DrillPreconditions:
    """Says whether a service can be drilled now, and why not."""

    def __init__(
        self, config: Config, read_model: ReadModel, clock: Clock, rule_states: RuleStates, holds: ActiveHolds
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._rule_states = rule_states
        self._holds = holds

    def check_idle(self, service: str) -> None:
        """:raises DrillNotAllowed: a rollback of it is under way, or asks for one."""
        ledger = self._read_model.of(service)
        running = ledger.acting or ledger.open
        if running is not None:
            raise DrillNotAllowed(f"{service} is not drilled: {running.incident} is open; again when it has ended")

    def check(self, service: Service) -> None:
        """:raises DrillNotAllowed: it may not be taken back for real, or not now."""
        name, now = service.name, self._clock.now()
        if not service.drill:
            raise DrillNotAllowed(f"{name} is not drilled for real: its configuration does not say `drill: true`")
        if self._config.mode(service) != "act":
            raise DrillNotAllowed(f"{name} is not drilled for real: its mode is shadow, nothing is touched")
        self.check_idle(name)
        if others := [other for other, _ in self._read_model.drills()]:
            raise DrillNotAllowed(
                f"{name} is not drilled: {others[0]} is, and one is drilled at a time; again when it has ended"
            )
        if held := self._holds(name, {}):
            raise DrillNotAllowed(f"{name} is not drilled: {'; '.join(held)}")
        bad = [one for one in self._rule_states.seen(name, now) if one.standing is not Standing.GOOD]
        if bad:
            said = ", ".join(f"{one.rule} is {one.standing.value} ({one.reason})" for one in bad)
            raise DrillNotAllowed(f"{name} is not drilled while it may be in trouble: {said}")
        last = self._read_model.of(name).rollbacks[-1:]
        if last and last[0].watch_until is not None and now < last[0].watch_until:
            until = f"{last[0].watch_until:%H:%M:%S}"
            raise DrillNotAllowed(f"{name} is not drilled: it is watched after {last[0].incident} until {until}")
