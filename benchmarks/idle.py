"""What the stack of the sample models costs while nobody asks: CPU by process, as a share of one core."""

import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.cases import SAMPLES, Case
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.spells import Spell, SpellMeter
from benchmarks.systems.deployed import SERVING, by_kind, serve_on
from tests.support.brokers.kinds import BrokerKind


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """A spell without a request, after `settled_s` without one."""

    broker: str
    machine: Machine
    settled_s: float
    spell: Spell


def measure_idle(case: Case, broker: BrokerKind, *, settle_s: float, seconds: float) -> Idle:
    """Leave the stack alone for `settle_s`, then count what it spends in so many seconds.

    Fetches of a lane that stays empty wait longer and longer: a stack that was used a moment ago spends more.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_on(broker, case, Path(folder), models_dir=SAMPLES.absolute()) as running,
    ):
        time.sleep(settle_s)
        with SpellMeter(running.processes) as meter:
            time.sleep(seconds)
    return Idle(broker=broker, machine=this_machine(), settled_s=settle_s, spell=meter.spell)


def idle_to_markdown(idle: Idle) -> str:
    """One table: a row a process, and the sum of those that serve."""
    spell = idle.spell
    kinds = by_kind(spell.cpu_s)
    shares = {
        **spell.cpu_s,
        f"{', '.join(SERVING)} together": sum(kinds[kind] for kind in SERVING),
    }
    when = f"{spell.elapsed_s:.0f} s after {idle.settled_s:.0f} s without a request"
    lines = [
        f"## The idle stack of the sample models, {idle.broker} broker",
        "",
        f"{when}; {spell.available:.0%} available; {idle.machine.measured_at}.",
        "",
        "| process | share of one core |",
        "|---|---:|",
        *(f"| {name} | {cpu_s / spell.running_s:.2%} |" for name, cpu_s in shares.items()),
    ]
    return "\n".join(lines) + "\n"
