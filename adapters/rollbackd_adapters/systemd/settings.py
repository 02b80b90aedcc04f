"""What the configuration says about a layer of adapter `systemd`. No I/O."""

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration, show

_UNIT = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_:.\\-]*(?:@[A-Za-z0-9_:.\\-]+)?\.(?:service|socket|timer|path|target)")
_LONGEST = 255


def unit_name(name: str) -> str:
    """A whole name of one unit: no pattern, no option, no path. :raises ValueError: with what to write instead."""
    if _UNIT.fullmatch(name) is None or len(name) > _LONGEST:
        raise ValueError(
            f"{show(name)} is not the name of a unit; write it whole, like checkout.service or web@1.service"
        )
    return name


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("there are no units; name at least one")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{show(twice[0])} is named twice; name each unit once")
    return names


class SystemdSettings(Settings):
    """A layer of adapter `systemd`."""

    leave: Literal["steps", "gate", "verified", "acknowledged"] = "steps"
    """As a bracket: after what the units are started again. The gate would ask something that is stopped."""
    units: Annotated[tuple[Annotated[str, AfterValidator(unit_name)], ...], AfterValidator(_some)]
    """Whole names, in the order in which they are started; they are stopped in the other order."""
    action: Literal["restart", "reload", "reload-or-restart"] = "restart"
    """As a step. `reload-or-restart` reloads those that can, and restarts the others. A bracket stops and starts."""
    timeout: Duration = timedelta(seconds=90)
    """For each unit, until it is active or stopped."""
    settle: Duration = timedelta(seconds=2)
    """How long the units must stay as they are after the last one became active; one that flaps has failed."""
    resource: str = ""
    """What this layer shares with others that must not move at the same time; else its units are its own."""
