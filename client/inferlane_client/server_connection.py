"""How the server is reached: address, key, certificates; and httpx's answers and errors as those of `retries`."""

import ssl
from base64 import b64encode
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from inferlane_client.retries import HttpReply, NoReply, Send

DEFAULT_URL = "http://127.0.0.1:8000"
# Each call that waits holds a connection. Fewer make calls wait for each other; more are more than one server needs.
DEFAULT_CONNECTIONS = 100
_LAST_PORT = 65_535
# One for each model and version that tensors are sent to.
_KEPT_URLS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How an `https` server is checked, and how the client shows who it is.

    Args:
        ca_file: certificates of the authorities to trust, in PEM; instead of those that httpx trusts.
        client_cert: certificate of the client, in PEM, for servers that ask for one.
        client_key: its key, if the certificate's file does not hold it.
        verify: False trusts any server: a key that is sent to it is as good as published. For tests.
    """

    ca_file: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """What TLS connections are made with.

        Raises:
            OSError: a file cannot be read, or does not hold what it must.
        """
        context = (
            httpx.create_ssl_context() if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)
        )
        if self.client_cert is not None:
            context.load_cert_chain(self.client_cert, self.client_key)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Connection:
    """How requests reach one server: what each of them has, and how their connections are made.

    Raises:
        ValueError: the URL is not one of a server, or there is to be no connection.
        OSError: a certificate's file cannot be read.
    """

    def __init__(self, url: str, *, api_key: str | None, tls: Tls, connections: int, trust_env: bool) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError(f"the URL of the server is {url!r}; it must begin with http:// or https://")
        if connections < 1:
            raise ValueError(f"connections is {connections}; it must be at least 1")
        if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
            raise ValueError("the API key is empty or holds something else than printable ASCII characters")
        server = _server_of(url)
        self.connections = connections
        self._base = url.rstrip("/")
        self._options: dict[str, Any] = {
            "verify": tls.context() if server.scheme == "https" else False,
            "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1),
            "proxy": _proxy_of(server) if trust_env else None,
        }
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "connection": "keep-alive",
            "user-agent": f"inferlane-client/{_own_version()}",
        }
        if server.userinfo:
            self._headers["authorization"] = f"Basic {b64encode(_userinfo(server)).decode()}"
        elif api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        # Of calls without an id, which come again and again; to read a URL is a fifth of the cost of a call.
        self._urls: dict[str, httpx.URL] = {}

    def transport(self) -> httpx.HTTPTransport:
        """Make what holds one connection."""
        return httpx.HTTPTransport(**self._options)

    def async_transport(self) -> httpx.AsyncHTTPTransport:
        """Make what holds one connection on an event loop."""
        return httpx.AsyncHTTPTransport(**self._options)

    def request(self, send: Send) -> httpx.Request:
        """What goes over a connection."""
        return httpx.Request(
            send.method,
            self._url(send),
            headers={**self._headers, **send.headers},
            content=send.body,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), send.timeout_s)},
        )

    def _url(self, send: Send) -> httpx.URL:
        if send.method != "POST":
            return httpx.URL(self._base + send.path, params=dict(send.params) or None)
        url = self._urls.get(send.path)
        if url is None:
            if len(self._urls) >= _KEPT_URLS:
                self._urls.clear()
            url = self._urls[send.path] = httpx.URL(self._base + send.path)
        return url


def _server_of(url: str) -> httpx.URL:
    try:
        server = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"the URL of the server is {url!r}: {error}") from error
    if not server.host or not 0 < (server.port or 1) <= _LAST_PORT:
        raise ValueError(f"the URL of the server is {url!r}; it needs a host, and a port from 1 to {_LAST_PORT}")
    return server


def _userinfo(server: httpx.URL) -> bytes:
    return f"{server.username}:{server.password}".encode()


def _proxy_of(server: httpx.URL) -> str | None:
    """The proxy that the environment names for this server, in `HTTP_PROXY` and the like."""
    proxies = getproxies()
    proxy = proxies.get(server.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(server.netloc.decode()):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def reply_of(response: httpx.Response) -> HttpReply:
    """The whole answer."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpReply(status=response.status_code, headers=headers, body=response.content)


def is_event_stream(response: httpx.Response) -> bool:
    """Whether events come, and not an answer that says why there are none."""
    is_ok = response.status_code == httpx.codes.OK
    return is_ok and response.headers.get("content-type", "").startswith("text/event-stream")


def no_reply_of(error: httpx.TransportError | httpx.DecodingError) -> NoReply:
    """Why there is no answer, and whether another try may bring one."""
    return NoReply(
        reason=str(error) or type(error).__name__,
        # A connection that does not come about in time is no use to wait longer for either.
        has_timed_out=isinstance(error, httpx.TimeoutException),
        retryable=not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError)
        and not _is_distrust(error),
    )


def _is_distrust(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _own_version() -> str:
    try:
        return version("inferlane-client")
    except PackageNotFoundError:
        return "unknown"
