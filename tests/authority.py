"""A certificate authority of one's own, by openssl: who it signs for is trusted by nobody else."""

import subprocess
from pathlib import Path

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
"""Made at once, where one of RSA takes a part of a second each time."""


class Authority:
    """Keys are closed to others, as ours have to be."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.certificate = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        self._openssl(
            *("req", "-x509", *NEW_KEY, "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-keyout", self._key, "-out", self.certificate),
        )

    def signed(self, name: str, *alternatives: str, passphrase: str = "") -> tuple[Path, Path]:
        """A certificate for names such as `DNS:prometheus.internal` and `IP:127.0.0.1`, and its key."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request = self._directory / f"{name}.csr"
        locked = ("-passout", f"pass:{passphrase}") if passphrase else ("-nodes",)
        self._openssl("req", *NEW_KEY, *locked, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(alternatives or [f'DNS:{name}'])}\n")
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", certificate),
        )
        key.chmod(0o600)
        return certificate, key

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
