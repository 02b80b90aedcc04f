"""Drills: whether a rollback would work right now; where the configuration allows it, one for real and back again."""

from rollbackd.drills.driver import DrillRunner
from rollbackd.drills.preconditions import DrillNotAllowed

__all__ = ["DrillNotAllowed", "DrillRunner"]
