"""`inferlane batch submit` from end to end: a file of iris rows to the file of results, on the embedded broker."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.cases import Case
from benchmarks.machine import this_machine
from benchmarks.measured import Checked, Machine
from benchmarks.queueing import busiest_wait_s, run_queue_of
from benchmarks.stalls import StallGauge
from benchmarks.systems.deployed import by_kind
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import NotReadyError, Running
from benchmarks.usage import cpu_by_process
from models.model_session import open_session
from models.training import INPUT, PROBABILITIES

KINDS = ("parquet", "csv")
SUBMITTER = "submitter"
_SEED = 11
# Every so many results are compared with onnxruntime's; a prime, so that each place in a record has its turn.
_CHECKED_EVERY = 997
_KIB_PER_MIB = 1024
_POLL_S = 0.02


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the command, its start and imports included.

    `cpu_s` is by kind of process, the submitter among them; `peak_mib` is the submitter's most resident memory.
    `waited_s` are the seconds in which the busiest thread of a process was ready and others had the cores, of the
    process for which it is most.
    """

    kind: str
    rows: int
    elapsed_s: float
    available: float
    waited_s: float
    cpu_s: dict[str, float]
    peak_mib: float
    checked: Checked

    @property
    def per_s(self) -> float:
        """Rows a second of all the time that the command took."""
        return self.rows / self.elapsed_s


class Submissions(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `python -m benchmarks submit` found."""

    case: str
    machine: Machine
    runs: tuple[Submission, ...]


def measure_submissions(case: Case, *, rows: int, rounds: int) -> Submissions:
    """Submit a file of each kind in each round, each to a stack of its own; every other round in reverse order."""
    runs = []
    with tempfile.TemporaryDirectory() as name:
        files = write_files(case, Path(name), rows=rows)
        for number in range(rounds):
            for kind in KINDS[:: -1 if number % 2 else 1]:
                with serve_inferlane(case) as running:
                    runs.append(submit(running, files[kind], Path(name) / "results.jsonl", case=case))
    return Submissions(case=case.name, machine=this_machine(), runs=tuple(runs))


def write_files(case: Case, folder: Path, *, rows: int, kinds: Sequence[str] = KINDS) -> Mapping[str, Path]:
    """Write random rows as a file of each of these kinds."""
    width = case.rows.shape[1]
    values = np.random.default_rng(_SEED).uniform(0.1, 7.9, (rows, width)).round(1)
    names = [f"x{number}" for number in range(width)]
    files = {kind: folder / f"rows.{kind}" for kind in kinds}
    if "parquet" in files:
        columns = {name: values[:, place].astype(np.float32) for place, name in enumerate(names)}
        parquet.write_table(pa.table(columns), files["parquet"])
    if "csv" in files:
        np.savetxt(files["csv"], values, fmt="%.1f", delimiter=",", header=",".join(names), comments="")
    return files


def submit(running: Running, rows: Path, out: Path, *, case: Case) -> Submission:
    """Submit a file and check its results.

    Raises:
        NotReadyError: the command failed; the message ends with what it said.
    """
    before = cpu_by_process(running.processes)
    queued = {name: run_queue_of(pid) for name, pid in running.processes.items()}
    with StallGauge() as gauge, tempfile.TemporaryFile() as said:
        started_s = time.perf_counter()
        child = start_submission(running, rows, out, said=said.fileno())
        own: dict[str, tuple[int, int]] = {}
        peak_mib = 0.0
        ended = 0
        while not ended:
            # What a process took is gone with it.
            own, peak_mib = run_queue_of(child.pid) or own, _peak_mib(child.pid) or peak_mib
            time.sleep(_POLL_S)
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        elapsed_s = time.perf_counter() - started_s
        stalled_s = gauge.stalled_s
        if os.waitstatus_to_exitcode(status):
            said.seek(0)
            raise NotReadyError(f"batch submit {rows.name} failed:\n{said.read()[-2000:].decode(errors='replace')}")
    waits = [busiest_wait_s(queued[name], run_queue_of(pid)) for name, pid in running.processes.items()]
    after = cpu_by_process(running.processes)
    spent = by_kind({name: after[name] - before[name] for name in before})
    checked = _check(rows, out, case)
    return Submission(
        kind=rows.suffix.removeprefix("."),
        rows=checked.equal + checked.unequal + checked.failed,
        elapsed_s=elapsed_s,
        available=1.0 - stalled_s / elapsed_s,
        waited_s=max(busiest_wait_s({}, own), *waits),
        cpu_s={SUBMITTER: usage.ru_utime + usage.ru_stime, **spent},
        peak_mib=peak_mib,
        checked=checked,
    )


def _peak_mib(pid: int) -> float:
    """The most resident memory so far; 0 of a process that has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return int(kib) / _KIB_PER_MIB


def start_submission(running: Running, rows: Path, out: Path, *, said: int) -> "subprocess.Popen[bytes]":
    """Start the command; what it says goes to the file descriptor `said`.

    It has a session of its own, as in another terminal: Linux shares the cores between sessions (`sched_autogroup`),
    and a client in the same one would have to share with the job.
    """
    argv = [str(Path(sys.executable).parent / "inferlane"), "batch", "submit", str(rows), "--out", str(out)]
    environment = {**os.environ, **running.environment}
    return subprocess.Popen(argv, env=environment, stdout=said, stderr=said, start_new_session=True)


def _check(rows: Path, out: Path, case: Case) -> Checked:
    """Each line must be the result of its own row; of some, the numbers are compared with onnxruntime's."""
    session = open_session(case.onnx)
    equal = unequal = failed = 0
    values = _values(rows)
    with out.open("rb") as lines:
        for number, line in enumerate(lines):
            if not line.startswith(b'{"row":%d,"model"' % number):
                failed += 1
                continue
            if number % _CHECKED_EVERY == 0:
                own = values[number : number + 1]
                expected = session.run([PROBABILITIES], {INPUT: own})[0][0]
                answered = msgspec.json.decode(line)["prediction"]["probabilities"]
                if not np.allclose(answered, expected, rtol=0, atol=case.tolerance):
                    unequal += 1
                    continue
            equal += 1
    return Checked(equal=equal, unequal=unequal, failed=failed + len(values) - equal - unequal - failed)


def _values(rows: Path) -> np.ndarray:
    if rows.suffix == ".csv":
        return np.loadtxt(rows, np.float32, delimiter=",", skiprows=1)
    return np.stack([column.to_numpy() for column in parquet.read_table(rows).columns], axis=1)


def median_per_s(runs: Sequence[Submission], kind: str) -> float:
    """The median of rows a second."""
    return statistics.median(run.per_s for run in runs if run.kind == kind)


def submissions_to_markdown(found: Submissions) -> str:
    """One table of medians."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Submissions) -> Iterator[str]:
    machine = found.machine
    yield f"## `inferlane batch submit`: {found.case}, embedded broker"
    yield ""
    yield f"{machine.cpu}, {machine.cores} cores; {machine.measured_at}. Medians; the start of the command is included."
    yield "*waited*: seconds that the process which had to wait most was ready and other programs had the cores."
    yield ""
    parts = list(found.runs[0].cpu_s)
    own = " | ".join(parts)
    yield f"| file | rows | rows/s | waited | CPU-s, all | {own} | MiB, submitter | wrong | runs | available |"
    yield "|---|" + "---:|" * (len(parts) + 8)
    for kind in KINDS:
        runs = [run for run in found.runs if run.kind == kind]
        waits = [(run.waited_s, run.elapsed_s) for run in runs]
        wrong = sum(run.checked.unequal + run.checked.failed for run in runs)
        cells = (
            kind,
            f"{runs[0].rows:,}",
            f"{median_per_s(runs, kind):,.0f}",
            " of ".join(f"{statistics.median(spent):.1f}" for spent in zip(*waits, strict=True)) + " s",
            f"{statistics.median(sum(run.cpu_s.values()) for run in runs):.2f}",
            *(f"{statistics.median(run.cpu_s[part] for run in runs):.2f}" for part in parts),
            f"{statistics.median(run.peak_mib for run in runs):,.0f}",
            f"{wrong} of {sum(run.rows for run in runs):,}",
            str(len(runs)),
            f"{statistics.median(run.available for run in runs):.0%}",
        )
        yield f"| {' | '.join(cells)} |"
