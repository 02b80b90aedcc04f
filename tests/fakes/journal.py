"""The journal in memory, as tests know it."""

from rollbackd.journal.memory import MemoryJournal

__all__ = ["MemoryJournal"]
