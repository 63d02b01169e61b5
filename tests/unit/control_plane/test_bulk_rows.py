"""Rows of a file: how it is written is found and said, and no row is lost in silence."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from control_plane.bulk import rows
from control_plane.bulk.chunks import Chunk
from control_plane.bulk.formats import HeaderLine, ReadOptions
from control_plane.bulk.result_lines import failed_lines, predicted_lines, rejects_written
from control_plane.bulk.rows import RowFile
from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec
from inferlane.errors import ConfigurationError, DecodeError
from tests.support.fakes.records import IRIS

ROWS = "5.1,3.5,1.4,0.2\n6.7,3.0,5.2,2.3\n"
NAMES = "sepal length,sepal width,petal length,petal width\n"
ONE = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),), outputs=IRIS.outputs)
EXPECTED = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]


def read(
    folder: Path, content: str | bytes, *, name: str = "rows.csv", signature: Signature = IRIS, **options: object
) -> tuple[RowFile, list[Chunk]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    file = RowFile(path, signature, ReadOptions(**options))  # type: ignore[arg-type]  # as it is given
    return file, list(file.chunks(rows_per_chunk=100))


def values(chunks: list[Chunk]) -> list[list[float]]:
    return [row for chunk in chunks if chunk.positions for row in chunk.tensors["input"].round(4).tolist()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ROWS, "UTF-8, delimiter comma, no header"),
        (NAMES + ROWS, "UTF-8, delimiter comma, header 'sepal length, sepal width, petal length, petal width'"),
        ("\ufeff" + ROWS, "UTF-8 with a byte order mark, delimiter comma, no header"),
        ("\ufeff" + NAMES + ROWS, "UTF-8 with a byte order mark, delimiter comma, header 'sepal"),
        (ROWS.replace(",", ";"), "delimiter semicolon, no header"),
        ((NAMES + ROWS).replace(",", "\t"), "delimiter tab, header"),
        (ROWS.replace(",", "|"), "delimiter pipe, no header"),
        (ROWS.encode("utf-16"), "UTF-16, delimiter comma, no header"),
        (ROWS.encode("utf-32"), "UTF-32, delimiter comma, no header"),
        (ROWS.encode("utf-16-be"), "UTF-16-BE without a byte order mark, delimiter comma"),
        (NAMES.replace("sepal", "Kelchblätter").encode("latin-1") + ROWS.encode(), "Latin-1 (it is not UTF-8)"),
        (ROWS.replace("\n", "\r\n"), "no header"),
        (ROWS.replace("\n", "\r"), "no header"),
        (ROWS.rstrip("\n"), "no header"),
        (ROWS + "\n\n  \n", "no header"),
        (f"\n{NAMES}\n{ROWS}", "header"),
        ('"5.1","3.5","1.4","0.2"\n6.7, +3.0 ,52e-1,2.3\n', "no header"),
        ('"sepal, length",b,c,d\n' + ROWS, "header 'sepal, length, b, c, d'"),
        ("0,,,d\n".replace("0", "id") + ROWS, "header 'id, , , d'"),
    ],
)
def test_how_a_file_is_written_is_found_and_said(tmp_path: Path, content: str | bytes, said: str) -> None:
    file, chunks = read(tmp_path, content)
    assert said in str(file.format)
    assert np.allclose(values(chunks), EXPECTED)
    assert all(not chunk.faults for chunk in chunks)


@pytest.mark.parametrize(
    ("odd", "fault"),
    [
        ("5.1,,1.4,0.2", "line 1, column 2: the value is missing ('')"),
        ("NA,3.5,1.4,0.2", "line 1, column 1: the value is missing ('NA')"),
        ("x,3.5,1.4,0.2", "line 1, column 1: 'x' is no number"),
        ("5.1,3.5,1.4,nan", "line 1, column 4: the value is missing ('nan')"),
        ("5.1,3.5,1.4,1_0", "line 1, column 4: '1_0' is no number"),
        ("5.1,3.5,1.4,1e999", "line 1, column 4: '1e999' is out of range"),
        ("5.1,3.5,1.4,inf", "line 1, column 4: 'inf' is no number"),
        ("5.1,3.5,1.4,\u0665", "column 4"),
        ("5.1,3.5,1.4", "line 1 has 3 values, the model takes 4"),
        ("5.1,3.5,1.4,0.2,", "line 1 has 5 values, the model takes 4"),
        ('"5.1,3.5,1.4,0.2', "line 1: "),
        ('5.1,3.5,"1.4"0,0.2', "line 1: "),
        ("5.1,3.5,1.4,1e300", "line 1: "),
        (",,,", "line 1, column 1: the value is missing"),
        ("2026-01-01,2026-01-02,2026-01-03,2026-01-04", "line 1, column 1: '2026-01-01' is no number"),
        ("$5,$3,$1,$0", "line 1, column 1: '$5' is no number"),
        ("51%,35%,14%,2%", "line 1, column 1: '51%' is no number"),
        ("-inf,inf,inf,inf", "line 1, column 1: '-inf' is no number"),
        ("True,False,True,False", "line 1, column 1: 'True' is no number"),
        ("0x1,0x2,0x3,0x4", "line 1, column 1: '0x1' is no number"),
        ("5.1,3.5,1.4,0.2\0", "line 1, column 4: '0.2\\x00' is no number"),
        ("5.1 3.5 1.4 0.2", "line 1 has 1 values, the model takes 4"),
    ],
)
def test_an_odd_field_costs_its_own_row_and_is_named_wherever_it_stands(tmp_path: Path, odd: str, fault: str) -> None:
    (tmp_path / "last").mkdir()
    _, chunks = read(tmp_path, f"{odd}\n{ROWS}")
    assert np.allclose(values(chunks), EXPECTED)
    assert [(reject.row, reject.line, reject.text) for chunk in chunks for reject in chunk.rejects] == [(0, 1, odd)]
    assert chunks[0].faults[0].startswith(fault) or fault in chunks[0].faults[0]
    _, chunks = read(tmp_path / "last", f"{NAMES}{ROWS}{odd}\n")
    assert np.allclose(values(chunks), EXPECTED)
    assert [(reject.row, reject.line) for chunk in chunks for reject in chunk.rejects] == [(2, 4)]


def test_a_bad_value_is_named_by_its_column(tmp_path: Path) -> None:
    _, [chunk] = read(tmp_path, f"{NAMES}5.1,x,1.4,0.2\n")
    assert chunk.faults == {0: "line 2, column 2 ('sepal width'): 'x' is no number"}


def test_what_is_given_wins_over_what_is_found(tmp_path: Path) -> None:
    assert len(read(tmp_path, "1,2,3,4\n" + ROWS, header=HeaderLine.YES)[1][0].positions) == 2
    assert read(tmp_path, NAMES + ROWS, header=HeaderLine.NO)[1][0].rejects[0].line == 1
    _, [chunk] = read(tmp_path, ROWS.replace(",", ":"), delimiter=":")
    assert np.allclose(values([chunk]), EXPECTED)
    _, [chunk] = read(tmp_path, "\ufeff" + ROWS, encoding="utf-8")
    assert np.allclose(values([chunk]), EXPECTED)
    _, [chunk] = read(tmp_path, "5.1,,NA,0.2\n", missing=-1.0)
    assert np.allclose(values([chunk]), [[5.1, -1, -1, 0.2]])


@pytest.mark.parametrize("options", [{"delimiter": "ab"}, {"delimiter": '"'}, {"encoding": "no-such"}])
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="--"):
        read(tmp_path, ROWS, **options)


def test_decimal_commas_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"decimal comma, as in '5,1'; write a point instead \(5\.1\)"):
        read(tmp_path, "a;b;c;d\n5,1;3,5;1,4;0,2\n")


def test_a_line_without_a_value_is_a_row_of_a_model_with_one_value_but_not_at_the_end(tmp_path: Path) -> None:
    file, [chunk] = read(tmp_path, "1\n\n3\n\n\n", signature=ONE)
    assert (chunk.positions, [reject.line for reject in chunk.rejects]) == ((0, 2), [2])
    assert file.empty_lines == 2
    file, _ = read(tmp_path, f"{ROWS}\n{ROWS}")
    assert file.empty_lines == 1


@pytest.mark.parametrize("before", ["", NAMES.replace(",", "\t")])
def test_a_line_of_tabs_is_a_row_of_missing_values_where_tabs_delimit(tmp_path: Path, before: str) -> None:
    content = f"{before}\t\t\t\n{ROWS}".replace(",", "\t")
    for name in ("rows.csv", "rows.tsv"):
        file, [chunk] = read(tmp_path, content, name=name)
        assert (chunk.positions, list(chunk.faults), file.empty_lines) == ((1, 2), [0], 0)
        _, [chunk] = read(tmp_path, content, name=name, missing=-1.0)
        assert np.allclose(values([chunk]), [[-1, -1, -1, -1], *EXPECTED])
    file, [chunk] = read(tmp_path, f"{ROWS}\t\t\n")
    assert (chunk.positions, file.empty_lines) == ((0, 1), 1)


def test_lines_that_are_json_only_together_move_nobody_elses_rows(tmp_path: Path) -> None:
    content = "[1, 2\n3, 4]\n[5, 6, 7, 8], [9, 9, 9, 9]\n[5.1, 3.5, 1.4, 0.2]\n"
    _, [chunk] = read(tmp_path, content, name="rows.jsonl")
    assert (chunk.positions, [reject.line for reject in chunk.rejects]) == ((3,), [1, 2, 3])


def test_json_lines_are_named_by_their_line_too(tmp_path: Path) -> None:
    content = "\ufeff[5.1, 3.5, 1.4, 0.2]\n\n[1, 2]\nnonsense\n[1,2,3,4],[1,2,3,4]\n[6.7, 3.0, 5.2, 2.3]\n"
    file, chunks = read(tmp_path, content, name="rows.JSONL")
    assert np.allclose(values(chunks), EXPECTED)
    assert [reject.line for chunk in chunks for reject in chunk.rejects] == [3, 4, 5]
    assert (str(file.format), file.empty_lines) == ("JSON lines, UTF-8 with a byte order mark", 1)


def test_rejects_are_written_with_line_reason_and_text(tmp_path: Path) -> None:
    _, chunks = read(tmp_path, f"{ROWS}5.1,x,1.4,0.2\n")
    with rejects_written(tmp_path / "rejects.jsonl") as write:
        assert [write(chunk) for chunk in chunks] == chunks
    [line] = (tmp_path / "rejects.jsonl").read_text().splitlines()
    detail = "line 3, column 2: 'x' is no number"
    assert json.loads(line) == {"row": 2, "line": 3, "detail": detail, "text": "5.1,x,1.4,0.2"}


FIELD = st.one_of(st.floats(-1e6, 1e6).map(repr), st.sampled_from(["", "NA", "x", '"', "1,5", " 2 ", "\ufeff", "é"]))


@given(
    rows=st.lists(st.lists(FIELD, min_size=1, max_size=6), min_size=1, max_size=12),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)
def test_every_line_with_something_in_it_is_a_row_a_fault_the_header_or_a_reason_to_refuse(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str, end: str, encoding: str
) -> None:
    text = "".join(delimiter.join(row) + end for row in rows)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_bytes(text.encode(encoding, errors="replace"))
    if delimiter != "," and any("1,5" in row for row in rows):
        with suppress(ConfigurationError):
            # Refused before anything is sent, unless a comma is what cuts most lines.
            RowFile(path, IRIS)
        return
    file = RowFile(path, IRIS)
    chunks = list(file.chunks(rows_per_chunk=3))
    decoded = path.read_text(encoding=file.format.encoding)
    # Also one of delimiters alone, between which every value is missing.
    lines = [line for line in decoded.split("\n") if line.strip() or file.format.delimiter in line]
    found = sum(chunk.row_count for chunk in chunks)
    assert found == len(lines) - (file.format.header is not None)
    assert all(len(chunk.positions) + len(chunk.faults) == chunk.row_count for chunk in chunks)
    assert all(len(chunk.tensors["input"]) == len(chunk.positions) for chunk in chunks if chunk.positions)


WHOLE = Signature(inputs=(TensorSpec(name="x", datatype="INT64", shape=(-1, 1)),), outputs=IRIS.outputs)
SPELLED = st.one_of(
    st.integers(-(10**17), 10**17).map(str),
    st.floats(-1e9, 1e9).map(repr),
    st.decimals(-(10**6), 10**6, places=3).map(str),
    st.sampled_from(
        ["0", "-0", "-0.0", "0.0", "-0.5", "007", "+1", ".5", "5.", "1e5", "1.0", "-00", "1_0", "٣", "0x1"]
    ),
)


@pytest.mark.parametrize("signature", [ONE, WHOLE], ids=["FP32", "INT64"])
@given(st.lists(SPELLED, min_size=1, max_size=8))
def test_however_a_number_is_spelled_it_is_the_one_that_python_reads_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, signature: Signature, spelled: list[str]
) -> None:
    """Lines of numbers as JSON spells them are read without more ado: they must say the same."""
    folder = tmp_path_factory.mktemp("rows")
    # Quoted, a field is never plain: it goes the long way.
    short, long = (
        read(folder, "".join(f"{mark}{field}{mark}\n" for field in spelled), signature=signature, header=HeaderLine.NO)[
            1
        ]
        for mark in ("", '"')
    )
    for ours, theirs in zip(short, long, strict=True):
        assert ours.positions == theirs.positions
        assert ours.faults.keys() == theirs.faults.keys()
        for name in ours.tensors:
            assert ours.tensors[name].tobytes() == theirs.tensors[name].tobytes()


@pytest.mark.parametrize(
    ("datatype", "fields", "expected"),
    [
        ("INT64", "9007199254740993,-9223372036854775808,+007,-0.0", [2**53 + 1, -(2**63), 7, 0]),
        ("UINT64", "18446744073709551615,1e3,0,1.0", [2**64 - 1, 1000, 0, 1]),
        ("BOOL", "true,FALSE, True ,false", [True, False, True, False]),
        ("FP64", "1e-320,5,.5,2", [1e-320, 5, 0.5, 2]),
    ],
)
def test_a_field_is_the_value_that_it_spells(tmp_path: Path, datatype: str, fields: str, expected: list) -> None:
    signature = Signature(inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, 4)),), outputs=IRIS.outputs)

    _, (chunk,) = read(tmp_path, fields + "\n", signature=signature)

    assert not chunk.faults
    assert chunk.tensors["x"].tolist() == [expected]


def test_minus_zero_keeps_its_sign(tmp_path: Path) -> None:
    _, (chunk,) = read(tmp_path, "-0.0\n-0\n0.0\n", signature=ONE)

    assert np.signbit(chunk.tensors["x"]).ravel().tolist() == [True, True, False]


def test_a_field_that_is_no_flag_is_named(tmp_path: Path) -> None:
    signature = Signature(inputs=(TensorSpec(name="x", datatype="BOOL", shape=(-1, 2)),), outputs=IRIS.outputs)

    _, (chunk,) = read(tmp_path, "true,false\ntrue,yes\n", signature=signature)

    assert chunk.faults == {1: "line 2, column 2: 'yes' is neither true nor false"}


def test_a_category_that_reads_like_a_missing_value_is_that_category(tmp_path: Path) -> None:
    columns = (Column(name="country", default="FR", categories=("DE", "FR", "NA")), Column(name="amount", default=9))
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2), columns=columns)

    _, (chunk,) = read(
        tmp_path,
        "country,amount\nNA,2\nnull,3\nDE,\n",
        signature=Signature(inputs=(spec,), outputs=IRIS.outputs),
    )

    assert chunk.tensors["x"].tolist() == [[2, 2], [1, 3], [0, 9]]


def test_results_of_a_chunk_are_written_alike_with_and_without_a_fault_among_them(tmp_path: Path) -> None:
    _, (good,) = read(tmp_path, ROWS)
    _, (mixed,) = read(tmp_path, ROWS.splitlines()[0] + "\nx,1,1,1\n")
    outputs = {"label": np.array([1, 7]), 'p"1': np.array([[0.5, np.nan], [1.0, 0.1]])}
    said = {"model": 'ir"is', "version": "v1", "classes": {"label": ("a", "b")}}
    whole = predicted_lines(good, outputs, **said).splitlines()  # type: ignore[arg-type]  # as it is given
    firsts = {name: array[:1] for name, array in outputs.items()}
    part = predicted_lines(mixed, firsts, **said).splitlines()  # type: ignore[arg-type]  # as above
    assert whole[0] == part[0]
    assert [json.loads(line) for line in whole] == [
        {"row": 0, "model": 'ir"is', "version": "v1", "prediction": {"label": "b", 'p"1': [0.5, "NaN"]}},
        {"row": 1, "model": 'ir"is', "version": "v1", "prediction": {"label": 7, 'p"1': [1.0, 0.1]}},
    ]
    assert json.loads(part[1])["error"]["code"] == "invalid_input"
    (bare, _) = predicted_lines(good, {"y": np.array([2.5, 3.5])}, **said).splitlines()  # type: ignore[arg-type]
    assert json.loads(bare)["prediction"] == 2.5
    failed = [json.loads(line) for line in failed_lines(mixed, {"code": "model_error", "detail": "no"}).splitlines()]
    assert [(line["row"], line["error"]["code"]) for line in failed] == [(0, "model_error"), (1, "invalid_input")]


@pytest.mark.parametrize("outputs", [{"y": np.zeros(1)}, {"y": np.zeros(2), "z": np.zeros(3)}])
def test_a_result_with_other_rows_than_were_sent_is_refused(tmp_path: Path, outputs: dict[str, np.ndarray]) -> None:
    _, (chunk,) = read(tmp_path, ROWS)
    with pytest.raises(DecodeError, match="2 rows were sent"):
        predicted_lines(chunk, outputs, model="iris", version="v1", classes={})


def test_a_long_file_is_read_in_order_with_its_odd_and_empty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of lines are read at once, and one by one around an odd line: neither may move the rows or their lines."""
    monkeypatch.setattr(rows, "_BLOCK_CHARS", 2_000)
    odd = {700: "x,1,1,1", 701: "-0,1,1,1", 1500: '"2",1,1,1', 2999: "1,2"}
    written = [odd.get(number, f"{number},1,1,1") for number in range(3_000)]
    for place in (2_400, 900, 250):
        written.insert(place, "")
    path = tmp_path / "rows.csv"
    path.write_text(NAMES + "\n".join(written))

    file = RowFile(path, IRIS)
    chunks = list(file.chunks(rows_per_chunk=64))

    assert sum(chunk.row_count for chunk in chunks) == 3_000
    assert all(chunk.row_count <= 64 for chunk in chunks)
    assert file.empty_lines == 3
    # One empty line and the header before the first of them, three at the end.
    assert [(reject.row, reject.line) for chunk in chunks for reject in chunk.rejects] == [(700, 703), (2999, 3004)]
    read_back = {
        chunk.first_row + position: row[0]
        for chunk in chunks
        for position, row in zip(chunk.positions, chunk.tensors["input"].tolist(), strict=True)
    }
    wanted = {number: float(number) for number in range(3_000)} | {701: 0.0, 1500: 2.0}
    assert read_back == {number: value for number, value in wanted.items() if number not in {700, 2999}}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_a_file_of_any_length_takes_the_memory_of_a_part_of_it(tmp_path: Path, name: str) -> None:
    path, count = tmp_path / name, 400_000
    if name.endswith(".parquet"):
        column = pa.array(np.arange(count, dtype=np.float64))
        parquet.write_table(pa.table(dict.fromkeys("abcd", column)), path)
    else:
        line = "5.1,3.5,1.4,0.2\n" if name.endswith(".csv") else "[5.1, 3.5, 1.4, 0.2]\n"
        path.write_text(line * count)
    tracemalloc.start()
    try:
        read_rows = sum(chunk.row_count for chunk in RowFile(path, IRIS).chunks(rows_per_chunk=256))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read_rows == count
    # Its lines alone would be 25 MB, its tensors 6.
    assert peak_bytes < 5_000_000


def test_lines_of_numbers_are_read_without_an_object_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the fast path: what the other tests compare must not be the slow one twice."""
    monkeypatch.setattr(RowFile, "_csv_line", None)
    assert np.allclose(values(read(tmp_path, ROWS)[1]), EXPECTED)
    assert np.allclose(values(read(tmp_path, ROWS.replace(",", ";"))[1]), EXPECTED)
    assert len(read(tmp_path, "1\n2.0\n", signature=WHOLE)[1][0].positions) == 2


def test_a_number_for_missing_values_is_refused_where_rows_are_sent_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--missing has no effect on .*rows\.jsonl"):
        read(tmp_path, "[1, null, 3, 4]\n", name="rows.jsonl", missing=0.0)


@pytest.mark.parametrize("encoding", ["base64", "rot13", "hex", "zlib", "bz2", "undefined", "no such"])
def test_what_is_no_encoding_of_text_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--encoding '{encoding}' is no encoding"):
        read(tmp_path, ROWS, encoding=encoding)


@pytest.mark.parametrize("options", [{}, {"encoding": "latin-1"}])
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (gzip.compress(ROWS.encode()), "is a gzip file.*Unpack it first"),
        (bz2.compress(ROWS.encode()), "is a bzip2 file.*Unpack it first"),
        (lzma.compress(ROWS.encode()), "is a xz file.*Unpack it first"),
        (b"PK\x03\x04\x14", "is a zip file.*Unpack it first"),
        (b"PAR1\x15", "is a Parquet file.*Call it .parquet"),
    ],
    ids=["gzip", "bzip2", "xz", "zip", "Parquet"],
)
def test_a_file_that_is_no_text_is_not_read_as_text(
    tmp_path: Path, packed: bytes, says: str, name: str, options: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read(tmp_path, packed, name=name, **options)


@pytest.mark.parametrize("header", ["PAR1,b,c,d", "BZh1,b,c,d", "PK,b,c,d"])
def test_a_column_that_is_called_as_packed_files_begin_is_a_column(tmp_path: Path, header: str) -> None:
    file, chunks = read(tmp_path, f"{header}\n{ROWS}")
    assert file.format.header == tuple(header.split(","))
    assert np.allclose(values(chunks), EXPECTED)
