"""Files of PyTorch where PyTorch is not installed: which of them are pickles, and what is missing."""

import zipfile
from pathlib import Path

import pytest

from inferlane.errors import ConfigurationError
from models.adding.addition import Addition, add
from models.adding.sources import SourceKind, find_source


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return path


@pytest.mark.parametrize(
    ("name", "inside", "kind", "is_pickle"),
    [
        ("a.pt2", "a/models/model.json", SourceKind.TORCH_EXPORT, True),
        ("a.pt", "a/data.pkl", SourceKind.TORCH_PICKLE, True),
        ("a.pth", "a/code/__torch__.py", SourceKind.TORCH_SCRIPT, False),
    ],
)
def test_what_pytorch_wrote_is_known_by_what_is_inside(
    tmp_path: Path, name: str, inside: str, kind: SourceKind, is_pickle: bool
) -> None:
    found = find_source(str(archive(tmp_path / name, inside)))

    assert (found.kind, found.kind.is_pickle, found.kind.is_of_torch) == (kind, is_pickle, True)


@pytest.mark.parametrize(
    ("trusted", "reason"),
    [
        (False, "is a pickle, which runs whatever its author wrote"),
        (True, r"needs 'torch', which is not installed: pip install 'inferlane\[torch\]'"),
    ],
)
def test_an_exported_program_needs_trust_and_pytorch(tmp_path: Path, trusted: bool, reason: str) -> None:
    source = archive(tmp_path / "a.pt2", "a/models/model.json")
    addition = Addition(
        source=str(source),
        model="net",
        version=None,
        models_dir=tmp_path / "store",
        check=None,
        tolerance=1e-4,
        timeout_s=120.0,
        trust_pickle=trusted,
    )

    with pytest.raises(ConfigurationError, match=reason):
        add(addition, say=lambda _: None)

    assert list((tmp_path / "store").iterdir()) == []
