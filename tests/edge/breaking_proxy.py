"""A proxy that passes some bytes of each connection on and then resets it.

What it lets through reaches the server as a request that never ends; the client sees a reset in
the middle of its body, or before the answer.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: closing sends RST


@dataclass
class BreakingProxy:
    """`limits` holds, per connection to come, how many bytes of it are passed on; then all are."""

    port: int
    limits: list[int] = field(default_factory=list)
    resets: int = 0

    @property
    def url(self) -> str:
        """Where to connect to."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def breaking_proxy(server_url: str) -> Iterator[BreakingProxy]:
    """A proxy in front of a server of this machine."""
    target = ("127.0.0.1", int(server_url.rsplit(":", 1)[1]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = BreakingProxy(listener.getsockname()[1])
        thread = threading.Thread(target=_accept, args=(listener, target, proxy), daemon=True)
        thread.start()
        yield proxy
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, target: tuple[str, int], proxy: BreakingProxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(target)
        limit = proxy.limits.pop(0) if proxy.limits else None
        threading.Thread(target=_send, args=(client, server, limit, proxy), daemon=True).start()
        threading.Thread(target=_answer, args=(server, client), daemon=True).start()


def _send(
    client: socket.socket, server: socket.socket, limit: int | None, proxy: BreakingProxy
) -> None:
    passed = 0
    with suppress(OSError):
        while data := client.recv(4096):
            if limit is not None and passed + len(data) > limit:
                server.sendall(data[: limit - passed])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                proxy.resets += 1
                break
            server.sendall(data)
            passed += len(data)
    for end in (client, server):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR) if end is server else None
        end.close()


def _answer(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while data := server.recv(65536):
            client.sendall(data)
