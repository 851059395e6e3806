"""Connections to public addresses only.

A list of URLs that somebody published may name, or lead by a redirect or a changed name, to a machine of the network
that this computer stands in. So every connection is made to an address that was looked at: the name is resolved once,
all its addresses are checked, and the socket is opened to the checked address itself, not to the name again.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable

import httpcore

#: For tests only: the local image servers of the tests may be reached while this is set to 1.
ALLOW_LOOPBACK = "VLMTRACE_TEST_ALLOW_LOOPBACK"


class NotPublic(Exception):
    """A host that may not be connected to."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to a machine on the public internet.

    Args:
        address: IPv4 or IPv6; of addresses that contain another one (mapped, tunneled), that one counts

    >>> [is_public(a) for a in ("93.184.216.34", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1")]
    [True, False, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo[1] if ip.teredo else None
        inner = ip.ipv4_mapped or ip.sixtofour or teredo or _translated(ip)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _translated(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a NAT64 gateway would reach."""
    inside = ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("64:ff9b:1::/48")
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if inside else None


def loopback_is_allowed() -> bool:
    """Whether tests allow connections to this machine."""
    return os.environ.get(ALLOW_LOOPBACK) == "1"


class PublicOnly(httpcore.NetworkBackend):
    """Opens connections to public addresses; all of a host's addresses must be public.

    Args:
        allow_loopback: also to this machine itself, as tests need it
    """

    def __init__(self, allow_loopback: bool = False):
        self.allow_loopback = allow_loopback
        self.sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of a host's addresses that answers.

        Args:
            host: name or address
            port: of the host
            timeout: seconds; None: none
            local_address: as httpcore has it
            socket_options: as httpcore has it

        Raises:
            NotPublic: one of the host's addresses is not public
            httpcore.ConnectError: the name cannot be resolved, or no address answers
        """
        error: Exception | None = None
        for address in self.addresses(host, port):
            try:
                return self.sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error or httpcore.ConnectError(f"{host} has no address")

    def addresses(self, host: str, port: int) -> list[str]:
        """All addresses of a host.

        Args:
            host: name or address
            port: of the host

        Raises:
            NotPublic: one of them is not public
            httpcore.ConnectError: the name cannot be resolved
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host!r} cannot be resolved") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not is_public(address) and not (self.allow_loopback and ipaddress.ip_address(address).is_loopback):
                raise NotPublic(f"{host} is at {address}, which is no public address")
        return addresses

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Refuse, since a socket of this machine is not public.

        Args:
            path: of the socket
            timeout: as httpcore has it
            socket_options: as httpcore has it

        Raises:
            NotPublic: always
        """
        raise NotPublic(f"{path} is a socket of this machine")

    def sleep(self, seconds: float) -> None:
        """Wait, as httpcore asks for it.

        Args:
            seconds: how long
        """
        self.sockets.sleep(seconds)
