"""A layer that goes forward because a person says so: an announced change like any other, which begins with a copy."""

from rollbackd import facts
from rollbackd.adapter import AdapterError, Upgrades
from rollbackd.decision.refusals import InvalidOrder, OrderRefused
from rollbackd.operations.announced_changes import AnnouncedChanges
from rollbackd.operations.parameters import ChangeBody
from rollbackd.views.shapes import UpgradeView

KIND = "upgrade"
CUT_OFF = "upgrade_cut_off"


class UpgradeOperations(AnnouncedChanges):
    """The one order that takes a layer forward."""

    async def upgrade(self, service: str, layer: str, to: str, actor: str, *, over_hold: bool) -> UpgradeView:
        """Take a layer to a release that comes after the present one; again it goes on with what was cut off.

        :raises UnknownName: InvalidOrder: JournalUnavailable:
        :raises OrderRefused: it was not done; how far it came, and which copy has what was there.
        """
        self._check_layers(self._service(service), [layer])
        adapter = self._parts.layers[service].adapters[layer]
        if not isinstance(adapter, Upgrades):
            raise InvalidOrder(f"{service}/{layer} is not upgraded by rollbackd; a layer of adapter alembic is")
        what = f"{service}/{layer} is not touched"
        if not over_hold and (held := self._parts.holds(service, {}, silences=False)):
            raise OrderRefused(f"{what}: {'; '.join(held)} (`--over-hold` goes over that)")
        if (acting := self._read_model.of(service).acting) is not None:
            raise OrderRefused(f"{what}: {acting.incident} is at work; again when it has ended")
        clean = self._parts.layers[service].clean
        try:
            change = await adapter.forward(to)
            if change.before == change.after:
                return UpgradeView(service, layer, change.before.name, change.after.name)
            said = ChangeBody(service=service, releases={layer: change.after.id}, kind=KIND, key=change.key)
            await self.changed(said, actor)
            copy = await adapter.upgrade(change)
        except AdapterError as error:
            raise OrderRefused(f"{service}/{layer}: {clean(str(error))}") from error
        self._parts.decision_engine.run_soon(self._look(service))
        return UpgradeView(service, layer, change.before.name, change.after.name, copy, change.key)

    async def say_what_stands_midway(self) -> None:
        """After a start: tell people which upgrades were cut off. Only a person goes on with one."""
        for service, layers in self._parts.layers.items():
            for name, adapter in layers.adapters.items():
                if isinstance(adapter, Upgrades):
                    try:
                        text = await adapter.stands_midway()
                    except AdapterError as error:  # `ready` says so, too
                        self._log.warning("not known whether an upgrade was cut off", layer=name, error=str(error))
                        continue
                    if text:
                        notice = facts.Notice(CUT_OFF, layers.clean(text), service, details={"subject": name})
                        await self._read_model.tell(notice)
