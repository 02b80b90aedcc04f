"""Layers of clusters in a configuration: what is wrong is told at its place."""

from pathlib import Path

import pytest

from rollbackd.config.load import ConfigErrors, load

FILE = """daemon: {mode: act, open_on_loopback: true}
clusters:
  prod: {kubeconfig: /etc/rollbackd/kubeconfig, context: prod, uid: 0b8f3c52-7e0f-4c1c-9a55-3d3f5d1c2a10}
services:
  - name: checkout
    match: {service: checkout}
    layers:
      web: {LAYER}
    verify: {checks: [{http: http://127.0.0.1:3000/health}]}
"""
WEB = "adapter: kubernetes, cluster: prod, namespace: shop, workload: deployment/web"
COLOURS = (
    "adapter: blue_green, cluster: prod, namespace: shop, service: web, colours: {a: deployment/a, b: deployment/b}"
)


def said(path: Path, layer: str) -> str:
    (path / "config.yaml").write_text(FILE.replace("LAYER", layer))
    with pytest.raises(ConfigErrors) as refused:
        load(path / "config.yaml", look_for=None)
    return str(refused.value).replace(f"{path}/", "")


@pytest.mark.parametrize("layer", [WEB, COLOURS], ids=["kubernetes", "blue_green"])
def test_a_sound_one_loads(tmp_path: Path, layer: str) -> None:
    (tmp_path / "config.yaml").write_text(FILE.replace("LAYER", layer))
    load(tmp_path / "config.yaml", look_for=None)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (WEB.replace("prod", "prodd"), 'config.yaml:8:34: unknown cluster "prodd"; did you mean "prod"?'),
        (
            WEB.replace("deployment/web", "web"),
            'config.yaml:8:66: "web" is no workload; write it like deployment/web, statefulset/queue or daemonset/agent',
        ),
        (
            WEB.replace("deployment/web", "deployment/../x"),
            'config.yaml:8:66: "deployment/../x" is no workload; write it like deployment/web, statefulset/queue or daemonset/agent',
        ),
        (
            WEB + ", unstick: true",
            "config.yaml:8:7: only a StatefulSet's pods block each other; leave `unstick` out",
        ),
        (
            COLOURS + ', healthy: {c: "http://c.example/"}',
            'config.yaml:8:7: `healthy` has "c", which is not among `colours`; name one of them',
        ),
        (
            COLOURS.replace("deployment/b", "deployment/a"),
            "config.yaml:8:7: two `colours` are one workload, so nothing would move; give each its own",
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_place(tmp_path: Path, layer: str, text: str) -> None:
    assert said(tmp_path, layer) == text
