"""Other users, as whom programs of a step run: what the system knows of them, and whether we may become them."""

import os
import pwd
from dataclasses import dataclass


class UnknownUser(ValueError):  # noqa: N818  # the sentence says what to do
    """There is no such user, or nobody here may become them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, with all that a login of theirs would have."""

    name: str
    user: int
    group: int
    groups: tuple[int, ...]
    home: str

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def identity_of(name: str) -> Identity:
    """:raises UnknownUser: there is no such user, or we may not become them."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise UnknownUser(f"run_as: there is no user {name} on this host; make it, or correct the name") from None
    if os.geteuid() not in {0, found.pw_uid}:
        text = f"run_as: {name}: only root may run programs as somebody else, and rollbackd runs as {os.geteuid()}"
        raise UnknownUser(f"{text}; leave it out, and have a unit with User={name} do it: [systemctl, start, UNIT]")
    groups = tuple(os.getgrouplist(name, found.pw_gid))
    return Identity(name, found.pw_uid, found.pw_gid, groups, found.pw_dir)
