"""Pod templates: what of one is its release, what it needs, and what people call it. No I/O."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from rollbackd.system.spawner import one_line

Template = dict[str, Any]
"""A pod template, as the server gave it."""

HASH_LABEL = "pod-template-hash"
"""A controller's, in the templates of ReplicaSets."""
_RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""What `kubectl rollout restart` writes: the same release once more."""
_PINNED = "rollbackd/pinned"
"""The digests that we set beside the tags of a template: the same release, though its images are other texts."""
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})")
_CONTAINERS = ("initContainers", "containers")
_ID_LENGTH = 40


def own_template(template: Mapping[str, object]) -> Template:
    """The template as its workload had it, without what a controller adds to the copy that it keeps, and without the
    digests that we pinned it to.
    """
    kept = _unpinned({key: value for key, value in template.items() if key != "$patch"})
    metadata = dict(kept.get("metadata") or {})
    if metadata.get("creationTimestamp", "") is None:
        del metadata["creationTimestamp"]
    if HASH_LABEL in (labels := metadata.get("labels") or {}):
        metadata["labels"] = {key: value for key, value in labels.items() if key != HASH_LABEL}
    return {**kept, "metadata": metadata}


def template_id(template: Mapping[str, object]) -> str:
    """A hash of 40 hex digits over all its content but marks of a restart."""
    plain = own_template(template)
    metadata = plain["metadata"]
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != _RESTARTED}
    metadata = {key: value for key, value in {**metadata, "annotations": annotations}.items() if value}
    return content_id({**plain, "metadata": metadata})


def content_id(value: object) -> str:
    """A hash of 40 hex digits over a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]


def with_digests(template: Template, digests: Mapping[str, str]) -> Template:
    """The template with each image at its digest, and a note of that by which it is known as the same release.

    :param digests: by the containers' names; what has none, or names one itself, stays.
    """
    pinned = {name: digest for name, digest in digests.items() if "@" not in images(template).get(name, "@")}
    if not pinned:
        return template
    metadata = dict(template.get("metadata") or {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), _PINNED: json.dumps(pinned, sort_keys=True)}
    made = _with_images(template, {name: f"@{digest}" for name, digest in pinned.items()}, add=True)
    return {**made, "metadata": metadata}


def restarted(template: Template, when: str) -> Template:
    """The same release, whose pods are replaced all the same."""
    metadata = dict(template.get("metadata") or {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), _RESTARTED: when}
    return {**template, "metadata": metadata}


def _unpinned(template: Template) -> Template:
    """Without the digests that our note says; images that somebody else set since stay as they are."""
    metadata = template.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    if _PINNED not in annotations:
        return template
    rest = {key: value for key, value in annotations.items() if key != _PINNED}
    plain = {**template, "metadata": {**metadata, "annotations": rest}}
    try:
        pinned = {str(name): f"@{digest}" for name, digest in json.loads(annotations[_PINNED]).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return plain
    return _with_images(plain, pinned, add=False)


def _with_images(template: Template, endings: Mapping[str, str], *, add: bool) -> Template:
    """With these endings at the images of these containers, or without them."""
    spec = dict(template["spec"])
    for kind in _CONTAINERS:
        if spec.get(kind):
            spec[kind] = [_with_image(each, endings.get(each.get("name"), ""), add=add) for each in spec[kind]]
    return {**template, "spec": spec}


def _with_image(container: Mapping[str, object], ending: str, *, add: bool) -> Mapping[str, object]:
    image = str(container.get("image", ""))
    return {**container, "image": f"{image}{ending}" if add else image.removesuffix(ending)} if ending else container


def digests_of(template: Template, pods: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Of each container whose image runs in one of these pods: the image, and the digest that its node says of it; of
    several pods what the newest says.
    """
    found: dict[str, tuple[str, str]] = {}
    wanted = images(template)
    for pod in sorted(pods, key=lambda pod: str((pod.get("metadata") or {}).get("creationTimestamp"))):
        status, own = pod.get("status") or {}, images(pod)
        for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            name, told = str(each.get("name")), _DIGEST.search(str(each.get("imageID")))
            if told and own.get(name, "").removesuffix(told[0]) == wanted.get(name):
                found[name] = (wanted[name], told[1])
    return found


def is_template(value: object) -> TypeGuard[Template]:
    """Whether it can be one: an object with containers."""
    spec = value.get("spec") if isinstance(value, dict) else None
    return isinstance(spec, dict) and isinstance(spec.get("containers"), list)


def images(template: Mapping[str, Any]) -> dict[str, str]:
    """The images of a template, or of a pod, by the names of its containers."""
    return {str(each.get("name")): str(each.get("image", "")) for each in _containers(template.get("spec") or {})}


def label_of(template: Mapping[str, object], revision: str = "") -> str:
    """For people: `web:1.4, proxy:2 (revision 7)`."""
    short = ", ".join(dict.fromkeys(image.rpartition("/")[2] for image in images(template).values()))
    return one_line(f"{short} (revision {revision})" if revision else short)


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in _CONTAINERS:
        yield from (each for each in spec.get(kind) or () if isinstance(each, dict))


class NeededObject(NamedTuple):
    """An object that pods of a template cannot start without."""

    resource: str
    """In URLs: `configmaps`, `secrets`, …"""
    name: str
    keys: frozenset[str] = frozenset()
    """Of a ConfigMap: entries that must be in it."""


_WORDS = {
    "configmaps": "ConfigMap",
    "secrets": "Secret",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "serviceaccounts": "ServiceAccount",
}


def kind_of(needed: NeededObject) -> str:
    """`ConfigMap` for `configmaps`."""
    return _WORDS[needed.resource]


def needed_objects(template: Mapping[str, Any]) -> list[NeededObject]:
    """What it refers to in its namespace, each once, without what is optional."""
    keys: dict[tuple[str, str], set[str]] = {}
    for resource, name, key in _references(template.get("spec") or {}):
        keys.setdefault((resource, name), set()).update({key} if key else ())
    return [NeededObject(*which, frozenset(found)) for which, found in sorted(keys.items())]


def _references(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Resource, name and, of a ConfigMap, the entry that is needed."""
    if account := spec.get("serviceAccountName"):
        yield "serviceaccounts", account, ""
    for secret in spec.get("imagePullSecrets") or ():
        if secret.get("name"):
            yield "secrets", secret["name"], ""
    for container in _containers(spec):
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            yield from _named("configmaps", source.get("configMapKeyRef"), "name")
            yield from _named("secrets", source.get("secretKeyRef"), "name")
        for source in container.get("envFrom") or ():
            yield from _named("configmaps", source.get("configMapRef"), "name")
            yield from _named("secrets", source.get("secretRef"), "name")
    for volume in spec.get("volumes") or ():
        projected = (volume.get("projected") or {}).get("sources") or ()
        for source in (volume, *projected):
            yield from _named("configmaps", source.get("configMap"), "name")
        yield from _named("secrets", volume.get("secret"), "secretName")
        for source in projected:
            yield from _named("secrets", source.get("secret"), "name")
        yield from _named("persistentvolumeclaims", volume.get("persistentVolumeClaim"), "claimName")


def _named(resource: str, source: Mapping[str, Any] | None, name: str) -> Iterator[tuple[str, str, str]]:
    if not source or source.get("optional") or not source.get(name):
        return
    keys = [source["key"]] if source.get("key") else [item.get("key", "") for item in source.get("items") or ()]
    for key in keys or [""]:
        yield resource, source[name], key if resource == "configmaps" else ""
