"""The protocol with systemd, against a socket of ours."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.system import sd_notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def test_states_go_out_in_one_datagram(manager: socket.socket) -> None:
    assert sd_notify.notify(sd_notify.READY, sd_notify.status("watching 3 services"))
    assert manager.recv(4096) == b"READY=1\nSTATUS=watching 3 services"


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"rollbackd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert sd_notify.notify(sd_notify.WATCHDOG)
        assert receiver.recv(4096) == b"WATCHDOG=1"


def test_a_status_of_several_lines_cannot_smuggle_in_an_assignment(manager: socket.socket) -> None:
    assert sd_notify.notify(sd_notify.status("failed\nSTOPPING=1\r\n"))
    assert manager.recv(4096) == b"STATUS=failed STOPPING=1"


def test_reloading_carries_its_time(manager: socket.socket) -> None:
    assert sd_notify.notify(sd_notify.reloading(1_500_000))
    assert manager.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=1500000"


@pytest.mark.parametrize("where", ["", "vsock:2:1234", "relative/path"])
def test_without_a_manager_that_we_know_nothing_is_sent(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", where)
    assert not sd_notify.notify(sd_notify.READY)


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not sd_notify.notify(sd_notify.READY)


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    sent = 0
    while sd_notify.notify(sd_notify.WATCHDOG):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def test_the_watchdog_interval_is_systemds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert sd_notify.watchdog_interval() == timedelta(seconds=60)


def test_a_watchdog_meant_for_our_parent_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert sd_notify.watchdog_interval() is None


@pytest.mark.parametrize("text", ["", "0", "-5", "1e6", "soon", "²"])
def test_an_interval_that_makes_no_sense_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", text)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert sd_notify.watchdog_interval() is None
