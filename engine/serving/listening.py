"""The socket that requests over HTTP come to."""

from __future__ import annotations

import socket

from camrt.errors import InputError

__all__ = ["listen"]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: The address is none of this machine, or somebody listens there already.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=1024)
        # Connections inherit it. Without it an answer's body waits for the acknowledgement of its head, which
        # clients put off by 40 ms; asyncio sets it on sockets alone that name TCP as their protocol.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}"
        ) from None
