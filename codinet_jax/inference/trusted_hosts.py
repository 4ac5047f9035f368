"""By which names a server may be asked, so that no page of another site reads it through a browser on this machine.

Such a page may have its own name lead here once it is loaded (DNS rebinding); the browser then asks under that name.
"""

import contextlib
import dataclasses
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from codinet_jax.runtime.errors import InputError

LOOPBACK = frozenset({'localhost', '127.0.0.1', '::1'})
ANY = '*'


@dataclasses.dataclass(frozen=True)
class TrustedHosts:
    """Names and addresses, in small letters and without ports; `ANY` is every one.

    Where `addresses` is set, so is every address in digits: a site that leads elsewhere needs a name.
    """

    names: frozenset[str] = LOOPBACK
    addresses: bool = False

    def have(self, header: str) -> bool:
        """Whether the Host header of a request is one of them."""
        if ANY in self.names:
            return True
        try:
            host = urlsplit(f'//{header}').hostname or ''
        except ValueError:
            return False
        return host in self.names or (self.addresses and _address(host) is not None)


def of_socket(listening: socket.socket, host: str, more: Iterable[str]) -> TrustedHosts:
    """This machine's own names and the address that is listened at.

    Args:
      listening: where the server listens.
      host: what it was told to listen at.
      more: other names, or `ANY`, by which it is to be had.

    Raises:
      InputError: one of these is no name.
    """
    for name in more:
        if name != ANY and not re.fullmatch(r'[\w.-]+', name) and _address(name) is None:
            raise InputError(
                f'--allowed_hosts has {name!r}: give names or addresses alone, without http:// and port, as '
                'demo.example.org, or * for any.'
            )
    address = listening.getsockname()[0]
    is_every_one = ipaddress.ip_address(address).is_unspecified
    return TrustedHosts(LOOPBACK | {name.lower() for name in (host, address, *more)}, is_every_one)


OWN = TrustedHosts()


class HostCheck:
    """Lets an application see the requests to trusted hosts alone; `refused` is called for each of the others.

    Starlette has such a check, which refuses in three words that tell nobody what to do.
    """

    def __init__(self, app: ASGIApp, hosts: TrustedHosts, refused: Callable[[], None]):
        self.app, self.hosts, self.refused = app, hosts, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = Headers(scope=scope).get('host', '') if scope['type'] == 'http' else None
        if header is None or self.hosts.have(header):
            await self.app(scope, receive, send)
            return
        self.refused()
        sentence = f'This server does not go by {header!r}: ask at its own address, or start it with --allowed_hosts.'
        await JSONResponse({'error': sentence}, 400, {'Connection': 'close'})(scope, receive, send)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(text)
    return None
