"""Tells systemd how the daemon is, over the socket that it gave. Does nothing without one."""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """READY, STATUS, WATCHDOG and STOPPING as sd_notify(3) has them."""

    def __init__(self, address: str | None, watchdog_usec: str | None = None) -> None:
        """`address`: NOTIFY_SOCKET; one that begins with @ is abstract."""
        self._address = address
        self._status = ""
        usec = int(watchdog_usec) if watchdog_usec and watchdog_usec.isdigit() else 0
        self.ping_every: float | None = usec / 1e6 / 3 if usec else None  # seconds

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Notifier:
        """As systemd set the environment; the command line passes it in."""
        return cls(environment.get("NOTIFY_SOCKET"), environment.get("WATCHDOG_USEC"))

    def ready(self) -> None:
        """The daemon works."""
        self._send("READY=1")

    def ping(self) -> None:
        """It still does."""
        if self.ping_every is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changes."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
                stream.connect(address)
                stream.sendall(message.encode())
        except OSError:
            pass  # systemd is restarted or gone: the work goes on
