"""One version that cannot be served: it is refused with its reason, and all others are served."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from control_plane.cli.models_commands import app
from inferlane.contracts.record import read_headers
from inferlane.contracts.traffic_split import Split, make_split
from inferlane.errors import ConfigurationError, InvalidSplitError, UnusableVersionError
from models.store_reader import load_catalog
from models.verify import verify_version
from router.routing import route
from tests.support.fakes.records import FakeRecord
from tests.support.fakes.stores import write_tiny_store
from tests.support.fakes.zoo import SPOILT, add_version, save_external, spoil
from workers.model import OnnxModel


@pytest.mark.parametrize("name", SPOILT)
def test_verify_names_what_is_wrong_with_a_version(tmp_path: Path, name: str) -> None:
    write_tiny_store(tmp_path)
    spoil(tmp_path, name)
    catalog = load_catalog(tmp_path, default_model="tiny")
    with pytest.raises(ConfigurationError) as refused:
        verify_version(catalog.model().version(name))
    assert SPOILT[name][1] in str(refused.value)


def test_verify_goes_over_every_version_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_store(tmp_path)
    for name in SPOILT:
        spoil(tmp_path, name)
    monkeypatch.setenv("INFERLANE_DEFAULT_MODEL", "tiny")
    outcome = CliRunner().invoke(app, ["verify", "--models-dir", str(tmp_path)])
    assert outcome.exit_code == 1
    verdicts = dict(
        line.removeprefix("tiny ").split(": ", 1) for line in outcome.stdout.splitlines() if "tiny " in line
    )
    assert verdicts.pop("v1") == "ok"
    assert set(verdicts) == set(SPOILT)
    assert all(verdict.startswith("failed") for verdict in verdicts.values())


def test_weights_in_a_file_beside_the_graph_are_served_from_the_bytes_that_were_hashed(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    folder = add_version(tmp_path, "v2", save_external)
    version = load_catalog(tmp_path, default_model="tiny").model().version("v2")
    verify_version(version)
    model = OnnxModel(version, intra_op_num_threads=1)
    # What happens to the files afterwards changes nothing.
    (folder / "w.bin").write_bytes(b"\0" * version.size_bytes)
    assert model.run({"input": _ONES})["probabilities"] == pytest.approx(_EXPECTED)


def test_external_data_is_not_looked_for_where_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_store(tmp_path)
    folder = add_version(tmp_path, "v2", save_external)
    monkeypatch.chdir(tmp_path)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    with pytest.raises(ConfigurationError, match=r"v2/w\.bin"):
        verify_version(load_catalog(tmp_path, default_model="tiny").model().version("v2"))


@pytest.mark.parametrize(
    "odd",
    [
        "trained = 2026-11-26",
        "loss = nan",
        "loss = -inf",
        "[metrics.by_class]\na = 1",
        "n = 1" + "0" * 400,
        "x = [1, {}]",
    ],
)
def test_an_odd_value_beside_a_model_is_shown_as_text_and_refuses_nothing(tmp_path: Path, odd: str) -> None:
    path = write_tiny_store(tmp_path).with_name("version.toml")
    path.write_text(path.read_text() + odd + "\n")
    metrics = load_catalog(tmp_path, default_model="tiny").model().version("v1").metrics
    assert metrics["held_out_accuracy"] == 0.75
    assert all(isinstance(value, str) for name, value in metrics.items() if name != "held_out_accuracy")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("v2/version.toml", "digest ="),
        ("v2/version.toml", "digest = 1"),
        ("v2/version.toml", b"\xff"),
        ("v2/model.onnx", None),
        ("../other/model.toml", "default_version = 3"),
        ("../other/model.toml", ""),
    ],
)
def test_what_cannot_be_read_is_a_fault_of_the_catalog_and_the_rest_is_served(
    tmp_path: Path, file: str, text: str | bytes | None
) -> None:
    write_tiny_store(tmp_path)
    add_version(tmp_path, "v2", save_external)
    path = tmp_path / "tiny" / file
    path.parent.mkdir(exist_ok=True)
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    catalog = load_catalog(tmp_path, default_model="tiny")
    assert "v1" in catalog.model().versions
    assert path.name in catalog.faults[0].reason


def test_a_bad_default_version_leaves_the_others_and_what_no_split_sends_elsewhere_gets_the_reason(
    tmp_path: Path,
) -> None:
    onnx = write_tiny_store(tmp_path)
    add_version(tmp_path, "v2", save_external)
    onnx.with_name("version.toml").write_text("")
    catalog = load_catalog(tmp_path, default_model="tiny")

    def routed(*headers: tuple[str, bytes], weights: dict[str, float] | None = None) -> str:
        splits = {"tiny": Split(model="tiny", weights=weights)} if weights else {}
        return route(read_headers(FakeRecord(headers=headers)), splits, catalog).version

    assert routed(("ce_modelversion", b"v2")) == "v2"
    assert routed(weights={"v1": 0.5, "v2": 0.5}) == "v2"
    for headers in ((), (("ce_modelversion", b"v1"),)):
        with pytest.raises(UnusableVersionError, match=r"v1/version\.toml: missing or malformed"):
            routed(*headers)


def test_a_split_that_names_a_version_that_cannot_be_served_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidSplitError, match="'v2' of model 'iris' cannot be served: no file"):
        make_split("iris", {"v1": 1, "v2": 1}, known=["v1"], unusable={"v2": "no file"}, changed_s=0)
    assert make_split("iris", {"v1": 1, "v2": 0}, known=["v1"], unusable={"v2": "x"}, changed_s=0).weights["v1"] == 1


_ONES = np.ones((2, 3), dtype=np.float32)
_EXPECTED = np.array([[0.9, 1.2, 1.5]] * 2)
