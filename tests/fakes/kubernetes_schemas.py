"""The schemas of custom resources as far as rollbackd and its tests write them; a field that is not here is refused.

https://keda.sh/docs/latest/reference/scaledobject-spec/
https://istio.io/latest/docs/reference/config/networking/virtual-service/
https://gateway-api.sigs.k8s.io/reference/spec/#httproute
https://argo-rollouts.readthedocs.io/en/stable/features/specification/
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def shape(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(items: Schema, least: int = 0, most: int = 1000) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def resource(spec: Schema) -> Schema:
    free: Schema = {"type": "object"}
    return shape(("kind", "metadata", "spec"), apiVersion=TEXT, kind=TEXT, metadata=free, spec=spec, status=free)


TARGET = shape(("name",), apiVersion=TEXT, kind=TEXT, name=TEXT)
MATCH: Schema = {"type": "object"}
DESTINATION = shape(("host",), host=TEXT, subset=TEXT, port=shape((), number=PORT))
ISTIO_HTTP = shape(
    (),
    name=TEXT,
    match=listed(MATCH),
    route=listed(shape(("destination",), destination=DESTINATION, weight=COUNT, headers=MATCH)),
    mirror=DESTINATION,
    timeout=TEXT,
    retries=MATCH,
)
BACKEND = {
    **shape(
        ("name",),
        group={"type": "string"},
        kind=TEXT,
        name=TEXT,
        namespace=TEXT,
        port=PORT,
        weight={"type": "integer", "minimum": 0, "maximum": 1_000_000},
        filters=listed(MATCH, most=16),
    ),
    "if": {"properties": {"group": {"const": ""}, "kind": {"const": "Service"}}},
    "then": {"required": ["port"]},
}
GATEWAY_RULE = shape(
    (),
    name=TEXT,
    matches=listed(MATCH, most=64),
    filters=listed(MATCH, most=16),
    backendRefs=listed(BACKEND, most=16),
    timeouts=MATCH,
)
SCHEMAS: dict[str, Schema] = {
    "HorizontalPodAutoscaler": resource(
        shape(
            ("scaleTargetRef", "maxReplicas"),
            scaleTargetRef=TARGET,
            minReplicas=COUNT,
            maxReplicas={"type": "integer", "minimum": 1},
            metrics=listed(MATCH),
        )
    ),
    "ScaledObject": resource(
        shape(
            ("scaleTargetRef", "triggers"),
            scaleTargetRef=TARGET,
            minReplicaCount=COUNT,
            maxReplicaCount={"type": "integer", "minimum": 1},
            triggers=listed(shape(("type", "metadata"), type=TEXT, metadata=MATCH), least=1),
        )
    ),
    "VirtualService": resource(shape((), hosts=listed(TEXT), gateways=listed(TEXT), http=listed(ISTIO_HTTP))),
    "HTTPRoute": resource(
        shape(
            (),
            parentRefs=listed(shape(("name",), group=TEXT, kind=TEXT, name=TEXT, namespace=TEXT), most=32),
            hostnames=listed(TEXT, most=16),
            rules=listed(GATEWAY_RULE, least=1, most=16),
        )
    ),
    "Rollout": resource(shape((), strategy=shape((), canary=shape((), trafficRouting=MATCH)))),
}
