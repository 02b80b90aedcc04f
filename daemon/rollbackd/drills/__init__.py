"""Drills: could a rollback work right now, and, where the configuration allows it, one for real and back again."""

from rollbackd.drills.driver import Drills
from rollbackd.drills.fitness import Unfit

__all__ = ["Drills", "Unfit"]
