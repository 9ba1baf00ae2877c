"""Addresses to listen on: IPv4 and IPv6, host names, and Unix sockets."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from encoder_service.errors import ServiceError

_UNIX = "unix:"


def is_local(host: str) -> bool:
    """Return whether only this machine can reach a host: a loopback address, "localhost" or `unix:PATH`."""
    if host == "localhost" or host.startswith(_UNIX):
        return True
    try:
        return ipaddress.ip_address(bare(host)).is_loopback
    except ValueError:
        return False


def bare(host: str) -> str:
    """Return a host without the brackets that an IPv6 address may have."""
    return host.removeprefix("[").removesuffix("]")


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address. `unix:PATH` has no port."""
    if host.startswith(_UNIX):
        return host
    return f"[{bare(host)}]:{port}" if ":" in host else f"{host}:{port}"


def resolved(host: str, port: int) -> list[str]:
    """Return the IP addresses to listen on for a host, each without brackets; for `unix:PATH`, the host itself.

    The server binds each address separately. If gRPC bound a name itself, it would report success even if it could
    listen on only some of the name's addresses.

    Raises:
        ServiceError: The host is unknown.
    """
    if host.startswith(_UNIX):
        return [host]
    try:
        found = socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServiceError(f"can't listen on {joined(host, port)}: {error.strerror}: name another --host") from error
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    own = [address for family, address in addresses if len(addresses) == 1 or _is_own(family, address)]
    return own or [address for _, address in addresses]


@contextmanager
def reserved(host: str, port: int, option: str) -> Iterator[int]:
    """Keep a port for the worker processes of this service, on every address of a host, and yield the port.

    The sockets that keep the port do not listen, so they receive no connections.

    Args:
        host: Name or address to listen on.
        port: Port to listen on; 0 picks a free one.
        option: Option that names the port, for the error message.

    Raises:
        ServiceError: The host is unknown, or another process listens on the port.
    """
    with ExitStack() as stack:
        for address in resolved(host, port):
            try:
                # SO_REUSEPORT alone would succeed even if the workers of another service listened on the port
                with _bound(address, port, reuse_port=False) as probe:
                    port = probe.getsockname()[1]
                stack.enter_context(_bound(address, port, reuse_port=True))
            except OSError as error:
                raise ServiceError(
                    f"can't listen on {joined(address, port)}: {error.strerror}: choose another {option} "
                    "(0 for a free one), or stop the other process"
                ) from error
        yield port


def _bound(address: str, port: int, reuse_port: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


def _is_own(family: int, address: str) -> bool:
    """Return whether an address is one of this machine's.

    A name may resolve to others too: "localhost" may be ::1 even on a machine without IPv6.
    """
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
