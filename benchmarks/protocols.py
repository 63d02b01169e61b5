"""One model by each protocol: V1 JSON, V2 with binary tensors, and gRPC, beside MLServer's gRPC.

All are sent by one program, in short windows that take turns. The results are checked by what the API counted: HTTP's
status says nothing of a call over gRPC.
"""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import msgspec
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cases import Case
from benchmarks.h2load import Message, grpc_message, run_h2load
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.peers import serve_peer
from benchmarks.systems.running import Running, numbers
from benchmarks.usage import cpu_by_process
from producer_api.grpc_server.protocol_messages import SERVICE, InferRequest

V1, V2, GRPC, PEER = "V1 JSON", "V2 REST, binary tensors", "gRPC, raw contents", "MLServer, gRPC"
_WAIT_S = 60
# Not measured: caches are filled, connections of the parts are opened.
_WARM_REQUESTS = 50
_HTTP_TIMEOUT_S = 30.0
_POLL_S = 0.2


class ProtocolWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window. `api_ms` is the CPU time of the API for a request; None for a peer."""

    protocol: str
    rows: int
    rows_per_s: float
    api_ms: float | None


class Protocols(msgspec.Struct, frozen=True, kw_only=True):
    case: str
    machine: Machine
    concurrency: int
    requests: int
    body_bytes: dict[str, int]
    windows: list[ProtocolWindow]


def measure_protocols(case: Case, rows: list[int], *, concurrency: int, requests: int, rounds: int) -> Protocols:
    """Send windows of so many requests by each protocol in turn, every other round in reverse order.

    Raises:
        H2loadError: h2load is missing, or a request was not answered.
    """
    windows: list[ProtocolWindow] = []
    sizes: dict[str, int] = {}
    for count in rows:
        batch = np.concatenate([case.rows] * -(-count // len(case.rows)))[:count]
        with serve_inferlane(case) as running, _peer(case) as peer:
            messages = {**_messages(running, case, batch), PEER: _grpc(peer, "MLSERVER_GRPC_PORT", "bench", batch)}
            sizes |= {f"{name}, {count} rows": len(message.body) for name, message in messages.items()}
            for message in messages.values():
                run_h2load(message, concurrency=concurrency, requests=_WARM_REQUESTS)
            for number in range(rounds):
                for name in list(messages)[:: 1 if number % 2 else -1]:
                    before = cpu_by_process(running.processes)["api"]
                    took_s = run_h2load(messages[name], concurrency=concurrency, requests=requests)
                    spent_s = cpu_by_process(running.processes)["api"] - before
                    api_ms = None if name == PEER else spent_s * 1_000 / requests
                    window = ProtocolWindow(
                        protocol=name, rows=count, rows_per_s=requests * count / took_s, api_ms=api_ms
                    )
                    windows.append(window)
            _check_answered(running, (rounds * requests + _WARM_REQUESTS) * (len(messages) - 1))
    return Protocols(
        case=case.name,
        machine=this_machine(),
        concurrency=concurrency,
        requests=requests,
        body_bytes=sizes,
        windows=windows,
    )


def protocols_to_markdown(found: Protocols) -> str:
    """A table: medians of the windows, and ratios to V1 JSON."""
    lines = [
        f"## Protocols: {found.case}, concurrency {found.concurrency}, windows of {found.requests} requests",
        "",
        "Medians; each ratio is that of the medians of the same run. CPU is that of the API process.",
        "",
        "| rows a request | protocol | body, bytes | rows/s | by V1 JSON | CPU of the API, ms a request | by V1 JSON |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows in sorted({window.rows for window in found.windows}):
        base_rate, base_ms = _medians(found, V1, rows)
        for name in (V1, V2, GRPC, PEER):
            rate, api_ms = _medians(found, name, rows)
            cpu = "| |" if api_ms is None or base_ms is None else f"{api_ms:.2f} | {api_ms / base_ms:.2f}x |"
            size = found.body_bytes[f"{name}, {rows} rows"]
            lines.append(f"| {rows} | {name} | {size} | {rate:,.0f} | {rate / base_rate:.2f}x | {cpu}")
    machine = found.machine
    lines += ["", f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, {machine.measured_at}.", ""]
    return "\n".join(lines)


def _medians(found: Protocols, protocol: str, rows: int) -> tuple[float, float | None]:
    windows = [window for window in found.windows if (window.protocol, window.rows) == (protocol, rows)]
    spent = [window.api_ms for window in windows if window.api_ms is not None]
    return median(window.rows_per_s for window in windows), median(spent) if spent else None


@contextmanager
def _peer(case: Case) -> Iterator[Running]:
    with serve_peer("mlserver", case) as running:
        yield running


def _messages(running: Running, case: Case, rows: np.ndarray) -> dict[str, Message]:
    body = {"instances": [numbers(row) for row in rows], "timeout_s": _WAIT_S}
    raw = rows.tobytes()
    tensor = {
        "name": "input",
        "shape": list(rows.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, "timeout_s": _WAIT_S}}).encode()
    return {
        V1: Message(url=running.url, body=json.dumps(body).encode(), headers={"content-type": "application/json"}),
        V2: Message(
            url=running.url.replace("/v1/models/predict", f"/v2/models/{case.model}/infer"),
            body=head + raw,
            headers={
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(len(head)),
            },
        ),
        GRPC: _grpc(running, "INFERLANE_GRPC_PORT", case.model, rows, timeout_s=_WAIT_S),
    }


def _grpc(running: Running, port_variable: str, model: str, rows: np.ndarray, **parameters: int) -> Message:
    request: Any = InferRequest(model_name=model)
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    port = psutil.Process(running.own_pids[0]).environ()[port_variable]
    return grpc_message(f"127.0.0.1:{port}", f"/{SERVICE}/ModelInfer", request.SerializeToString())


def _check_answered(running: Running, requests: int) -> None:
    """Return if the API has answered so many predict calls with 200; the text of a scrape is kept for a moment.

    Raises:
        RuntimeError: it has not.
    """
    until_s = time.monotonic() + _HTTP_TIMEOUT_S
    while (answered := _answered(running)) < requests:
        if time.monotonic() > until_s:
            raise RuntimeError(f"{answered:g} of {requests} requests were answered with 200")
        time.sleep(_POLL_S)


def _answered(running: Running) -> float:
    """How many predict calls the API has answered with 200, by whatever protocol."""
    url = running.url.replace("/v1/models/predict", "/metrics")
    with urllib.request.urlopen(url, timeout=_HTTP_TIMEOUT_S) as response:  # noqa: S310 - our own server
        families = text_string_to_metric_families(response.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "inferlane_api_answers_total" and sample.labels["status"] == "200"
    )
