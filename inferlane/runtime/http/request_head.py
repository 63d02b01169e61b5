"""Check the head of a request beyond the parser's own checks: it must have one meaning only.

A proxy in front of us may read an ambiguous message differently, and then one client gets the answer to
another's request (request smuggling). So every ambiguous head is refused. Source: RFC 9110 and 9112.
"""

import re
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from inferlane.errors import quoted
from inferlane.runtime.http.problem import Refusal

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""

HTTP_1_0, _HTTP_1_1 = "1.0", "1.1"
# Headers that hold one value: readers differ in which of two they take.
_SINGLE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"idempotency-key",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-api-key",
    }
)
# A name, an IPv4 address or an IPv6 address in brackets, and a port. Source: RFC 3986, section 3.2.2.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
# A malformed escape, or one for a control character: some readers ignore a line end at the end of a path.
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%[01][0-9A-Fa-f]|%7[Ff]")


class RefusedError(Exception):
    """A message is refused; raised in a callback of the parser, it stops the parser."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


def check_head(method: str, target: bytes, version: str, headers: Headers) -> None:
    """Return if the head has one meaning.

    Raises:
        RefusedError: it has several meanings, or asks for something that is not served.
    """
    if method == "CONNECT":
        raise RefusedError(
            Refusal(
                status=HTTPStatus.NOT_IMPLEMENTED,
                code="not_a_proxy",
                detail="CONNECT asks for a tunnel, and this server is no proxy; send the request to it directly",
            )
        )
    known = dict(headers)
    if len(known) != len(headers):
        _check_repeated(headers)
    if version != _HTTP_1_1:
        _check_version(version, known)
    host = known.get(b"host")
    if host is None:
        if version == _HTTP_1_1:
            raise _malformed("there is no Host header; HTTP/1.1 needs exactly one")
    elif _HOST.fullmatch(host) is None:
        raise _malformed(
            f"the Host header is {quoted(host)}; it must be a host name or address, with or without a port"
        )
    coding = known.get(b"transfer-encoding")
    if coding is not None:
        _check_coding(coding, known)
    expectation = known.get(b"expect")
    if expectation is not None and expectation.lower() != b"100-continue":
        raise RefusedError(
            Refusal(
                status=HTTPStatus.EXPECTATION_FAILED,
                code="unknown_expectation",
                detail=f"the Expect header is {quoted(expectation)}; only 100-continue is known",
            )
        )
    _check_target(method, target, host)


def without_upgrade(method: str, target: bytes, version: str, headers: Headers) -> bytes:
    """Write the head again without its Upgrade header, which a server that does not serve it ignores.

    Source: RFC 9110, section 7.8. The parser has no option for it: it takes what follows for the other protocol.
    """
    lines = [b"%s %s HTTP/%s" % (method.encode(), target, version.encode())]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _check_repeated(headers: Headers) -> None:
    counts = Counter(name for name, _ in headers)
    for name, count in counts.items():
        if count > 1 and name in _SINGLE:
            raise _malformed(f"there are {count} {name.decode()} headers; send one")


def _check_version(version: str, known: dict[bytes, bytes]) -> None:
    if version != HTTP_1_0:
        raise RefusedError(
            Refusal(
                status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
                code="version_not_supported",
                detail=f"the request is HTTP/{version}; use HTTP/1.1, or a proxy that speaks it to this port",
            )
        )
    if b"transfer-encoding" in known:
        raise _malformed("an HTTP/1.0 request has a Transfer-Encoding header, which HTTP/1.0 does not know")


def _check_coding(coding: bytes, known: dict[bytes, bytes]) -> None:
    if b"content-length" in known:
        raise _malformed("there are both a Content-Length and a Transfer-Encoding header; send one of them")
    if coding.strip().lower() != b"chunked":
        raise RefusedError(
            Refusal(
                status=HTTPStatus.NOT_IMPLEMENTED,
                code="unknown_transfer_coding",
                detail=f"the Transfer-Encoding is {quoted(coding)}; only chunked is known",
            )
        )


def _check_target(method: str, target: bytes, host: bytes | None) -> None:
    if b"#" in target:
        raise _malformed(f"the target {quoted(target)} has a fragment, which a request never holds")
    if not target.startswith(b"/"):
        _check_odd_target(method, target, host)
    path = target.partition(b"?")[0]
    if b"%" in path:
        _check_escapes(path)


def _check_odd_target(method: str, target: bytes, host: bytes | None) -> None:
    """Check a target that is no path. Source: RFC 9112, section 3.2."""
    if target == b"*" and method == "OPTIONS":
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise _malformed(f"the target {quoted(target)} is no path of this server; it must begin with /")
    if host is not None and absolute.group(1).lower() != host.lower():
        raise _malformed(f"the target {quoted(target)} names another host than the Host header, {quoted(host)}")


def _check_escapes(path: bytes) -> None:
    bad = _BAD_ESCAPE.search(path)
    if bad is None:
        try:
            unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            pass
        else:
            return
    raise _malformed(f"the path {quoted(path)} has a %-escape that is incomplete, a control character or not UTF-8")


def _malformed(detail: str) -> RefusedError:
    return RefusedError(Refusal(status=HTTPStatus.BAD_REQUEST, code="undecodable", detail=detail))
