"""A daemon that follows a cluster: a workload comes, may act, and goes, and the daemon never stops watching."""

import signal
from pathlib import Path
from typing import Any

import yaml

from tests.clusters import MERGE_PATCH, fake_cluster
from tests.contract.kubernetes_worlds import WorkloadWorld
from tests.e2e.ops_host import body
from tests.e2e.toy import listening, toy
from tests.servers import wait_until

LABEL = "example.com/service"


def test_a_workload_comes_and_goes(tmp_path: Path) -> None:
    with fake_cluster() as cluster, listening() as ear, toy(tmp_path / "shop", told=ear.url) as shop:
        world = WorkloadWorld(cluster, tmp_path / "web", history=("web:1", "web:2"))
        layer = {"adapter": "kubernetes", "cluster": "prod", "namespace": "{namespace}", "workload": "{workload}"}
        template = {"match": {"service": "{name}"}, "layers": {"code": layer}}
        entry: dict[str, Any] = {
            "cluster": "prod",
            "namespaces": world.namespace,
            "label": LABEL,
            "every": "1s",
            "template": {**template, "verify": {"checks": [{"tcp": "127.0.0.1:1"}]}},
        }
        path = shop.root / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["clusters"] = {"prod": cluster.settings.model_dump(mode="json", exclude_defaults=True)}
        path.write_text(yaml.safe_dump({**config, "services_from": [entry]}))
        (shop.root / "layers").mkdir(exist_ok=True)

        def mode() -> str | None:
            try:
                services = shop.ask("GET", "services")["services"]
            except OSError:  # between two lives of the daemon
                return None
            return next((one["mode"] for one in services if one["name"] == "web"), "unknown")

        shop.start()
        assert mode() == "unknown"
        cluster.api("PATCH", world.at, {"metadata": {"labels": {LABEL: "web"}}}, MERGE_PATCH)
        wait_until(lambda: mode() == "shadow", "the workload takes part, in shadow mode", 60)
        path.write_text(yaml.safe_dump({**config, "services_from": [{**entry, "act": "web"}]}))
        assert shop.daemon is not None
        shop.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: mode() == "act", "it may act", 60)
        cluster.api("DELETE", world.at)
        wait_until(lambda: mode() == "unknown", "it is gone, and parked", 60)
        wait_until(lambda: body(f"http://127.0.0.1:{shop.port}/readyz", **shop.headers)[0] == 200, "all is well", 60)
        said = [line for message in ear.until_heard("services_followed") for line in message["lines"]]
        assert any("web is new as deployment/web" in str(line) for line in said)
        wait_until(lambda: "web is gone: deployment/web" in ear.text(), "that it is gone is told", 60)
