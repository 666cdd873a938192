"""Messages between a parent and its worker, over a socket of their own.

Needs msgspec. Apart from the standard streams, which belong to the user's code: whatever a model prints,
no message is ever broken by it. A message is four bytes of length, big-endian, and that much msgpack.

On POSIX the socket is one of a pair, inherited by number. Windows can't inherit one that way, so there the
worker connects to a port on the loopback interface and shows a token.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import sys
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")
_ACCEPT_SECONDS = 60.0


class ClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One end of a socket that carries messages."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self._socket = sock
        self._buffer = bytearray()

    def fileno(self) -> int:
        """The file descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Send one message, whole.

        Raises:
            ClosedError: the other side is gone.
        """
        self.send_packed(msgspec.msgpack.encode(message))

    def send_packed(self, packed: bytes) -> None:
        """Send a message that is packed already."""
        try:
            self._socket.sendall(_LENGTH.pack(len(packed)) + packed)
        except OSError as error:
            raise ClosedError from error

    def receive(self, timeout_seconds: float | None = None) -> bytes | None:
        """The next message, packed; None where none came in time.

        Raises:
            ClosedError: the other side is gone; a message it left half-written is dropped.
        """
        while (message := self._next()) is None:
            if not wait([self._socket], timeout_seconds):
                return None
            self._read()
        return message

    def _read(self) -> None:
        try:
            received = self._socket.recv(1 << 16)
        except OSError as error:
            raise ClosedError from error
        if not received:
            raise ClosedError
        self._buffer += received

    def _next(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message

    def close(self) -> None:
        """Close this end; the other sees that it is gone."""
        self._socket.close()


def pair() -> tuple[Channel, Channel]:
    """Two connected ends within one process, for a fork to part."""
    a, b = socket.socketpair()
    return Channel(a), Channel(b)


@dataclass
class Offer:
    """A channel that a worker is yet to take up: its address for the command line, and what to inherit."""

    address: str
    inherit: tuple[int, ...]
    _socket: socket.socket
    _child_end: socket.socket | None
    _token: bytes = b""

    def accepted(self) -> Channel:
        """The parent's end, once the worker has been started.

        Raises:
            ClosedError: no worker with the right token connected in time.
        """
        if self._child_end is not None:
            self._child_end.close()
            return Channel(self._socket)
        self._socket.settimeout(_ACCEPT_SECONDS)
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            raise ClosedError from error
        finally:
            self._socket.close()
        return _checked(Channel(connection), self._token)


def _checked(channel: Channel, token: bytes) -> Channel:
    if not secrets.compare_digest(channel.receive(_ACCEPT_SECONDS) or b"", token):
        channel.close()
        raise ClosedError
    return channel


def offer() -> Offer:
    """Open a channel for a worker that is about to be started."""
    if sys.platform != "win32":
        ours, theirs = socket.socketpair()
        return Offer(f"fd:{theirs.fileno()}", (theirs.fileno(),), ours, theirs)
    listener = socket.create_server(("127.0.0.1", 0))
    token = secrets.token_hex(16)
    return Offer(f"port:{listener.getsockname()[1]}:{token}", (), listener, None, token.encode())


def take(address: str) -> Channel:
    """The worker's end of an offer."""
    kind, _, rest = address.partition(":")
    if kind == "fd":
        os.set_inheritable(int(rest), False)
        return Channel(socket.socket(fileno=int(rest)))
    port, _, token = rest.partition(":")
    channel = Channel(socket.create_connection(("127.0.0.1", int(port))))
    channel.send_packed(token.encode())
    return channel
