"""Drills by order, and what they found."""

from rollbackd.operations.base import OperationsBase
from rollbackd.views.shapes import DrillView


class DrillOperations(OperationsBase):
    """Could a rollback work, and one for real where the configuration allows it."""

    async def drill(self, service: str, plan: str, actor: str, *, execute: bool = False) -> DrillView:
        """Ask all that a rollback rests on; with `execute` go back for real, and return.

        :raises UnknownName: InvalidOrder: OrderRefused: it may not be drilled, or not now.
        """
        found = self._with_plan(service, plan)
        drills = self._parts.drills
        return await (drills.execute if execute else drills.hold)(found, plan, actor)

    async def drills(self, service: str = "", limit: int = 50) -> list[DrillView]:
        """Newest first, of one service or of all; one that is under way before them. :raises UnknownName:"""
        if service:
            self._service(service)
        return await self._parts.drills.listed(service, limit)
