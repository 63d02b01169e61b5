import pytest

from benchmarks.h2load import H2loadError, grpc_message, parse_h2load
from benchmarks.machine import this_machine
from benchmarks.protocols import GRPC, PEER, V1, V2, Protocols, ProtocolWindow, protocols_to_markdown

OUTPUT = """
finished in {took}, 100.00 req/s, 1.00MB/s
requests: 200 total, 200 started, 200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, {bad} 5xx
"""


@pytest.mark.parametrize(("took", "seconds"), [("2.50s", 2.5), ("250.00ms", 0.25)])
def test_the_time_of_a_run_is_read(took: str, seconds: float) -> None:
    assert parse_h2load(OUTPUT.format(took=took, good=200, bad=0), 200) == seconds


def test_a_run_with_a_bad_response_is_no_measurement() -> None:
    with pytest.raises(H2loadError, match="not 200 good responses"):
        parse_h2load(OUTPUT.format(took="1.00s", good=199, bad=1), 200)


def test_a_message_of_grpc_has_its_length_in_front() -> None:
    assert grpc_message("127.0.0.1:1", "/a/B", b"abc").body == b"\0\0\0\0\3abc"


def test_ratios_are_those_of_the_medians() -> None:
    rates = {V1: [100.0, 300.0, 200.0], V2: [300.0, 300.0, 900.0], GRPC: [250.0] * 3, PEER: [50.0] * 3}
    windows = [
        ProtocolWindow(protocol=name, rows=16, rows_per_s=rate, api_ms=None if name == PEER else rate / 100)
        for name, each in rates.items()
        for rate in each
    ]
    sizes = {f"{name}, 16 rows": 1 for name in rates}
    found = Protocols(
        case="mlp", machine=this_machine(), concurrency=8, requests=200, body_bytes=sizes, windows=windows
    )
    table = protocols_to_markdown(found)
    assert f"| 16 | {V2} | 1 | 300 | 1.50x | 3.00 | 1.50x |" in table
    assert f"| 16 | {PEER} | 1 | 50 | 0.25x | | |" in table
