"""TLS on the API's own port: who is trusted, what is refused, and a renewed certificate."""

import asyncio
import json
import random
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop

from control_plane.local.readiness import failing_checks
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.api_keys import Scope
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.api_address import ApiAddress
from inferlane.runtime.http.certificate import CertificateFiles, make_context
from inferlane.runtime.http.local_get import local_get
from inferlane.runtime.http.server import serve_http
from producer_api.main import serve
from tests.support.certificates import certificate_settings, write_certificates
from tests.support.echo_answers import echoing
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import eventually, free_port
from tests.support.running_api import CALL, RunningApi, running_api

pytestmark = pytest.mark.timeout(300)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


async def is_served_by(api: RunningApi, authority: trustme.CA) -> bool:
    """Whether a new connection is shown a certificate of the authority, for the name and for the address."""
    for host in ("localhost", "127.0.0.1"):
        url = f"https://{host}:{api.settings.api.port}"
        try:
            status, _ = await local_get(url, "/readyz", tls=trusting(authority))
        except UnavailableError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise
            return False
        assert status == 200
    return True


async def test_calls_are_answered_over_tls_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with running_api(tmp_path, **certificate_settings(tmp_path, "API", authority)) as api, echoing(api):
        async with api.session.post(
            f"{api.url}/v1/models/predict", json={**CALL, "timeout_s": 60}, ssl=trusting(authority)
        ) as answer:
            assert answer.status == 200
            assert json.loads(await answer.read())["status"] == "SUCCEEDED"
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await api.session.post(f"http://127.0.0.1:{api.settings.api.port}/v1/models/predict", json=CALL)
        old = trusting(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"(?i)ssl|protocol|reset"):
            await asyncio.open_connection("localhost", api.settings.api.port, ssl=old)
        # Probes and scrapers trust no authority: the ops port has health and metrics in the clear.
        assert (await local_get(f"http://127.0.0.1:{api.settings.ports.ops_port}", "/livez"))[0] == 200
        assert b"inferlane_api_" in (await local_get(f"http://127.0.0.1:{api.settings.ports.ops_port}", "/metrics"))[1]


async def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    async with running_api(tmp_path, **certificate_settings(tmp_path, "API", first)) as api:
        assert await is_served_by(api, first)
        assert not await is_served_by(api, second)
        _, open_since_before = await asyncio.open_connection("localhost", api.settings.api.port, ssl=trusting(first))
        # Half of the new pair is not served, and does not end what is.
        (tmp_path / "tls.pem").write_text("no certificate")
        assert await is_served_by(api, first)
        write_certificates(tmp_path, second)
        assert await is_served_by(api, second)
        assert not await is_served_by(api, first)
        assert not open_since_before.is_closing()
        open_since_before.close()


async def test_our_own_tools_trust_the_certificate_of_this_machine_and_no_other(tmp_path: Path) -> None:
    """The supervisor's probe and the live page reach an API whose certificate is for a public name alone."""
    folder, other = tmp_path / "own", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    files = certificate_settings(folder, "API")
    named = trustme.CA().issue_cert("models.example.org")
    files["api_ssl_certfile"].write_bytes(b"".join(part.bytes() for part in named.cert_chain_pems))
    named.private_key_pem.write_to_path(str(files["api_ssl_keyfile"]))
    async with running_api(tmp_path, **files) as api:
        own = ApiAddress(api.settings.api, api.settings.client)
        assert own.url == api.url
        assert (await local_get(own.url, "/readyz", tls=own.tls()))[0] == 200
        changed = api.settings.changed(**certificate_settings(other, "API"))
        stranger = ApiAddress(changed.api, changed.client)
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await local_get(api.url, "/readyz", tls=stranger.tls())
        # At a URL that was named, the name counts.
        named_url = ApiAddress(api.settings.api, api.settings.client, api.url)
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await local_get(named_url.url, "/readyz", tls=named_url.tls())


async def test_a_client_that_never_greets_is_cut_off(tmp_path: Path) -> None:
    async with running_api(tmp_path, head_timeout_s=0.5, **certificate_settings(tmp_path, "API")) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.api.port)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()


def test_every_connection_is_served_on_the_loop_that_services_run_on(tmp_path: Path) -> None:
    """Services run on uvloop, tests on asyncio's loop, and each has a TLS of its own."""
    authority = trustme.CA()
    files = certificate_settings(tmp_path, "API", authority)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def answered() -> int:
        settings = load_settings(**files)
        named = CertificateFiles.named(settings.api.ssl_certfile, settings.api.ssl_keyfile, ("CHAIN", "KEY"))
        assert named is not None
        tls = make_context(named)
        async with (
            serve_http(app, settings.ports, max_body_bytes=1_024, host="127.0.0.1", port=0, tls=tls) as port,
            asyncio.timeout(50),
        ):
            for number in range(100):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(authority))
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).endswith(b"ok"), number
                writer.close()
        return number + 1

    assert uvloop.run(answered()) == 100


async def test_a_client_that_never_says_goodbye_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    """TLS closes by a message that the other side answers, and the event loop alone would wait 30 s for it."""
    authority = trustme.CA()
    files = certificate_settings(tmp_path, "API", authority)
    async with AsyncExitStack() as parts:
        api = await parts.enter_async_context(running_api(tmp_path, drain_deadline_s=120.0, **files))

        def connect() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", api.settings.api.port))
            made = trusting(authority).wrap_socket(plain, server_hostname="localhost")
            made.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert made.recv(65_536).startswith(b"HTTP/1.1 200")
            return made

        with await asyncio.to_thread(connect):
            async with asyncio.timeout(20):
                await parts.aclose()


async def test_a_call_that_comes_with_the_end_of_the_handshake_is_answered(tmp_path: Path) -> None:
    """One packet ends the handshake and holds the first call, which its protocol must not miss."""
    authority = trustme.CA()
    async with running_api(tmp_path, **certificate_settings(tmp_path, "API", authority)) as api, asyncio.timeout(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.api.port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
        tls.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        writer.write(outgoing.read())
        answer = b""
        while not answer:
            incoming.write(await reader.read(65_536))
            with suppress(ssl.SSLWantReadError):
                answer = tls.read()
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()


async def test_bytes_that_are_no_tls_end_their_own_connection_alone(tmp_path: Path) -> None:
    drawn = random.Random(8)
    authority = trustme.CA()
    async with running_api(tmp_path, **certificate_settings(tmp_path, "API", authority)) as api:
        # A hello whose length is a lie, records of unknown kinds, HTTP/2 in the clear, and noise.
        hostile = [
            b"\x16\x03\x01\xff\xff\x01\x00\xff\xff",
            b"\x80\x2e\x01\x00\x02",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
            *(bytes([22, 3, drawn.randrange(5)]) + drawn.randbytes(drawn.randrange(300)) for _ in range(100)),
        ]

        async def send(raw: bytes) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.api.port)
            with suppress(ConnectionError):
                writer.write(raw)
                writer.write_eof()
                assert not (await reader.read()).startswith(b"HTTP/")
            writer.close()

        await asyncio.gather(*map(send, hostile))
        assert await is_served_by(api, authority)


@pytest.mark.parametrize("missing", ["api_ssl_certfile", "api_ssl_keyfile"])
async def test_half_of_a_certificate_is_refused_at_start(tmp_path: Path, missing: str) -> None:
    write_tiny_store(tmp_path / "models")
    files = certificate_settings(tmp_path, "API")
    del files[missing]
    settings = load_settings(models_dir=tmp_path / "models", default_model="tiny", api_port=0, **files)
    with pytest.raises(ConfigurationError, match="INFERLANE_API_SSL_CERTFILE and INFERLANE_API_SSL_KEYFILE"):
        await serve(settings, asyncio.Event())


async def test_a_key_of_another_certificate_is_refused_at_start(tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "models")
    files = certificate_settings(tmp_path, "API")
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(files["api_ssl_keyfile"]))
    settings = load_settings(models_dir=tmp_path / "models", default_model="tiny", api_port=0, **files)
    with pytest.raises(ConfigurationError, match="are no certificate chain and its key"):
        await serve(settings, asyncio.Event())


EXPIRED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("port", ["API", "GRPC"])
async def test_an_expired_certificate_is_refused_at_start(tmp_path: Path, port: str) -> None:
    write_tiny_store(tmp_path / "models")
    files = certificate_settings(tmp_path, port)
    write_certificates(tmp_path, not_after=EXPIRED)
    ports = {"api_port": 0, "grpc_port": free_port()}
    settings = load_settings(models_dir=tmp_path / "models", default_model="tiny", **ports, **files)
    with pytest.raises(ConfigurationError, match=f"expired at 2026-01-01.*INFERLANE_{port}_SSL_CERTFILE"):
        await serve(settings, asyncio.Event())


async def test_an_api_whose_certificate_expires_is_not_ready_until_that_is_renewed(tmp_path: Path) -> None:
    """Guards `edge_checks`: every client refused the certificate, and `/readyz` said that all was well."""
    files = {**certificate_settings(tmp_path, "API"), **certificate_settings(tmp_path, "GRPC")}
    async with running_api(tmp_path, grpc_port=free_port(), **files) as api:
        ops = f"http://127.0.0.1:{api.settings.ports.ops_port}"
        assert await failing_checks(ops) == ()
        write_certificates(tmp_path, not_after=EXPIRED)
        assert await failing_checks(ops) == ("certificate", "grpc_certificate")
        write_certificates(tmp_path)
        assert await failing_checks(ops) == ()


async def test_an_api_whose_keys_cannot_be_read_is_not_ready_until_they_can(tmp_path: Path) -> None:
    """Guards `edge_checks`: every call got 503, and `/readyz` said that all was well."""
    async with running_api(tmp_path, scopes={"shop": Scope.PREDICT}) as api:
        file = api.settings.api.keys_file
        assert file is not None

        async def failing(names: tuple[str, ...]) -> bool:
            return await failing_checks(api.url) == names

        assert await failing(())
        file.rename(tmp_path / "away")
        await eventually(partial(failing, ("api_keys",)))
        status, _ = await api.predict(authorization=f"Bearer {api.keys['shop']}")
        assert status == 503
        (tmp_path / "away").rename(file)
        await eventually(partial(failing, ()))
