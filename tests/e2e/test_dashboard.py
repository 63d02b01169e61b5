"""The live dashboard's service beside the real stack: what it streams, and what it passes on to the API."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(600)

ROW = [5.1, 3.5, 1.4, 0.2]


def ask(stack: Stack, method: str, path: str, body: Any = None, **changed: str) -> http.client.HTTPResponse:
    """A call as the page makes it, but for the headers in `changed`."""
    headers = {"origin": f"http://127.0.0.1:{stack.dashboard_port}", "content-type": "application/json", **changed}
    connection = http.client.HTTPConnection("127.0.0.1", stack.dashboard_port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection.getresponse()


def snapshots(stack: Stack) -> Iterator[Any]:
    answer = ask(stack, "GET", "/api/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = (line.decode().rstrip() for line in iter(answer.readline, b""))
    for line in lines:
        if line == "event: snapshot":
            yield json.loads(next(lines).removeprefix("data: "))


def test_the_stream_shows_what_the_stack_did(stack: Stack) -> None:
    for _ in range(20):
        stack.predict(ROW, version="v1")
    for snapshot in snapshots(stack):
        model = next(model for model in snapshot["models"] if model["name"] == "iris")
        card = next(card for card in model["versions"] if card["version"] == "v1")
        # Of a pool that is scaled: a worker that has drained is thought alive for half a minute more.
        workers = [part for part in snapshot["parts"] if part["name"].startswith("worker-")]
        are_counted = snapshot["flow"]["workers_alive"] == len(workers)
        if card["report"]["requests"] >= 20 and card["queue"]["lag_records"] == 0 and are_counted:
            break
    assert card["report"]["latency_ms"]["total"]["p95"] > 0
    assert card["report"]["prediction_distribution"]["setosa"] >= 20
    assert model["example"] == [ROW]
    assert snapshot["flow"]["workers_alive"] == len(workers) >= 4
    assert (snapshot["api"]["error"], snapshot["broker"]["error"]) == (None, None)
    assert {part["name"] for part in snapshot["parts"]} >= {"broker", "store", "router", "api", "dashboard"}
    assert "iris/v1" in snapshot["point"]["versions"]


def test_a_record_that_cannot_be_served_shows_as_a_dead_letter(stack: Stack) -> None:
    done = stack.run(
        ".venv/bin/python",
        "-c",
        "import asyncio\n"
        "from aiokafka import AIOKafkaProducer\n"
        "async def main():\n"
        f"    async with AIOKafkaProducer(bootstrap_servers='{stack.bootstrap_servers}') as producer:\n"
        "        await producer.send_and_wait('inferlane.requests', b'no json', headers=[('ce_id', b'shown-here')])\n"
        "asyncio.run(main())",
    )
    assert done.returncode == 0, done.stderr
    for snapshot in snapshots(stack):
        letters = {letter["request_id"]: letter for letter in snapshot["letters"]["newest"]}
        if "shown-here" in letters:
            break
    assert snapshot["letters"]["by_reason"][letters["shown-here"]["reason"]] >= 1
    assert snapshot["letters"]["kept"] >= 1


def test_a_prediction_and_a_split_are_passed_on_from_the_page_and_from_no_other_site(stack: Stack) -> None:
    answer = ask(stack, "POST", "/api/predict", {"instances": [ROW], "timeout_s": 60})
    assert (answer.status, json.load(answer)["predictions"][0]["label"]) == (200, "setosa")

    before = stack.call("/v1/traffic-split?model=digits").body["weights"]
    wanted = {"model": "digits", "weights": dict(zip(sorted(before), (30, 70), strict=True))}
    for changed in ({"origin": "http://evil.example"}, {"host": "evil.example"}, {"content-type": "text/plain"}):
        assert ask(stack, "POST", "/api/traffic-split", wanted, **changed).status == 403
    assert stack.call("/v1/traffic-split?model=digits").body["weights"] == before
    assert ask(stack, "POST", "/api/traffic-split", wanted).status == 200
    after = stack.call("/v1/traffic-split?model=digits").body["weights"]
    assert after == pytest.approx(dict(zip(sorted(before), (0.3, 0.7), strict=True)))
    assert ask(stack, "POST", "/api/traffic-split", {"model": "digits", "weights": before}).status == 200


def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in(stack: Stack) -> None:
    page = ask(stack, "GET", "/")
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"<title>Inferlane</title>" in page.read()
    for name in ("app.js", "style.css", "favicon.svg"):
        assert ask(stack, "GET", f"/{name}").status == 200
    assert ask(stack, "GET", "/../pyproject.toml").status == 404
    (row,) = [line.split() for line in stack.inferlane("status").stdout.splitlines() if line.startswith(" dashboard ")]
    assert str(stack.dashboard_port) in row
