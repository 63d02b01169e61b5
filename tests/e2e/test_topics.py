"""Topics as an interface: what anyone produces is scored, and files are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY, Stack
from tests.support.brokers.processes import wait_until

pytestmark = pytest.mark.timeout(600)

EXAMPLES = dict(
    re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", (REPOSITORY / "docs" / "topics.md").read_text(), re.DOTALL)
)


@pytest.mark.parametrize(("client", "label"), [("aiokafka", 0), ("confluent-kafka", 2)])
def test_the_documented_example_is_answered(stack: Stack, client: str, label: int) -> None:
    script = EXAMPLES[client].replace("127.0.0.1:9092", stack.bootstrap_servers)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["outputs"][0]["data"] == [label]


def write_rows(path: Path, count: int) -> None:
    lines = ["sepal_length,sepal_width,petal_length,petal_width"]
    lines += [f"{4 + n % 37 / 10},{2 + n % 23 / 10},{1 + n % 59 / 10},{0.1 + n % 19 / 10}" for n in range(count)]
    path.write_text("\n".join(lines) + "\n")


def test_a_file_is_scored_whole_once_and_in_order(stack: Stack, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "results.jsonl"
    write_rows(rows, 20_000)
    done = stack.inferlane("batch", "submit", str(rows), "--out", str(out), "--version", "v1")
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [result["row"] for result in results] == list(range(20_000))
    instances = [[float(field) for field in line.split(",")] for line in rows.read_text().splitlines()[1:]]
    for number in (0, 255, 256, 19_999):
        alone = stack.predict(instances[number], version="v1")["predictions"][0]
        assert results[number]["prediction"]["label"] == alone["label"]
        assert results[number]["prediction"]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_a_row_that_does_not_fit_is_an_error_line_and_its_neighbours_are_scored(stack: Stack, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "results.jsonl"
    rows.write_text("[5.1, 3.5, 1.4, 0.2]\n[1, 2]\nnot json\n[6.7, 3.0, 5.2, 2.3]\n")
    done = stack.inferlane("batch", "submit", str(rows), "--out", str(out))
    assert done.returncode == 1
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [result["row"] for result in results] == [0, 1, 2, 3]
    assert [result.get("prediction", {}).get("label") for result in results] == ["setosa", None, None, "virginica"]
    assert "shape [2]" in results[1]["error"]["detail"]


def test_a_bulk_record_that_cannot_be_read_is_answered_failed_and_kept_as_a_dead_letter(stack: Stack) -> None:
    script = f"""
import asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
B = {stack.bootstrap_servers!r}
async def main():
    results = AIOKafkaConsumer("inferlane.results", "inferlane.dead-letters", bootstrap_servers=B, fetch_max_wait_ms=20)
    async with results, AIOKafkaProducer(bootstrap_servers=B) as producer:
        await results.seek_to_end()
        await producer.send_and_wait("inferlane.bulk", b"garbage", headers=[("ce_id", b"poison-1")])
        unknown = [("ce_id", b"poison-2"), ("ce_modelversion", b"v9")]
        await producer.send_and_wait("inferlane.bulk", b"{{}}", headers=unknown)
        seen = set()
        while len(seen) < 4:
            record = await asyncio.wait_for(results.getone(), 60)
            headers = dict(record.headers)
            if headers["ce_id"].startswith(b"poison"):
                reason = headers.get("inferlane-dead-letter-reason", headers.get("ce_errorcode")).decode()
                seen.add((record.topic, headers["ce_id"].decode(), reason))
        for entry in sorted(seen): print(*entry)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "inferlane.dead-letters poison-1 undecodable",
        "inferlane.dead-letters poison-2 unknown_model",
        "inferlane.results poison-1 undecodable",
        "inferlane.results poison-2 unknown_model",
    ]


def test_a_dead_letter_is_shown_and_replayed_under_its_id(stack: Stack) -> None:
    """Guards `ResultStore.reopen`: taken out, the client reads `FAILED` for ever."""
    script = f"""
import asyncio
from aiokafka import AIOKafkaProducer
async def main():
    async with AIOKafkaProducer(bootstrap_servers={stack.bootstrap_servers!r}) as producer:
        headers = [("ce_id", b"mislaid"), ("ce_modelversion", b"v9")]
        await producer.send_and_wait("inferlane.requests", b'{{"instances": [[5.1, 3.5, 1.4, 0.2]]}}', headers=headers)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    def is_answered() -> bool:
        return stack.call("/v1/predictions/mislaid").status != 404

    wait_until(is_answered, within_s=120, what="the request for an unknown version is answered")
    failed = stack.call("/v1/predictions/mislaid")
    assert failed.body["error"]["code"] == "unknown_model"
    listed = stack.inferlane("dead-letters", "list", "--reason", "unknown_model", "--since", "1h")
    assert "mislaid" in listed.stdout, listed.stderr
    shown = stack.inferlane("dead-letters", "show", "mislaid")
    assert "v9" in shown.stdout
    assert "5.1, 3.5" in shown.stdout
    dry = stack.inferlane("dead-letters", "replay", "mislaid", "--to-version", "v1", "--dry-run")
    assert (dry.returncode, stack.call("/v1/predictions/mislaid").body["status"]) == (0, "FAILED")
    replayed = stack.inferlane("dead-letters", "replay", "mislaid", "--to-version", "v1")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    answered = stack.call("/v1/predictions/mislaid?wait_s=60").body
    assert (answered["status"], answered["version"]) == ("SUCCEEDED", "v1")
    again = stack.inferlane("dead-letters", "replay", "mislaid")
    assert (again.returncode, "SUCCEEDED since" in again.stdout) == (1, True)
    assert stack.inferlane("dead-letters", "replay").returncode == 2


SAYS_MORE = """
import asyncio, json
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
B = {broker!r}
ROW = {{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}}
STRINGS = {{**ROW, "shape": [30, 4], "data": ["a" * 4_000_000] + [""] * 120}}
CASES = [
    ("own-id", {{"id": "mine", "inputs": [ROW], "outputs": [{{"name": "probabilities"}}]}}, ()),
    ("other-model", {{"inputs": [ROW], "model_name": "digits"}}, ()),
    ("other-output", {{"inputs": [ROW], "outputs": [{{"name": "nobody"}}]}}, ()),
    ("strings", {{"inputs": [STRINGS]}}, ()),
    ("two-ids", {{"instances": [[5.1, 3.5, 1.4, 0.2]]}}, (("ce_id", b"another"),)),
]
async def main():
    results = AIOKafkaConsumer("inferlane.results", bootstrap_servers=B, fetch_max_wait_ms=20)
    async with results, AIOKafkaProducer(bootstrap_servers=B, max_request_size=9_000_000) as producer:
        await results.seek_to_end()
        for name, body, more in CASES:
            headers = [("ce_id", name.encode()), ("ce_batchid", b"says-more"), *more]
            await producer.send_and_wait("inferlane.bulk", json.dumps(body).encode(), headers=headers)
        found = {{}}
        while len(found) < len(CASES):
            record = await asyncio.wait_for(results.getone(), 60)
            headers = dict(record.headers)
            if headers.get("ce_batchid") == b"says-more":
                value = json.loads(record.value) if record.value else {{}}
                outputs = [output["name"] for output in value.get("outputs", [])]
                code = headers.get("ce_errorcode", b"").decode()
                found[headers["ce_id"].decode()] = [headers["ce_status"].decode(), code, value.get("id"), outputs]
        print(json.dumps(found))
asyncio.run(main())
"""


def test_what_a_record_says_beside_its_numbers_is_heeded_or_refused(stack: Stack) -> None:
    script = SAYS_MORE.format(broker=stack.bootstrap_servers)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("own-id") == ["SUCCEEDED", "", "mine", ["probabilities"]]
    assert found.pop("other-model")[:2] == ["FAILED", "invalid_input"]
    assert found.pop("other-output")[:2] == ["FAILED", "invalid_input"]
    assert found.pop("strings")[:2] == ["FAILED", "undecodable"]
    ((name, two_ids),) = found.items()
    assert name not in {"two-ids", "another"}
    assert two_ids[:2] == ["FAILED", "undecodable"]
