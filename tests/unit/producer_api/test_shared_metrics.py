"""One `/metrics` for the API processes that share a port."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http
from producer_api.http.shared_metrics import SharedMetrics, merged, read_peers
from tests.support.brokers.processes import free_ports

ONE = """\
# HELP answers_total Answers, as "none" or {a code}.
# TYPE answers_total counter
answers_total{status="200",reason="a } b"} 3.0
answers_total{status="500",reason="x"} 1.0
# HELP waiting Who waits.
# TYPE waiting gauge
waiting 7.0
"""
TWO = """\
# HELP waiting Who waits.
# TYPE waiting gauge
waiting 2.0
# HELP answers_total Answers, as "none" or {a code}.
# TYPE answers_total counter
answers_total{status="200",reason="a } b"} 5.0
"""


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_each_sample_says_whose_it_is_and_none_is_lost() -> None:
    assert samples(merged({"api-1": ONE, "api-2": TWO})) == {
        ("answers_total", "process=api-1", "reason=a } b", "status=200"): 3.0,
        ("answers_total", "process=api-1", "reason=x", "status=500"): 1.0,
        ("answers_total", "process=api-2", "reason=a } b", "status=200"): 5.0,
        ("waiting", "process=api-1"): 7.0,
        ("waiting", "process=api-2"): 2.0,
    }


def test_a_metric_stands_together_and_is_explained_once() -> None:
    lines = merged({"api-1": ONE, "api-2": TWO}).decode().splitlines()
    about = [number for number, line in enumerate(lines) if line.startswith("#")]
    assert len(about) == 4
    assert about == [0, 1, 5, 6]


def answering(text: str) -> Any:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text.encode()})

    return app


async def test_every_process_is_asked_and_one_that_is_away_is_left_out() -> None:
    settings = load_settings()
    async with (
        serve_http(
            answering(ONE), settings.ports, max_body_bytes=settings.kafka.max_body_bytes, host="127.0.0.1", port=0
        ) as one,
        serve_http(
            answering(TWO), settings.ports, max_body_bytes=settings.kafka.max_body_bytes, host="127.0.0.1", port=0
        ) as two,
    ):
        ports = {"api-1": one, "api-2": two, "api-3": free_ports(1)[0]}
        peers = read_peers(",".join(f"{name}=http://127.0.0.1:{port}" for name, port in ports.items()))
        text = await SharedMetrics(peers).text()
    assert samples(text) == samples(merged({"api-1": ONE, "api-2": TWO}))


async def test_a_process_alone_has_its_own_metrics_as_they_are() -> None:
    text = await SharedMetrics(read_peers("")).text()
    assert b"process=" not in text
    assert b"process_cpu_seconds_total" in text


@pytest.mark.parametrize("peers", ["api-1", "api-1=", "=http://127.0.0.1:1", "api-1=127.0.0.1:1"])
def test_peers_that_are_none_are_refused(peers: str) -> None:
    with pytest.raises(ConfigurationError, match="INFERLANE_API_PEERS"):
        read_peers(peers)


async def test_processes_share_a_port_only_where_both_say_so() -> None:
    settings = load_settings()
    (port,) = free_ports(1)
    shared = {"host": "127.0.0.1", "port": port, "shares_port": True}
    async with (
        serve_http(answering("one"), settings.ports, max_body_bytes=settings.kafka.max_body_bytes, **shared),
        serve_http(answering("two"), settings.ports, max_body_bytes=settings.kafka.max_body_bytes, **shared),
    ):
        heard = set()
        async with asyncio.timeout(60):
            # The system divides connections by their addresses: each has its turn after a few.
            while heard != {b"one", b"two"}:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                heard.add((await reader.read())[-3:])
                writer.close()
        with pytest.raises(ConfigurationError, match="cannot listen"):
            async with serve_http(
                answering("three"),
                settings.ports,
                max_body_bytes=settings.kafka.max_body_bytes,
                host="127.0.0.1",
                port=port,
            ):
                pass
