"""Text that people write: durations and sizes, paths into JSON, calendars, addresses. No I/O."""
