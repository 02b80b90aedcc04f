"""Snapshots of layers: taken on a calendar and by hand, kept elsewhere, verified, tried out, restored.

What a layer can do about its own past is its adapter's (`rollbackd.adapter.Snapshots`); when, how often, where to, and
what becomes of it is here. Each thing that is done is a fact with its actor.
"""

from rollbackd.snapshots.layer_snapshots import NotKept
from rollbackd.snapshots.manager import SnapshotManager

__all__ = ["NotKept", "SnapshotManager"]
