"""A node for the pods of the strict fake: each is a small process with an address of its own on loopback.

What a kubelet would say of them it says to the API: an image that is `absent` cannot be pulled, a process that ends at
once is in a crash loop, one that answers `/health` is ready.
"""

import itertools
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.clusters import MERGE_PATCH, Cluster
from tests.fakes.kubernetes_controllers import ENDED
from tests.servers import answers

PORT = 8080
_ADDRESSES = itertools.count(1)


@dataclass
class Container:
    """A pod's process; none where its image cannot be had."""

    address: str
    process: subprocess.Popen[bytes] | None
    told: tuple[str, bool] = ("", False)

    @property
    def condition(self) -> tuple[str, bool]:
        """Why it waits, and whether it is ready."""
        if self.process is None:
            return "ImagePullBackOff", False
        if self.process.poll() is not None:
            return "CrashLoopBackOff", False
        ready = self.told[1] or answers(f"http://{self.address}:{PORT}/health")
        return ("" if ready else "ContainerCreating"), ready

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()


class Node:
    """Runs what is in one namespace, until the end of the block."""

    def __init__(self, cluster: Cluster, namespace: str, program: Path, log: Path, env: Mapping[str, str]) -> None:
        """:param program: what runs in every pod, with its address and its image as arguments."""
        assert cluster.fake is not None
        cluster.fake.controllers.kubelet_elsewhere = True
        self._api, self._pods = cluster.api, f"/api/v1/namespaces/{namespace}/pods"
        self._program, self._log, self._env = program, log, dict(env)
        self._running: dict[str, Container] = {}
        self._gone: list[Container] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            pods = {each["metadata"]["uid"]: each for each in self._api("GET", self._pods)["items"]}
            for uid in self._running.keys() - pods:
                self._running[uid].end()
                self._gone.append(self._running.pop(uid))
            for uid, pod in pods.items():
                if pod.get("status", {}).get("phase") not in ENDED:
                    self._tell(pod, self._running.get(uid) or self._begin(uid, pod))

    def _begin(self, uid: str, pod: Mapping[str, Any]) -> Container:
        image, address = pod["spec"]["containers"][0]["image"], f"127.77.0.{next(_ADDRESSES)}"
        process = None
        if "absent" not in image:
            argv = [sys.executable, "-I", str(self._program), address, image]
            with self._log.open("ab") as log:
                process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env)
        self._running[uid] = Container(address, process)
        return self._running[uid]

    def _tell(self, pod: Mapping[str, Any], container: Container) -> None:
        waiting, ready = condition = container.condition
        if condition == container.told:
            return
        image, name = pod["spec"]["containers"][0]["image"], pod["spec"]["containers"][0]["name"]
        state = {"waiting": {"reason": waiting, "message": f"{image}: {waiting}"}} if waiting else {"running": {}}
        status = {
            "phase": "Pending" if waiting else "Running",
            "podIP": container.address,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [
                {"name": name, "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}
            ],
        }
        with suppress(urllib.error.HTTPError):  # it is gone
            self._api("PATCH", f"{self._pods}/{pod['metadata']['name']}/status", {"status": status}, MERGE_PATCH)
            container.told = condition

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=30)
        for container in self._running.values():
            container.end()
        for container in (*self._running.values(), *self._gone):
            if container.process is not None:
                container.process.wait(timeout=30)
