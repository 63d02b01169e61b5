"""A file that a command cannot write is one line with its name, and results go into no file of another format."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from control_plane.cli.batch_files import results_written
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


@pytest.mark.parametrize(
    ("out", "more", "says"),
    [
        ("rows.jsonl", (), "--out 'rows.jsonl' is the file of the rows ('rows.jsonl')"),
        ("results.jsonl", ("--rejects", "rows.jsonl"), "--rejects 'rows.jsonl' is the file of the rows"),
        ("results.jsonl", ("--rejects", "linked.jsonl"), "--rejects 'linked.jsonl' is the file of the rows"),
        ("results.jsonl", ("--rejects", "second-name.jsonl"), "--rejects 'second-name.jsonl' is the file of the rows"),
        ("results.jsonl", ("--rejects", "./results.jsonl"), "--rejects 'results.jsonl' is the file of --out"),
        ("-", (), "--out '-' is no name of a file; name one, or /dev/stdout"),
        ("results.jsonl", ("--rejects", "."), "--rejects '.' is a folder"),
    ],
)
@pytest.mark.usefixtures("rows")
def test_one_file_is_not_read_and_written_or_written_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, more: tuple[str, ...], says: str
) -> None:
    Path("rows.jsonl").write_text("[1, 2, 3]\n")
    Path("linked.jsonl").symlink_to("rows.jsonl")
    Path("second-name.jsonl").hardlink_to("rows.jsonl")

    assert says in refusal(monkeypatch, capsys, "batch", "submit", "rows.jsonl", "--out", out, *more)
    assert Path("rows.jsonl").read_text() == "[1, 2, 3]\n"


@pytest.mark.usefixtures("rows")
def test_rows_are_not_read_from_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.csv")
    said = refusal(monkeypatch, capsys, "batch", "submit", "pipe.csv", "--out", "results.jsonl")
    assert "'pipe.csv' is no regular file, and rows are read more than once; name a file" in said


@pytest.mark.usefixtures("rows")
def test_rejects_are_written_where_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.csv").write_text("1,2,x\n")
    arguments = (
        "batch",
        "submit",
        "odd.csv",
        "--out",
        "results.jsonl",
        "--refuse-invalid",
        "--rejects",
        "rejects.jsonl",
    )
    assert "All are in rejects.jsonl." in refusal(monkeypatch, capsys, *arguments)
    assert "'x' is no number" in Path("rejects.jsonl").read_text()
    assert not Path("results.jsonl").exists()


def test_results_go_through_a_link_and_into_a_pipe(tmp_path: Path) -> None:
    link, target, pipe = tmp_path / "link.jsonl", tmp_path / "elsewhere" / "results.jsonl", tmp_path / "pipe"
    target.parent.mkdir()
    link.symlink_to(target)
    with results_written(link) as file:
        file.write(b"{}\n")
        assert not target.exists()
    assert link.is_symlink()
    assert target.read_bytes() == b"{}\n"

    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with results_written(pipe) as file:
        file.write(b"[]\n")
    reader.join(timeout=30)
    assert read == [b"[]\n"]
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "link.jsonl", "pipe", "results.jsonl"]


def test_two_jobs_with_one_name_write_files_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    with results_written(out) as first:
        with results_written(out) as second:
            first.write(b"1\n")
            second.write(b"2\n")
        assert out.read_bytes() == b"2\n"
    assert out.read_bytes() == b"1\n"
    assert list(tmp_path.iterdir()) == [out]


def test_a_job_that_is_told_to_end_names_the_results_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.jsonl"

    def told_to_end() -> None:
        with results_written(out) as file:
            file.write(b"1\n")
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        told_to_end()
    assert ended.value.code == 128 + signal.SIGTERM
    (partial,) = tmp_path.iterdir()
    assert partial.read_bytes() == b"1\n"
    assert f"the results so far are in {partial}" in " ".join(capsys.readouterr().err.split())

    with pytest.raises(KeyboardInterrupt), results_written(out):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [partial]
