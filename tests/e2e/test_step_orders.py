"""What a release's own code can say to the daemon that runs it: it may read, and gives no orders."""

import getpass
import json
from pathlib import Path

import pytest

from tests.e2e.toy import Toy, toy
from tests.servers import wait_until

AFTER_THE_RESTART = "after the daemon's restart"
# How a program of a release goes about it, in the words of sh; `$1` is the one order that it gives.
WAYS = {
    "itself": "$TALK $1",
    "a child": 'sh -c "$TALK $1"',
    "in the background": "($TALK $1) & wait",
    "another session": "setsid --wait $TALK $1",
    "a daemon of its own": "(setsid $TALK $1 >/dev/null 2>&1 </dev/null &)",
    "an orphan of an orphan": "(setsid sh -c \"(setsid sh -c 'sleep 0.3; $TALK $1' &)\" &)",
    "without its surroundings": "(setsid env -i $TALK $1 >/dev/null 2>&1 </dev/null &)",
    "after its step": "(setsid sh -c 'sleep 2; $TALK $1' >/dev/null 2>&1 </dev/null &)",
    AFTER_THE_RESTART: "(setsid env -i /bin/sh -c 'while [ ! -e $ROOT/go ]; do sleep 0.1; done; $TALK $1' "
    ">/dev/null 2>&1 </dev/null &)",
}
ORDERS = {
    "hold": ("PUT", "/api/v1/holds/shop"),
    "approve": ("POST", "/api/v1/incidents/shop/approve"),
    "abort": ("POST", "/api/v1/incidents/shop/abort"),
    "rollback": ("POST", "/api/v1/services/shop/rollback"),
    "changed": ("POST", "/api/v1/changes"),
    "read": ("GET", "/api/v1/services/shop"),
}
TALK = """\
import http.client, json, os, socket, sys
method, path = json.load(open({root!r} + "/orders"))[sys.argv[1]]
connection = http.client.HTTPConnection("x")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect({root!r} + "/socket")
connection.request(method, path, b"{{}}", {{"Content-Type": "application/json"}})
answer = connection.getresponse()
text = json.dumps([answer.status, answer.read().decode()])
open({root!r} + f"/said.{{os.getpid()}}", "w").write(text)
os.rename({root!r} + f"/said.{{os.getpid()}}", {root!r} + f"/answer.{{sys.argv[1]}}")
"""


def release_says(shop: Toy, way: str, orders: tuple[str, ...]) -> None:
    """From now on what is rolled back to gives these orders, in that way."""
    (shop.root / "orders").write_text(json.dumps(ORDERS))
    (shop.root / "talk.py").write_text(TALK.format(root=str(shop.root)))
    talk = shop.root / "talk"
    talk.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -I {shop.root}/talk.py "$@"\n')
    talk.chmod(0o755)
    apply = shop.root / "apply"
    said = WAYS[way].replace("$TALK", str(talk)).replace("$ROOT", str(shop.root))
    lines = "\n".join(f"set -- {order}; {said.replace('$1', order)}" for order in orders)
    apply.write_text(apply.read_text() + f'if [ "$1" = code ]; then\n{lines}\nfi\n')


def answer(shop: Toy, order: str) -> tuple[int, str]:
    path = shop.root / f"answer.{order}"
    wait_until(path.exists, f"{order} was answered", 30)
    status, text = json.loads(path.read_text())
    return status, text


@pytest.mark.parametrize("way", WAYS)
def test_a_release_gives_no_orders_whichever_way_it_goes_about_it(tmp_path: Path, way: str) -> None:
    with toy(tmp_path / "shop") as shop:
        shop.start_with_two_states()
        release_says(shop, way, tuple(ORDERS))
        incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
        if way == AFTER_THE_RESTART:
            shop.until_closed(incident)
            shop.reboot()
            shop.touch("go")
        for order in ORDERS:
            status, said = answer(shop, order)
            if order == "read":
                assert status == 200
                continue
            assert status == 403, (order, said)
            assert f"step:{getpass.getuser()} may not do this; it needs the role" in said
            assert "what a step runs may read, and gives no orders" in said
        assert shop.until_closed(incident)["outcome"] == "recovered"
        assert shop.ask("GET", "holds")["holds"] == []
        done = shop.command("hold", "shop")
        assert done.returncode == 0, "a person gives them all the same"
        assert shop.ask("GET", "holds")["holds"][0]["actor"] == f"unix:{getpass.getuser()}"


def test_orphans_of_steps_are_taken_leave_of(tmp_path: Path) -> None:
    with toy(tmp_path / "shop") as shop:
        look = shop.root / "look"
        look.write_text(look.read_text().replace("\n", "\n(setsid sleep 0.2 >/dev/null 2>&1 &)\n", 1))
        shop.start_with_two_states()
        assert shop.daemon is not None
        pid = shop.daemon.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")

        def dead() -> int:
            found = [Path(f"/proc/{child}/stat") for child in children.read_text().split()]
            return sum(stat.read_text().rpartition(")")[2].split()[0] == "Z" for stat in found if stat.exists())

        most = 0
        for _ in range(20):
            shop.until_looked()
            most = max(most, dead())
        assert most <= 20, "they do not become more and more"
