"""Many small versions that nobody asks, in one process: how soon they are ready, and what they cost then."""

import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks.cases import Case
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.spells import Spell, SpellMeter
from benchmarks.systems.inferlane import serve_inferlane
from models.adding.publication import write_version
from models.store import write_model
from tests.support.fakes.stores import describe_tiny, write_tiny_onnx

_MIB = 1024 * 1024
_SHARED_BYTES = 10_000_000
_MODEL = "tiny"


class IdleVersions(msgspec.Struct, frozen=True, kw_only=True):
    """`ready_s` is from the start of the command to an answer of every version; memory is the proportional set size."""

    versions: int
    machine: Machine
    ready_s: float
    settled_s: float
    spell: Spell
    pss_mib: dict[str, float]


def measure_idle_versions(case: Case, *, versions: int, settle_s: float, seconds: float) -> IdleVersions:
    """Start a stack of so many models of one operator, leave it alone for `settle_s`, and count what it spends then."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        for number in range(versions):
            model = _MODEL if number == 0 else f"{_MODEL}-{number}"
            write_version(models, model=model, version="v1", write_onnx=write_tiny_onnx, describe=describe_tiny)
            write_model(models / model, description="", default_version="v1", classes=())
        environment = {
            "INFERLANE_MODELS_DIR": str(models),
            "INFERLANE_DEFAULT_MODEL": _MODEL,
            "INFERLANE_SHARED_WORKER_MAX_MODEL_BYTES": str(_SHARED_BYTES),
        }
        started_s = time.perf_counter()
        with serve_inferlane(case, environment=environment) as running:
            ready_s = time.perf_counter() - started_s
            time.sleep(settle_s)
            with SpellMeter(running.processes) as meter:
                time.sleep(seconds)
            memory = {
                name: psutil.Process(pid).memory_full_info().pss / _MIB for name, pid in running.processes.items()
            }
    return IdleVersions(
        versions=versions,
        machine=this_machine(),
        ready_s=ready_s,
        settled_s=settle_s,
        spell=meter.spell,
        pss_mib=memory,
    )


def idle_versions_to_markdown(found: IdleVersions) -> str:
    """One table: a row a process, and the sum."""
    spell = found.spell
    cpu = {name: cpu_s / spell.running_s for name, cpu_s in spell.cpu_s.items()}
    ready = f"Every version had answered {found.ready_s:.1f} s after the start of the command."
    when = f"Then {spell.elapsed_s:.0f} s after {found.settled_s:.0f} s without a request"
    lines = [
        f"## {found.versions} idle versions in one process",
        "",
        f"{ready} {when}; {spell.available:.0%} available; {found.machine.measured_at}.",
        "",
        "| process | share of one core | PSS, MiB |",
        "|---|---:|---:|",
        *(f"| {name} | {share:.2%} | {found.pss_mib[name]:.0f} |" for name, share in cpu.items()),
        f"| all | {sum(cpu.values()):.2%} | {sum(found.pss_mib.values()):.0f} |",
    ]
    return "\n".join(lines) + "\n"
