"""Certificates for tests, made by the command openssl."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """
[req]
distinguished_name = dn
[dn]
[all]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
"""


@dataclass(frozen=True)
class Cert:
    """A certificate and its key, as files."""

    pem: str
    key: str


class Authority:
    """Issues certificates, in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "openssl.cnf").write_text(_CONFIG)
        use = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        self._ca = self._make("authority", use, [])
        self.pem = self._ca.pem

    def issue(self, name: str, *hosts: str) -> Cert:
        """A certificate for name, as server of hosts and as client."""
        names = ",".join(f"{'IP' if h[0].isdigit() else 'DNS'}:{h}" for h in hosts or [name])
        signed = ["-CA", self._ca.pem, "-CAkey", self._ca.key]
        return self._make(name, [f"subjectAltName={names}"], signed)

    def server_context(self, cert: Cert | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert = cert or self.issue("server", "localhost", "127.0.0.1")
        context.load_cert_chain(cert.pem, cert.key)
        return context

    def client_context(self, cert: Cert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.pem)
        if cert is not None:
            context.load_cert_chain(cert.pem, cert.key)
        return context

    def _make(self, name: str, extensions: list[str], options: list[str]) -> Cert:
        cert = Cert(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", cert.key, "-out", cert.pem]
        command = ["openssl", "req", "-x509", *key, *files, "-days", "2", "-subj", f"/CN={name}"]
        config = ["-config", str(self._directory / "openssl.cnf"), "-extensions", "all"]
        more = [part for extension in extensions for part in ("-addext", extension)]
        subprocess.run(
            [*command, *config, *options, *more], check=True, capture_output=True, timeout=60
        )
        return cert
