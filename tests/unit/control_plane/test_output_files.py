"""A file that a command cannot write is one line with its name, and results go into no file of another format."""

import sys
from pathlib import Path

import pytest

from control_plane.cli.main import main
from tests.support.fakes.stores import write_tiny_store


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line of a command that exits with 1."""
    monkeypatch.setattr(sys, "argv", ["inferlane", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write_tiny_store(tmp_path / "models")
    monkeypatch.setenv("INFERLANE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("INFERLANE_DEFAULT_MODEL", "tiny")
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("1,2,3\n")
    Path("a-file").touch()
    return "rows.csv"


@pytest.mark.parametrize(
    "arguments",
    [
        ("batch", "submit", "rows.csv", "--out", "a-file/results.jsonl"),
        ("batch", "submit", "rows.csv", "--out", "results.jsonl", "--rejects", "a-file/rejects.jsonl"),
        ("k8s", "render", "--out", "a-file/k8s"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("rows")
def test_a_file_that_cannot_be_written_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    said = refusal(monkeypatch, capsys, *arguments)
    assert "error (file) a-file" in said
    assert "cannot be used: Not a directory. Name another file" in said


@pytest.mark.usefixtures("rows")
def test_a_disk_that_is_full_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = Path("k8s/base/namespace.yaml")
    written.parent.mkdir(parents=True)
    written.symlink_to("/dev/full")
    said = refusal(monkeypatch, capsys, "k8s", "render", "--out", "k8s")
    assert "cannot be used: No space left on device. Make room on its disk." in said


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (".", "is a folder; name a file, such as 'results.jsonl'"),
        ("scored.parquet", "ends in '.parquet', and results are JSON lines; name it 'scored.jsonl'"),
        ("scored.CSV", "ends in '.CSV', and results are JSON lines; name it 'scored.jsonl'"),
    ],
)
def test_results_are_not_written_into_what_is_no_file_of_json_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rows: str, out: str, says: str
) -> None:
    assert says in refusal(monkeypatch, capsys, "batch", "submit", rows, "--out", out)
    assert not list(Path().glob("*.partial"))
