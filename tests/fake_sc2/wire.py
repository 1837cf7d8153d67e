"""The server's side of a WebSocket (RFC 6455), as far as the SC2 API needs it: one client, whole binary messages."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
PATH = "/sc2api"


class Closed(Exception):
    """The client has gone."""


class Wire:
    """One client's connection."""

    def __init__(self, connection: socket.socket) -> None:
        """Shakes hands.

        Raises:
            Closed: the client went away, or wanted something else.
        """
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        head = self._until(b"\r\n\r\n").decode("latin1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if head[0].split()[1:2] != [PATH] or "sec-websocket-key" not in fields:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            raise Closed
        digest = hashlib.sha1(fields["sec-websocket-key"].encode() + _MAGIC).digest()
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + base64.b64encode(digest)
            + b"\r\n\r\n"
        )

    def receive(self) -> bytes:
        """The client's next message.

        Raises:
            Closed: there will be none.
        """
        message = b""
        while True:
            last, kind, payload = self._frame()
            if kind == _CLOSE:
                self.connection.sendall(frame(payload, _CLOSE))
                raise Closed
            if kind == _PING:
                self.connection.sendall(frame(payload, _PONG))
            elif kind in (_CONTINUATION, _TEXT, _BINARY):  # pysc2 calls its bytes text
                message += payload
                if last:
                    return message

    def send(self, message: bytes) -> None:
        """Sends one binary message."""
        self.connection.sendall(frame(message, _BINARY))

    def _frame(self) -> tuple[bool, int, bytes]:
        """Whether it is its message's last, its kind and its unmasked payload."""
        first, second = self._take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        mask = self._take(4) if second & 0x80 else bytes(4)
        return bool(first & 0x80), first & 0x0F, _unmask(self._take(size), mask)

    def _until(self, end: bytes) -> bytes:
        """What comes before ``end``, which is taken too."""
        while end not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self) -> None:
        """Waits for further bytes."""
        try:
            new = self.connection.recv(1 << 16)
        except OSError as error:
            raise Closed from error
        if not new:
            raise Closed
        self._buffer += new


def frame(payload: bytes, kind: int = _BINARY) -> bytes:
    """An unmasked frame, as servers send them."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB", 0x80 | kind, size) + payload
    if size < 1 << 16:
        return struct.pack(">BBH", 0x80 | kind, 126, size) + payload
    return struct.pack(">BBQ", 0x80 | kind, 127, size) + payload


def _unmask(payload: bytes, mask: bytes) -> bytes:
    """``payload`` XOR the repeated ``mask``."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
