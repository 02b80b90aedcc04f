"""Drills by order, and what they found."""

from rollbackd.drills import DrillNotAllowed
from rollbackd.operations.base import OperationsBase, OrderRefused
from rollbackd.views.shapes import DrillView


class DrillOperations(OperationsBase):
    """Could a rollback work, and one for real where the configuration allows it."""

    async def drill(self, service: str, plan: str, actor: str, *, execute: bool = False) -> DrillView:
        """Ask all that a rollback rests on; with `execute` go back for real, and return.

        :raises UnknownName: InvalidOrder: OrderRefused: it may not be drilled, or not now.
        """
        found = self._with_plan(service, plan)
        drills = self._parts.drills
        try:
            return await (drills.execute if execute else drills.hold)(found, plan, actor)
        except DrillNotAllowed as error:
            raise OrderRefused(str(error)) from error

    async def drills(self, service: str = "", limit: int = 50) -> list[DrillView]:
        """Newest first, of one service or of all; one that is under way before them. :raises UnknownName:"""
        if service:
            self._service(service)
        return await self._parts.drills.listed(service, limit)

    async def _past_drill(self, service: str, actor: str) -> str:
        """Where a rollback goes that a person orders during an executed drill, which ends; empty: there is none.

        :raises OrderRefused: its step in hand has not ended yet.
        """
        try:
            return await self._parts.drills.give_way(service, actor)
        except DrillNotAllowed as error:
            raise OrderRefused(str(error)) from error
