"""Logs: one JSON object a line on stderr, or readable lines on a terminal. Secrets are masked before they get here."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from rollbackd.system.redaction import without_passwords


def _without_passwords(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = without_passwords(value)
        elif isinstance(value, list | tuple):
            event[key] = [without_passwords(one) if isinstance(one, str) else one for one in value]
    return event


def configure(level: str = "info", *, readable: bool | None = None) -> None:
    """Set structlog up once; `readable` is by default whether stderr is a terminal."""
    readable = sys.stderr.isatty() if readable is None else readable
    renderer: Any = structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_passwords,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def get(name: str) -> Any:
    """A logger; `incident`, `service` and `step` are bound by who works on them."""
    # Not bound here: a module's logger would have structlog's defaults for ever, which print locals, secrets and all.
    return structlog.get_logger(part=name)
