"""How OpenSSH is called, and what its failures mean. No I/O.

https://man.openbsd.org/ssh_config
"""

from datetime import timedelta

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Finished, one_line
from rollbackd_adapters.remote.settings import RemoteSettings

COMMAND = "rollbackd layer --stdio"
"""What is asked for over there; a forced command of authorized_keys takes its place."""

_ALIVE = 5
"""Seconds between two signs of life; after three without an answer the connection counts as lost."""
_CANNOT_CONNECT = 255
_NO_PROGRAM = 127
_NOT_EXECUTABLE = 126
_NOT_TRUSTED = (
    ("host identification has changed", "its host key is not the one that is known: it may be another machine; {keys}"),
    ("host key verification failed", "its host key is not known; {keys}"),
    ("permission denied", "it does not let us in; add our public key to authorized_keys there"),
    ("too many authentication failures", "it does not let us in; give `identity`"),
)


class HostUnreachableError(AdapterError):
    """The host did not answer at all."""


class LostError(AdapterError):
    """The connection ended before the answer came: whether anything was done must be asked."""


def argv(destination: str, settings: RemoteSettings) -> list[str]:
    """One call of ssh. Options that are given here win over those in a file."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "VerifyHostKeyDNS": "no",
        "ClearAllForwardings": "yes",
        "ControlMaster": "no",
        "ControlPath": "none",  # shared connections do not tell keys apart, and a key decides what is served
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
        "LogLevel": "ERROR",
        "ConnectionAttempts": "1",
        "ConnectTimeout": str(max(1, int(settings.connect_within.total_seconds()))),
        "ServerAliveInterval": str(_ALIVE),
        "ServerAliveCountMax": "3",
    }
    if settings.known_hosts is not None:
        options |= {"UserKnownHostsFile": f'"{settings.known_hosts}"', "GlobalKnownHostsFile": "none"}
    if settings.identity is not None:
        options |= {"IdentitiesOnly": "yes", "IdentityAgent": "none"}
    called = ["ssh", "-T", "-F", str(settings.ssh_config or "none")]
    called += [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    if settings.identity is not None:
        called += ["-i", str(settings.identity)]
    if settings.port is not None:
        called += ["-p", str(settings.port)]
    return [*called, "--", destination, COMMAND]


def limited(limit: timedelta) -> list[str]:
    """Put before a call that must be seen when we are gone: ssh closes the lock that it inherits, `timeout` keeps it.

    It also ends an ssh that nobody waits for any more.
    """
    return ["timeout", "--kill-after=5", f"{limit.total_seconds() + 5:.0f}"]


def no_hello(destination: str, finished: Finished, settings: RemoteSettings) -> AdapterError:
    """Why the other side said nothing that we understand."""
    said, evidence = finished.stderr.lower(), finished.tail
    last = one_line(finished.stderr.strip().rpartition("\n")[2])
    if finished.timed_out:
        limit = f"{finished.took.total_seconds():.0f}s"
        text = f"not a word within {limit}; that host hangs, or what it runs for our key does: look there"
        return HostUnreachableError(f"{destination}: {text}", permanent=False, evidence=evidence)
    if finished.code == _CANNOT_CONNECT:
        if meaning := next((means for text, means in _NOT_TRUSTED if text in said), ""):
            keys = f"compare it, then put it into {settings.known_hosts or 'known_hosts'}"
            return AdapterError(f"{destination}: {meaning.format(keys=keys)}", permanent=True, evidence=evidence)
        text = f"{destination} cannot be reached: {last or 'the connection was closed'}"
        return HostUnreachableError(text, permanent=False, evidence=evidence)
    if finished.code == _NO_PROGRAM:
        text = f"no rollbackd there in the login's PATH ({last}); install it, or give a forced command"
    elif finished.code == _NOT_EXECUTABLE:
        text = f"what is to answer there cannot be run ({last}); correct the forced command"
    else:
        text = (
            f"`{COMMAND}` did not answer there ({finished.ending}): {last or 'it does not say why'}; "
            "`rollbackd layer --list` on that host says what is wrong"
        )
    permanent = finished.code in {_NO_PROGRAM, _NOT_EXECUTABLE}
    return AdapterError(f"{destination}: {text}", permanent=permanent, evidence=evidence)
