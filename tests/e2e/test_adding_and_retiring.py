"""Versions come to a running stack and go from it, while its other versions answer."""

import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.fakes.stores import write_tiny_onnx, write_tiny_store
from tests.support.fakes.zoo import spoil
from tests.support.folder_stack import FolderStack

TINY = {"model": "tiny", "instances": [[1.0, 2.0, 3.0]], "timeout_s": 60}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderStack]:
    folder = tmp_path_factory.mktemp("stack")
    write_tiny_store(folder / "models")
    running = FolderStack(folder)
    try:
        started = running.run("up", "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        yield running
    finally:
        running.run("down")


class Client:
    """Asks the version that is always there, again and again; every answer must be one."""

    def __init__(self, stack: FolderStack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.codes: list[int] = []

    def _ask(self) -> None:
        while not self._stop.is_set():
            self.codes.append(self._stack.call("/v1/models/predict", TINY)[0])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def served(stack: FolderStack) -> dict[str, set[str]]:
    listed = stack.call("/v1/models")[1]["models"]
    return {model["name"]: {version["version"] for version in model["versions"]} for model in listed}


@pytest.mark.timeout(900)
def test_a_pickled_pipeline_and_an_onnx_file_are_added_answered_and_retired(stack: FolderStack, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, (rows[:, 0] > 0).astype(int))
    (tmp_path / "pipeline.pkl").write_bytes(pickle.dumps(pipeline))
    write_tiny_onnx(tmp_path / "export.onnx")
    with Client(stack) as client:
        added = stack.run("models", "add", str(tmp_path / "pipeline.pkl"), "--name", "fraud", "--trust-pickle")
        assert added.returncode == 0, added.stdout + added.stderr
        assert "fraud v1 is served: it answered a row of zeros after" in added.stdout
        assert f"curl -s {stack.url}/v1/models/predict" in added.stdout
        row = rows[:3].astype(np.float32)
        code, answer = stack.call("/v1/models/predict", {"model": "fraud", "instances": row.tolist()})
        assert code == 200, answer
        labels = [prediction["label"] for prediction in answer["predictions"]]
        assert [int(label) for label in labels] == pipeline.predict(row).tolist()

        added = stack.run("models", "add", str(tmp_path / "export.onnx"), "--name", "fraud", "--version", "v2")
        assert added.returncode == 0, added.stdout + added.stderr
        pinned = {"model": "fraud", "version": "v2", "instances": [[1.0, 2.0, 3.0]]}
        assert stack.call("/v1/models/predict", pinned)[0] == 200
        assert served(stack) == {"tiny": {"v1"}, "fraud": {"v1", "v2"}}
        assert stack.call("/v2/models/fraud/versions/v2")[1]["inputs"][0]["shape"] == [-1, 3]

        refused = stack.run("models", "retire", "fraud/v1")
        assert (refused.returncode, "default version" in refused.stderr) == (1, True), refused.stderr
        default = stack.run("models", "default", "fraud/v2")
        assert (default.returncode, "split" in default.stdout) == (0, False), default.stdout
        unpinned = {"model": "fraud", "instances": [[1.0, 2.0, 3.0]]}
        stack.eventually(lambda: stack.call("/v1/models/predict", unpinned)[1].get("version") == "v2")

        assert stack.call("/v1/traffic-split", {"model": "fraud", "weights": {"v1": 1}})[0] == 200
        assert "Its split (v1 1) still decides" in stack.run("models", "default", "fraud/v2").stdout
        refused = stack.run("models", "retire", "fraud/v1")
        assert (refused.returncode, "split of 'fraud'" in refused.stderr) == (1, True), refused.stderr
        assert stack.call("/v1/traffic-split", {"model": "fraud", "weights": {"v2": 1}})[0] == 200

        for version in ("v1", "v2"):
            retired = stack.run("models", "retire", f"fraud/{version}")
            assert retired.returncode == 0, retired.stdout + retired.stderr
            assert version not in served(stack).get("fraud", set())
            assert f"worker-fraud-{version}" not in stack.run("status").stdout
    assert set(client.codes) == {200}
    assert served(stack) == {"tiny": {"v1"}}
    assert not (Path(stack.environment["INFERLANE_MODELS_DIR"]) / "fraud").exists()
    assert stack.call("/v1/models/predict", {**pinned})[0] == 404


@pytest.mark.timeout(900)
def test_requests_that_were_accepted_are_finished_before_a_version_goes(stack: FolderStack, tmp_path: Path) -> None:
    """Guards the drain: without it what waits in the version's topic is never answered."""
    write_tiny_onnx(tmp_path / "export.onnx")
    assert stack.run("models", "add", str(tmp_path / "export.onnx"), "--name", "leaving").returncode == 0
    rows = tmp_path / "rows.csv"
    rows.write_text("".join(f"{number},1,2\n" for number in range(20_000)))
    results: list[int] = []
    asked = threading.Event()

    def ask() -> None:
        while True:
            code, _ = stack.call("/v1/models/predict", {"model": "leaving", "instances": [[1.0, 2.0, 3.0]]})
            results.append(code)
            asked.set()
            if code != 200:
                return

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    asked.wait()
    retired = stack.run("models", "retire", "leaving/v1")
    for client in clients:
        client.join()
    assert retired.returncode == 0, retired.stdout + retired.stderr
    # Each client got answers until it was refused, and nothing in between.
    assert set(results) <= {200, 404, 503}
    assert sum(code != 200 for code in results) == len(clients)


@pytest.mark.timeout(900)
def test_a_version_that_cannot_start_is_named_everywhere_and_takes_nobody_with_it(stack: FolderStack) -> None:
    spoil(Path(stack.environment["INFERLANE_MODELS_DIR"]), "corrupt")
    with Client(stack) as client:
        told = stack.run("models", "serve", "tiny/corrupt")
        assert told.returncode == 1
        assert "everything else goes on" in told.stderr, told.stdout + told.stderr
        status, doctor = stack.run("status"), stack.run("doctor")
        assert "not served tiny corrupt: " in status.stdout
        assert "tiny corrupt: " in doctor.stdout
        [fault] = stack.call("/v1/models")[1]["unusable"]
        assert (fault["model"], fault["version"]) == ("tiny", "corrupt")
        shown = stack.run("models", "show", "tiny")
        assert "failed" in shown.stdout, shown.stdout + shown.stderr
        retired = stack.run("models", "retire", "--now", "tiny/corrupt")
        assert retired.returncode == 0, retired.stdout + retired.stderr
    assert set(client.codes) == {200}
    assert stack.call("/v1/models")[1]["unusable"] == []
    assert stack.run("status").returncode == 0
    assert json.loads(stack.run("dead-letters", "list", "--json").stdout or "[]") == []
