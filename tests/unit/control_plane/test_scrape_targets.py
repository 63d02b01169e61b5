"""Where Prometheus finds the processes of the local stack."""

import json
from pathlib import Path

from control_plane.local.state_directory import TargetFile, target_groups
from inferlane.runtime.metrics.instruments import every_metric
from inferlane.runtime.runfile import ProcessRecord


def record(name: str, pool: str, ops_url: str) -> ProcessRecord:
    return ProcessRecord(
        name=name,
        pool=pool,
        pid=1,
        create_time_s=0.0,
        state="ready",
        restarts=0,
        port=8100,
        ops_url=ops_url,
        log="",
    )


RECORDS = [
    record("broker", "broker", ""),
    record("api", "api", "http://127.0.0.1:8000"),
    record("worker-iris-v1-2", "worker-iris-v1", "http://[::1]:8102"),
]


def test_every_process_with_metrics_is_a_target_and_says_what_it_is(tmp_path: Path) -> None:
    file = TargetFile(tmp_path / "state")
    file.write(target_groups(RECORDS))
    assert json.loads(file.path.read_text()) == [
        {"targets": ["127.0.0.1:8000"], "labels": {"component": "api", "pool": "api", "process": "api"}},
        {
            "targets": ["[::1]:8102"],
            "labels": {"component": "worker", "pool": "worker-iris-v1", "process": "worker-iris-v1-2"},
        },
    ]
    file.remove()
    file.remove()
    assert list(file.path.parent.iterdir()) == []


def test_no_label_of_a_target_is_one_of_a_metric() -> None:
    used = {label for metric in every_metric() for label in metric.labels}
    assert not used & {name for group in target_groups(RECORDS) for name in group.labels}
