"""Snapshots of layers, kept: on a calendar, by hand, elsewhere; verified, tried out, restored.

What a layer can do about its own past is its adapter's (`rollbackd.adapter.Snapshots`); when, how often, where to, and
what becomes of it is here. Each thing that is done is a fact with its actor.
"""

from rollbackd.keeper.keeper import Keeper
from rollbackd.keeper.shelf import Unkept

__all__ = ["Keeper", "Unkept"]
