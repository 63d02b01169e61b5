"""Where a server listens: `::` takes IPv4 too, and a name is bound at the address that its clients are told."""

import asyncio
import re
import socket
from typing import Any

import pytest

from control_plane.local.profile import claim_port, is_free
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.listen_address import ListenAddress
from inferlane.runtime.http.local_get import local_get
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.runfile import base_url


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def serving(host: str, port: int = 0) -> Any:
    """Serve an ops app at the host; yields its port."""
    return serve_http(OpsApp(live=dict, ready=dict), load_settings().ports, max_body_bytes=1024, host=host, port=port)


@pytest.fixture
def localhost_of_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose `localhost` is ::1 alone."""
    resolve = socket.getaddrinfo

    def ipv6_alone(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("::1" if host == "localhost" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", ipv6_alone)


@needs_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_every_address_is_that_of_ipv4_too(address: str) -> None:
    """It was IPv6 alone, while gRPC at the same host took both."""
    async with serving("::") as port, asyncio.timeout(10):
        assert (await local_get(base_url(address, port), "/livez"))[0] == 200
        assert (await local_get(base_url("::", port), "/livez"))[0] == 200


@needs_ipv6
def test_a_port_is_free_where_both_families_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not is_free(port, host="::")
        assert is_free(port, host="::1")


@needs_ipv6
@pytest.mark.usefixtures("localhost_of_ipv6")
async def test_a_localhost_of_ipv6_alone_is_served_there() -> None:
    """It was served at 127.0.0.1, and nobody who asked `localhost` reached it: a stack never came up."""
    async with serving("localhost") as port, asyncio.timeout(10):
        assert not is_free(port, host="localhost")
        assert (await local_get(base_url("localhost", port), "/livez"))[0] == 200


def test_a_name_with_both_is_bound_at_its_address_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert ListenAddress.of("localhost") == ListenAddress(family=socket.AF_INET, host="127.0.0.1")


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "no-such-host.invalid"])
async def test_a_host_that_is_no_name_is_refused_with_it(host: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"cannot listen on {re.escape(host)}:0: .+\. Choose another host\."):
        async with serving(host):
            pass
    with pytest.raises(ConfigurationError, match=re.escape(host)):
        claim_port(1, host=host, remedy="choose another")


async def test_a_port_that_is_taken_is_refused_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf":{port}: .+\. Choose another port\."):
            async with serving("127.0.0.1", port):
                pass
