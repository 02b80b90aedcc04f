"""Whatever is killed here, nothing of it may be left in the end."""

from tests.leftovers import no_process_is_left

__all__ = ["no_process_is_left"]
