"""What the signal files of this host hold, written down for the other hosts that share the journal."""

from rollbackd.config.models import Config
from rollbackd.facts import SignalHolds
from rollbackd.journal import Entry
from rollbackd.model import FLEET, SignalHold
from rollbackd.signals.signal_files import SignalFiles
from rollbackd.state.read_model import ReadModel


class HostHolds:
    """Compares what the files hold with what the journal says of it. What it wrote stays when this host is gone."""

    def __init__(self, config: Config, read_model: ReadModel, files: SignalFiles) -> None:
        self._host = config.daemon.here
        self._names = tuple(service.name for service in config.services)
        self._read_model = read_model
        self._files = files

    async def publish(self) -> None:
        """Write it down when it is news. :raises JournalUnavailable:"""
        found = self._files.all_holds(self._names)
        for hold in self._files.holds_of_all():  # a directory that cannot be trusted, too
            found["*"] = hold
        holds = tuple(SignalHold(scope, one.actor, one.reason, one.until) for scope, one in sorted(found.items()))
        if holds != self._read_model.fleet.signal_holds.get(self._host, ()):
            await self._read_model.append(Entry(FLEET, SignalHolds(self._host, holds)))
