"""An admission webhook for a real cluster: it makes another object of what is written, or refuses it."""

import base64
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.fakes.kubernetes_api import ADMITTED, Refused
from tests.fakes.kubernetes_controllers import Object
from tests.fakes.smtp import make_certificate

NAME = "policy.example.com"


class AdmissionWebhook:
    """Serves one hook over TLS until it is closed."""

    def __init__(self, directory: Path, hook: Callable[[Object], Object]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps({**asked, "response": _response(asked["request"], hook)}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._certificate, key = make_certificate(directory)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(self._certificate, key)
        self._server.socket = served.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def configuration(self, name: str, namespace: str) -> Object:
        """What makes a server ask it about what is in a namespace."""
        bundle = base64.b64encode(self._certificate.read_bytes()).decode()
        hook = {
            "name": NAME,
            "clientConfig": {"url": f"https://127.0.0.1:{self._server.server_port}/", "caBundle": bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [
                {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": [resource]}
                for resource, group in ADMITTED.items()
            ],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        version = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
        return {**version, "metadata": {"name": name}, "webhooks": [hook]}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _response(request: Object, hook: Callable[[Object], Object]) -> Object:
    try:
        made = hook(request["object"])
    except Refused as refused:
        return {"uid": request["uid"], "allowed": False, "status": {"code": refused.status, "message": str(refused)}}
    patch = json.dumps([{"op": "replace", "path": "/spec", "value": made["spec"]}]).encode()
    return {
        "uid": request["uid"],
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(patch).decode(),
    }
