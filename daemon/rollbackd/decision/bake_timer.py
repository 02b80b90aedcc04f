"""The bake timer: a state that has run long enough without trouble, and then passes its checks, is good."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from rollbackd import facts
from rollbackd.config.models import Config, Service
from rollbackd.decision.situation import HoldSource
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.journal import Entry
from rollbackd.model import State, Verdict, service_stream, verdict_of
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system import log
from rollbackd.system.clock import Clock, JumpWatch
from rollbackd.system.rounds import Recurring

_LONGEST_TICK = timedelta(seconds=15)


@dataclass(slots=True)
class Baking:
    """How long a state has baked so far."""

    key: str
    baked: timedelta
    looked: float
    """Monotonic time of the last tick."""


class BakeTimer:
    """Counts, for each service, the time in which its present state ran well.

    Trouble, bad or pending, begins the count again. Time does not count while the rules are inconclusive, unless for
    want of traffic alone, while the service is held or the machine slept, nor while a look at the layers failed:
    another state may run then, or none.
    """

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        jumps: JumpWatch,
        holds: HoldSource,
        check_runner: CheckRunner,
        unseen: Container[str] = (),
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._jumps = jumps
        self._holds = holds
        self._check_runner = check_runner
        self._unseen = unseen
        """The services whose layers do not say what runs now."""
        self._baking: dict[str, Baking] = {}
        self._log = log.get("bake")

    def share(self, service: Service) -> float:
        """The share of the bake time that the present state has behind it, 0 to 1."""
        ledger = self._read_model.of(service.name)
        if ledger.present is not None and ledger.present.key in ledger.good:
            return 1.0
        baking = self._baking.get(service.name)
        if baking is None or ledger.present is None or baking.key != ledger.present.key or not service.bake:
            return 0.0
        return min(1.0, baking.baked / service.bake)

    def turns(self) -> Iterator[Recurring]:
        """The ticks of each service."""
        for service in self._config.services:
            tick = min(_LONGEST_TICK, max(service.bake / 20, timedelta(milliseconds=100)))
            yield Recurring(f"bake {service.name}", tick, partial(self.tick, service, tick), tick)

    async def tick(self, service: Service, length: timedelta) -> None:
        """Count one tick of that length where it counts, and run the checks once the bake time is full."""
        ledger = self._read_model.of(service.name)
        state = ledger.present
        now = self._clock.monotonic()
        if ledger.drill:
            return
        if state is None or ledger.open is not None or _decided(ledger, state):
            self._baking.pop(service.name, None)
            return
        baking = self._baking.get(service.name)
        if baking is None or baking.key != state.key:
            self._baking[service.name] = Baking(state.key, timedelta(), now)
            return
        passed, baking.looked = timedelta(seconds=now - baking.looked), now
        standing = self._rule_states.standing(service.name, self._clock.now())
        if standing in {Standing.BAD, Standing.PENDING}:
            baking.baked = timedelta()
            return
        asleep = self._jumps.look() is not None or passed > length * 3 + timedelta(seconds=5)
        if asleep or not self._says_well(service.name, standing) or self._stands_still(service.name):
            return
        baking.baked += min(passed, length * 2)
        if baking.baked >= service.bake:
            await self._run_checks(service, baking)

    def _says_well(self, service: str, standing: Standing) -> bool:
        """Whether each rule is good, or says nothing for want of traffic alone: then the checks have to say it."""
        quiet = standing is Standing.INCONCLUSIVE and self._rule_states.without_traffic(service, self._clock.now())
        return standing is Standing.GOOD or bool(quiet)

    def _stands_still(self, service: str) -> bool:
        """Whether time does not count: a person holds the service, or nobody knows whether this state still runs."""
        return service in self._unseen or bool(self._holds(service, {}))

    async def _run_checks(self, service: Service, baking: Baking) -> None:
        results = await self._check_runner.run(service, service.verify.checks)
        ledger = self._read_model.of(service.name)
        if ledger.open is not None or ledger.present is None or ledger.present.key != baking.key:
            return
        quiet = self._rule_states.without_traffic(service.name, self._clock.now())
        well = self._says_well(service.name, self._rule_states.standing(service.name, self._clock.now()))
        if not well or ledger.blocked(ledger.present) or self._stands_still(service.name):
            return
        if verdict_of(results) is Verdict.GOOD:
            why = f"ran {format_duration(service.bake)} without a trigger and passed its checks"
            if quiet:
                why = f"{why}, on which it rests: there was too little traffic for {', '.join(quiet)}"
            await self._read_model.append(Entry(service_stream(service.name), facts.MarkedGood(ledger.present, why)))
            self._log.info("good", service=service.name, state=ledger.present.name)
        else:
            baking.baked = timedelta() if verdict_of(results) is Verdict.BAD else service.bake / 2


def _decided(ledger: ServiceLedger, state: State) -> bool:
    """Whether bake time makes no difference to the present state: it is good already, or is never to be."""
    return state.key in ledger.good or ledger.switched(state) or bool(ledger.blocked(state))
