"""Which URLs and addresses a callback may be sent to. Pure: names are resolved elsewhere.

A client chooses the URL, and our process calls it from inside the network of the deployment. So only public addresses
are allowed unless the operator names networks of its own. The URL is checked when a request names it; the address is
checked when a connection is made, because a name may resolve to another address by then.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from inferlane.errors import CallbackRefusedError, ConfigurationError, clipped, quoted

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARS = 2_048
_SCHEMES = {"http": 80, "https": 443}
# All that is assigned to hosts of the public Internet. Source: IANA, IPv6 Address Space.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# IPv6 addresses that lead to the IPv4 address in their last 32 bits: IPv4-mapped (RFC 4291, section 2.5.5.2),
# IPv4-compatible (2.5.5.1) and NAT64 (RFC 6052, section 2.1).
_EMBEDDING = (IPv6Network("::ffff:0:0/96"), IPv6Network("::/96"), IPv6Network("64:ff9b::/96"))
# Tunnels, whose far end the address names: 6to4 (RFC 3056) and Teredo (RFC 4380). No receiver needs them.
_TUNNELS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))
# A public address that is the platform's own from within a virtual machine: Azure's wire server.
_PLATFORM = (IPv4Network("168.63.129.16/32"),)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks such as `10.1.0.0/16, fd00::/8`, separated by commas.

    Raises:
        ConfigurationError: an item is not a network.
    """
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigurationError(
            f"INFERLANE_WEBHOOK_ALLOWED_NETWORKS={text!r} is no list of networks: {error}. Write them as "
            "10.1.0.0/16,fd00::/8"
        ) from error


def is_allowed(address: Address, networks: Iterable[Network]) -> bool:
    """Return whether a callback may be sent to the address: a public one, or one in these networks."""
    reached = _reached(address)
    for network in networks:
        if any(at.version == network.version and at in network for at in (address, reached)):
            return True
    if isinstance(reached, IPv4Address):
        return reached.is_global and not reached.is_multicast and not any(reached in network for network in _PLATFORM)
    return reached in _GLOBAL_UNICAST and reached.is_global and not any(reached in tunnel for tunnel in _TUNNELS)


def check_address(text: str, networks: Iterable[Network]) -> None:
    """Return if a callback may be sent to this resolved address.

    Raises:
        CallbackRefusedError: the address is not allowed.
    """
    try:
        address = ip_address(text)
    except ValueError as error:
        raise CallbackRefusedError(f"{quoted(text)} is no IP address") from error
    if not is_allowed(address, networks):
        raise CallbackRefusedError(
            f"{text} is a private, local or reserved address; name a public one, or let the operator allow its network "
            "with INFERLANE_WEBHOOK_ALLOWED_NETWORKS"
        )


def check_url(url: str, networks: Iterable[Network]) -> str:
    """Check the URL of a callback as far as that goes without resolving its name; return its host and port.

    Raises:
        CallbackRefusedError: nothing may be sent there; the message says why.
    """
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise CallbackRefusedError(
            f"the callback URL {quoted(url)} is not {MAX_URL_CHARS} or fewer printable ASCII characters without spaces "
            "and backslashes; encode others with %"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise CallbackRefusedError(f"the callback URL {quoted(url)} is no URL: {clipped(str(error))}") from error
    if parts.scheme not in _SCHEMES:
        raise CallbackRefusedError(f"the callback URL {quoted(url)} does not begin with https:// or http://")
    if "@" in parts.netloc:
        raise CallbackRefusedError(
            "the callback URL holds a user or a password; verify the signature of the callback instead"
        )
    if not host or port == 0 or "#" in url:
        raise CallbackRefusedError(f"the callback URL {quoted(url)} needs a host, a port other than 0 and no fragment")
    literal = _literal(host)
    if literal is not None:
        check_address(literal, networks)
    return f"{host}:{port or _SCHEMES[parts.scheme]}"


def _literal(host: str) -> str | None:
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def _reached(address: Address) -> Address:
    """Return the address that packets to this one reach."""
    if isinstance(address, IPv6Address) and any(address in network for network in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
