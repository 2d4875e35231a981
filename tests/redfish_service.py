"""A small Redfish service for tests, by HTTPS: one system, its chassis, and what it draws."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"


@dataclass
class Service:
    """What it answers, and what it was told."""

    uuid: str = "4c4c4544-0051-3510-8052-b4c04f4d3132"
    serial: str = "S123456"
    state: str = "On"
    watts: float | None = 137.5
    by_metrics: bool = False
    obeys: bool = True
    systems: tuple[str, ...] = (SYSTEM,)
    target: str = RESET
    chassis: str = "/redfish/v1/Chassis/1"
    allowed: tuple[str, ...] = ("On", "ForceOff", "GracefulShutdown")
    user: tuple[str, str] = ("admin", "opensesame")
    port: int = 0
    told: list[tuple[str, str, Any]] = field(default_factory=list)
    garbage: bytes | None = None

    def answer(self, path: str) -> dict[str, Any] | None:
        """Return what is there."""
        power = "EnvironmentMetrics" if self.by_metrics else "Power"
        there: dict[str, dict[str, Any]] = {
            "/redfish/v1/Systems": {"Members": [{"@odata.id": each} for each in self.systems]},
            SYSTEM: {
                "UUID": self.uuid,
                "SerialNumber": self.serial,
                "PowerState": self.state,
                "Links": {"Chassis": [{"@odata.id": self.chassis}]},
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": self.target,
                        "ResetType@Redfish.AllowableValues": list(self.allowed),
                    }
                },
            },
            "/redfish/v1/Chassis/1": {power: {"@odata.id": f"/redfish/v1/Chassis/1/{power}"}},
            "/redfish/v1/Chassis/1/Power": {"PowerControl": [{"PowerConsumedWatts": self.watts}]},
            "/redfish/v1/Chassis/1/EnvironmentMetrics": {"PowerWatts": {"Reading": self.watts}},
        }
        return there.get(path)

    def reset(self, kind: str) -> None:
        """Do what is ordered, or nothing."""
        if self.obeys:
            self.state = {"On": "On", "ForceOff": "Off"}[kind]


@contextmanager
def serving(certificate: tuple[Path, Path], service: Service) -> Iterator[Service]:
    """Have it answer at ``localhost``, at ``service.port``."""

    class Handler(BaseHTTPRequestHandler):
        def _send(self, code: int, body: Any) -> None:
            content = service.garbage if service.garbage is not None else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _may(self) -> bool:
            wanted = "Basic " + base64.b64encode(":".join(service.user).encode()).decode()
            return self.headers.get("Authorization") == wanted

        def do_GET(self) -> None:
            service.told.append(("GET", self.path, None))
            found = service.answer(self.path) if self._may() else None
            self._send(200 if found is not None else 404 if self._may() else 401, found or {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.told.append(("POST", self.path, body))
            if self._may() and self.path == RESET:
                service.reset(body["ResetType"])
            self._send(200 if self._may() else 401, {})

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, certificate))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    service.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
