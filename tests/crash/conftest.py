"""Whatever is killed here, nothing of it may be left in the end."""

from tests.leftovers import no_mount_is_left, no_process_is_left

__all__ = ["no_mount_is_left", "no_process_is_left"]
