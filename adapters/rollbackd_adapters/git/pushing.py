"""The command that pushes, and the meaning of a remote's refusal. No I/O."""

from dataclasses import dataclass

from rollbackd.system.spawner import Finished

PUSH = ("push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A push that the remote refused."""

    why: str
    """The reason in the remote's own words."""
    permanent: bool
    """False: somebody else works on that ref just now."""


def rejection(push: Finished) -> Rejection | None:
    """The refusal of a push that failed; None when it failed for another reason."""
    said = push.stdout.decode(errors="replace")
    line = next((line for line in said.splitlines() if "rejected]" in line), "")
    if not line:
        return None
    passing = "failed to update ref" in said or "lock" in said
    return Rejection(line.rpartition("\t")[2], permanent=not passing)
