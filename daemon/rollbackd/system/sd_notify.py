"""Notices to systemd: ready, status, still alive. The only place that speaks its protocol; silent without systemd.

https://www.freedesktop.org/software/systemd/man/sd_notify.html
"""

import os
import socket
from datetime import timedelta

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def status(text: str) -> str:
    """The line that `systemctl status` shows; further lines are folded into it, since a newline ends an assignment."""
    return "STATUS=" + " ".join(text.split())


def reloading(monotonic_usec: int) -> str:
    """We are about to execute ourselves anew; READY follows. `monotonic_usec` is CLOCK_MONOTONIC in microseconds."""
    return f"RELOADING=1\nMONOTONIC_USEC={monotonic_usec}"


def notify(*states: str) -> bool:
    """Send assignments to the service manager in one datagram; whether one was listening and took it.

    Never waits and never raises: a service manager that is busy or gone is no reason to stop a rollback, and the
    watchdog's next feeding comes soon.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(states).encode(), address)
    except OSError:
        return False
    return True


def watchdog_interval() -> timedelta | None:
    """How often systemd wants to hear WATCHDOG at least; feed it at half of that. None: it does not watch us.

    WATCHDOG_PID names who is meant: a step that inherits our environment is not.
    """
    meant = os.environ.get("WATCHDOG_PID", "")
    if meant and meant != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    return timedelta(microseconds=int(text))
