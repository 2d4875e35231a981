"""A guest's serial console and its graphical display on pages of their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, WebSocket

from mudanza.service.pages.session import Mover
from mudanza.service.pages.site import page
from mudanza.service.pages.talking import talk
from mudanza.service.sight import find_vm

router = APIRouter(prefix="/vms/{key}")
Key = Annotated[str, Path(min_length=1, max_length=255)]


@router.get("/console")
def console(request: Request, visitor: Mover, key: Key) -> Response:
    """Show the console of a guest that runs."""
    return page(request, "console.html", visitor, vm=find_vm(request.app.state.desk, visitor, key))


@router.get("/display")
def display(request: Request, visitor: Mover, key: Key) -> Response:
    """Show the display of a guest that runs."""
    return page(request, "display.html", visitor, vm=find_vm(request.app.state.desk, visitor, key))


@router.websocket("/console/stream")
async def console_stream(socket: WebSocket, key: Key) -> None:
    """Bring what the guest writes, and take what is typed."""
    await talk(socket, key, "console", lambda hands, vm: hands.console(vm.uuid, vm.host))


@router.websocket("/display/stream")
async def display_stream(socket: WebSocket, key: Key) -> None:
    """Bring what the guest shows, and take what its keys and pointer do: RFB (RFC 6143) from ClientInit on, for the
    daemon has logged in at the display."""
    await talk(socket, key, "display", lambda hands, vm: hands.display(vm.uuid, vm.host))
