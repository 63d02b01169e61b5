"""How the server is reached: address, key, certificates; and httpx's answers and errors as those of `attempts`."""

import ssl
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx

from inferlane_client.attempts import NoReply, Reply, Send

DEFAULT_URL = "http://127.0.0.1:8000"
# Each call that waits holds a connection. Fewer make calls wait for each other; more are more than one server needs.
DEFAULT_CONNECTIONS = 100


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


def options_of(url: str, *, api_key: str | None, tls: Tls, connections: int, trust_env: bool) -> dict[str, Any]:
    """The arguments of an `httpx.Client` or `httpx.AsyncClient`.

    Raises:
        ValueError: the URL is not one of a server.
        OSError: a certificate's file cannot be read.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the URL of the server is {url!r}; it must begin with http:// or https://")
    headers = {"accept": "application/json", "user-agent": f"inferlane-client/{_own_version()}"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    return {
        "base_url": url,
        "headers": headers,
        "verify": tls.context() if url.startswith("https://") else True,
        "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        "trust_env": trust_env,
    }


def arguments_of(send: Send) -> dict[str, Any]:
    """The arguments of `request` of either httpx client."""
    return {
        "method": send.method,
        "url": send.path,
        "content": send.body,
        "headers": dict(send.headers),
        "params": dict(send.params),
        "timeout": httpx.Timeout(send.timeout_s),
    }


def reply_of(response: httpx.Response) -> Reply:
    """The whole answer."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status_code, headers=headers, body=response.content)


def is_event_stream(response: httpx.Response) -> bool:
    """Whether events come, and not an answer that says why there are none."""
    is_ok = response.status_code == httpx.codes.OK
    return is_ok and response.headers.get("content-type", "").startswith("text/event-stream")


def no_reply_of(error: httpx.TransportError) -> NoReply:
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
