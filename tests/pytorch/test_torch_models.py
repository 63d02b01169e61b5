"""Models of PyTorch as users save them: each is added, and answers what PyTorch predicts. `.ci/torch.sh` runs this."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inferlane.errors import ConfigurationError
from models.adding.addition import Added, Addition, add
from models.store_reader import load_catalog
from models.verify import verify_version
from workers.model import OnnxModel

# An export compiles for seconds on an idle machine.
pytestmark = pytest.mark.timeout(600)

EXAMPLE = np.random.default_rng(1).normal(0, 1, (5, 6, 4)).astype(np.float32)


class LastStep(nn.Module):
    """The scores of a sequence by the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        states, _ = self.memory(steps)
        scores: torch.Tensor = self.head(states[:, -1])
        return scores


@pytest.fixture(autouse=True)
def fixed_weights() -> Iterator[None]:
    torch.manual_seed(7)
    with torch.no_grad():
        yield


def added(folder: Path, name: str, **options: Any) -> Added:
    about: dict[str, Any] = {
        "source": str(folder / name),
        "model": "net",
        "version": None,
        "models_dir": folder / "store",
        "check": None,
        "tolerance": 1e-4,
        "timeout_s": 300.0,
        "trust_pickle": True,
    }
    return add(Addition(**(about | options)), say=lambda _: None)


def answers(folder: Path, rows: np.ndarray) -> np.ndarray:
    version = load_catalog(folder / "store", default_model="net").model().version("v1")
    verify_version(version)
    inputs = {version.signature.inputs[0].name: rows}
    return next(iter(OnnxModel(version, intra_op_num_threads=1).run(inputs).values()))


def rows_file(folder: Path) -> Path:
    path = folder / "rows.npz"
    np.savez(path, steps=EXAMPLE)
    return path


@pytest.mark.parametrize("is_free", [True, False])
def test_an_exported_program_answers_as_it_does_in_pytorch(tmp_path: Path, is_free: bool) -> None:
    module = LastStep().eval()
    free = ({0: torch.export.Dim("rows")},) if is_free else None
    exported = torch.export.export(module, (torch.from_numpy(EXAMPLE),), dynamic_shapes=free)
    torch.export.save(exported, tmp_path / "model.pt2")

    report = added(tmp_path, "model.pt2").report

    assert report.converted is not None
    assert report.converted.library.startswith("PyTorch 2")
    assert report.checked.library_comparison is not None
    rows = np.concatenate([EXAMPLE, EXAMPLE * 2])
    np.testing.assert_allclose(answers(tmp_path, rows), module(torch.from_numpy(rows)).numpy(), atol=1e-5)


def test_torch_script_needs_rows_and_no_trust(tmp_path: Path) -> None:
    module = LastStep().eval()
    torch.jit.trace(module, (torch.from_numpy(EXAMPLE),)).save(tmp_path / "model.pt")

    with pytest.raises(ConfigurationError, match=r"--check rows\.npz"):
        added(tmp_path, "model.pt", trust_pickle=False)
    added(tmp_path, "model.pt", trust_pickle=False, check=rows_file(tmp_path))

    np.testing.assert_allclose(answers(tmp_path, EXAMPLE), module(torch.from_numpy(EXAMPLE)).numpy(), atol=1e-5)


def test_a_pickled_module_is_opened_only_where_it_is_trusted(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).eval()
    torch.save(module, tmp_path / "model.pth")

    with pytest.raises(ConfigurationError, match="is a pickle"):
        added(tmp_path, "model.pth", trust_pickle=False)
    added(tmp_path, "model.pth", check=rows_file(tmp_path))

    np.testing.assert_allclose(answers(tmp_path, EXAMPLE), module(torch.from_numpy(EXAMPLE)).numpy(), atol=1e-5)


def test_weights_alone_are_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(LastStep().state_dict(), tmp_path / "model.pt")

    with pytest.raises(ConfigurationError, match=r"holds weights by name.*torch\.export\.save"):
        added(tmp_path, "model.pt")


def test_what_is_no_file_of_pytorch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"not a zip")

    with pytest.raises(ConfigurationError, match=r"no file of torch\.export\.save"):
        added(tmp_path, "model.pt2")
