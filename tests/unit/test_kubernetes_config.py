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
    "adapter: blue_green, cluster: prod, namespace: shop, service: web, colours: {a: deployment/a, b: deployment/b}, "
    'healthy: {a: "http://a.example/", b: "service/https:b:8443/health"}'
)

SCALE = "adapter: scale, cluster: prod, namespace: shop, workloads: [deployment/worker, cronjob/mail]"
CANARY = (
    "adapter: canary, cluster: prod, namespace: shop, route: httproute/web, stable: web, canary: next, "
    "stable_workload: deployment/web, canary_workload: deployment/next"
)


def said(path: Path, layer: str) -> str:
    (path / "config.yaml").write_text(FILE.replace("LAYER", layer))
    with pytest.raises(ConfigErrors) as refused:
        load(path / "config.yaml", look_for=None)
    return str(refused.value).replace(f"{path}/", "")


@pytest.mark.parametrize("layer", [WEB, COLOURS, CANARY], ids=["kubernetes", "blue_green", "canary"])
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
            WEB + ", config_maps: [a, a]",
            "config.yaml:8:7: a ConfigMap is named twice; name it once",
        ),
        (
            COLOURS.replace("healthy: {", 'healthy: {c: "http://c.example/", '),
            'config.yaml:8:7: `healthy` has "c", which is not among `colours`; name one of them',
        ),
        (
            COLOURS.replace('"http://a.example/", b: ', ""),
            'config.yaml:8:7: `healthy` has no "b", so nobody would know that it is well; add it',
        ),
        (
            COLOURS.replace("service/https:b:", "service/web:"),
            "config.yaml:8:7: `healthy` asks the Service that is switched; give each colour a Service of its own",
        ),
        *(
            (
                COLOURS.replace("service/https:b:8443/health", wrong),
                f'config.yaml:8:159: "{wrong}" is no Service\'s port; write it like service/web-blue:8080/health',
            )
            for wrong in ("service/b", "service/b:80/../x", "service/b:80/a?b=c", "service/../b:80/", "service/b:/x")
        ),
        (
            COLOURS.replace("service/https:b:8443/health", "b.example"),
            'config.yaml:8:159: "b.example" is not a URL that can be asked; write it like https://ci.example/api/rollback',
        ),
        (
            COLOURS.replace("deployment/b", "deployment/a"),
            "config.yaml:8:7: two `colours` are one workload, so nothing would move; give each its own",
        ),
        (
            SCALE.replace("cronjob/mail", "daemonset/agent"),
            'config.yaml:8:92: "daemonset/agent" cannot be scaled; write it like deployment/web, statefulset/queue or cronjob/mail',
        ),
        (
            SCALE.replace("cronjob/mail", "deployment/worker"),
            "config.yaml:8:7: a workload is named twice; name it once",
        ),
        (
            CANARY.replace("httproute/web", "route/web"),
            'config.yaml:8:62: "route/web" is no route; write it like virtualservice/web or httproute/web',
        ),
        (
            CANARY.replace("canary: next", "canary: web"),
            "config.yaml:8:7: stable and canary are the same, so nothing would move; give each its own",
        ),
        (
            CANARY + ", stages: [50, 75, 0]",
            "config.yaml:8:7: a canary only goes down, and ends at 0; write `stages` like [75, 50, 25, 0]",
        ),
        (
            CANARY + ", stages: [50, 25]",
            "config.yaml:8:7: a canary only goes down, and ends at 0; write `stages` like [75, 50, 25, 0]",
        ),
        (
            CANARY + ", every: 5m",
            "config.yaml:8:7: the stages take longer than `timeout`; give a longer one, or fewer stages",
        ),
        (
            CANARY.replace("stable: web,", 'stable: "web:v1",'),
            "config.yaml:8:7: an HTTPRoute names Services, which have no subsets; leave out the colon and what follows",
        ),
        (
            CANARY.replace("deployment/next", "daemonset/next") + ", scale_down: true",
            "config.yaml:8:7: a DaemonSet cannot be scaled; leave `scale_down` out",
        ),
        (CANARY + ", between: errors", 'config.yaml:8:178: unknown check "errors"; there is none, define it first'),
    ],
)
def test_what_is_wrong_is_told_at_its_place(tmp_path: Path, layer: str, text: str) -> None:
    assert said(tmp_path, layer) == text
