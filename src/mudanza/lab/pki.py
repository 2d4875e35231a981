"""A certificate authority for one lab, and certificates where libvirt and QEMU look for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from mudanza.lab.cell import Cell

VALID_DAYS = 365

# libvirt wants both of these usages said outright; its checks are in src/rpc/virnettlscontext.c.
_CONFIG = """\
[req]
prompt = no
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[member]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
"""
# The group ffdhe2048 of RFC 7919. Without it QEMU makes parameters of its own whenever it is to receive with TLS, for
# 0.4 to 1.5 s, and then has no use for them: TLS 1.3 agrees on its keys by elliptic curves.
_DH_PARAMETERS = """\
-----BEGIN DH PARAMETERS-----
MIIBDAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAgICAQA=
-----END DH PARAMETERS-----
"""


class Authority:
    """The lab's own CA: ``cert.pem`` and ``key.pem`` in its directory."""

    def __init__(self, switch: Cell, directory: Path) -> None:
        self._switch = switch
        self.directory = directory
        self.certificate = directory / "cert.pem"
        self._key = directory / "key.pem"
        self._config = directory / "openssl.cnf"

    def create(self) -> None:
        """Make the CA."""
        self.directory.mkdir(mode=0o700)
        self._config.write_text(_CONFIG)
        self._request("mudanza lab CA", "authority", self.certificate, self._key)

    def issue(self, name: str, address: str, certificate: Path, key: Path) -> None:
        """Write a certificate, and its key, for a server and client reached by name or by address."""
        signer = ["-CA", str(self.certificate), "-CAkey", str(self._key)]
        names = ["-addext", f"subjectAltName=DNS:{name},IP:{address}"]
        self._request(name, "member", certificate, key, *signer, *names)

    def _request(self, name: str, section: str, certificate: Path, key: Path, *more: str) -> None:
        key_kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        where = ["-config", str(self._config), "-extensions", section, "-keyout", str(key), "-out", str(certificate)]
        self._switch.run([
            "openssl", "req", "-x509", "-sha256", "-days", str(VALID_DAYS), "-subj", f"/O=mudanza lab/CN={name}",
            *key_kind, *where, *more,
        ])  # fmt: skip


def install(authority: Authority, etc: Path, name: str, address: str) -> None:
    """Put the CA and a certificate for libvirt's and QEMU's TLS into a private /etc."""
    libvirt, qemu, ca = (etc / "pki" / part for part in ("libvirt", "qemu", "CA"))
    for directory in (libvirt / "private", qemu, ca):
        directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(authority.certificate, ca / "cacert.pem")
    shutil.copyfile(authority.certificate, qemu / "ca-cert.pem")
    certificate, key = libvirt / "servercert.pem", libvirt / "private/serverkey.pem"
    authority.issue(name, address, certificate, key)
    for copy in (libvirt / "clientcert.pem", qemu / "server-cert.pem", qemu / "client-cert.pem"):
        shutil.copyfile(certificate, copy)
    (qemu / "dh-params.pem").write_text(_DH_PARAMETERS)
    for copy in (libvirt / "private/clientkey.pem", qemu / "server-key.pem", qemu / "client-key.pem"):
        shutil.copy(key, copy)
