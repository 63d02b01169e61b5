"""A pool that sleeps is woken by a burst, grows by its ScaledObject, drains and sleeps again, and loses nothing."""

import json
import time
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
from conftest import Stack

from control_plane.autoscaling.desired_replicas import PartitionOffsets, PoolScaler
from control_plane.autoscaling.scaled_object import read_scaled_objects

MODEL, VERSION = "digits", "v2-quantized"
POOL = f"worker-{MODEL}-{VERSION}"
SCALED_OBJECTS = Path(__file__).parent / "scaled_objects.yaml"
# One worker may have 40 records of lag: these need two, also when some are done before all have come.
BURST = 120
ROW = [0.0] * 64
ASLEEP_WITHIN_S = 150.0
POLL_S = 0.2
WAIT_S = 10.0


def events(stack: Stack) -> list[dict[str, Any]]:
    """What the supervisor logged of the pool, and when the autoscaler began."""
    lines = (stack.folder / ".inferlane" / "logs" / "supervisor.log").read_text().splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in parsed if event.get("pool") == POOL or event["event"] == "autoscaler_started"]


def await_sleep(stack: Stack) -> None:
    """Wait until no worker of the pool is wanted, and none is left."""
    deadline_s = time.monotonic() + ASLEEP_WITHIN_S
    while time.monotonic() < deadline_s:
        record = msgspec.json.decode((stack.folder / ".inferlane" / "up.json").read_bytes())
        (pool,) = record["scaled_pools"]
        if pool["workers"] == 0 and not any(entry["pool"] == POOL for entry in record["processes"]):
            return
        time.sleep(POLL_S)
    pytest.fail(f"{POOL} did not sleep: {record['scaled_pools']}")


def predicted(looks: list[dict[str, Any]], start: dict[str, Any], *, hpa_sync_s: float) -> list[int]:
    """The sizes that the pure policy decides from the lag that was read, when it was read."""
    (numbers,) = read_scaled_objects(SCALED_OBJECTS.read_text(), source=str(SCALED_OBJECTS))
    scaler = PoolScaler(numbers, replicas=start["workers"], now_s=start["now_s"], hpa_sync_s=hpa_sync_s)
    return [
        scaler.look(
            [
                None if lane is None else [PartitionOffsets(end=end, committed=held) for end, held in lane]
                for lane in look["offsets"]
            ],
            now_s=look["now_s"],
        ).replicas
        for look in looks
    ]


def test_a_burst_on_a_sleeping_pool_is_answered_whole_and_the_pool_sleeps_again(stack: Stack) -> None:
    await_sleep(stack)
    events_before, began_s = len(events(stack)), time.monotonic()
    body = {"model": MODEL, "version": VERSION, "instances": [ROW]}
    accepted = [stack.call("/v1/models/predict", body, prefer="respond-async") for _ in range(BURST)]
    assert {answer.status for answer in accepted} == {202}
    results = [stack.call(answer.headers["location"] + "?wait_s=60").body for answer in accepted]
    assert [result["status"] for result in results] == ["SUCCEEDED"] * BURST
    await_sleep(stack)

    logged = events(stack)
    (start,) = [event for event in logged if event["event"] == "autoscaler_started"]
    looks = [event for event in logged if event["event"] == "pool_looked_at"]
    decided = [look["workers"] for look in looks]
    assert decided == predicted(looks, start, hpa_sync_s=float(stack.environment["INFERLANE_HPA_SYNC_S"]))
    # One worker wakes first, unless more than one can do is there at the first look.
    sizes = [size for size, _ in groupby(look["workers"] for look in looks if look["now_s"] >= began_s)]
    woken_sizes = sizes[1:] if sizes[0] == 0 else sizes
    assert woken_sizes in ([1, 2, 1, 0], [2, 1, 0])
    # What ran: the supervisor says so when the new ones are ready and the spare ones drained.
    woken = next(n for n, event in enumerate(logged) if n >= events_before and event.get("reason") == "activated")
    ran = [event["size"] for event in logged[woken:] if event["event"] == "pool_scaled"]
    assert (ran[0] in woken_sizes[:2], max(ran), ran[-1]) == (True, 2, 0)


def test_status_and_doctor_know_of_a_pool_that_sleeps(stack: Stack) -> None:
    await_sleep(stack)
    status = stack.inferlane("status")
    assert (status.returncode, POOL in status.stdout) == (0, True), status.stdout
    doctor = stack.inferlane("doctor")
    assert f"predict {MODEL} {VERSION}: asleep" in doctor.stdout, doctor.stdout


def test_the_autoscaler_is_a_target_of_prometheus_and_serves_its_metrics(stack: Stack) -> None:
    """Its port was named in the log alone."""
    await_sleep(stack)
    groups = json.loads((stack.folder / ".inferlane" / "prometheus-targets.json").read_text())
    (target,) = [group["targets"][0] for group in groups if group["labels"]["component"] == "autoscaler"]
    with urlopen(f"http://{target}/metrics", timeout=WAIT_S) as answer:
        assert b"inferlane_autoscaler_wanted_workers{" in answer.read()
