"""Ports for what tests start: nobody listens there, and nobody else is given them."""

import subprocess
import sys
from pathlib import Path

from tests.support.brokers.processes import free_ports, reserve
from tests.support.stack_ports import free_stack_ports

REPOSITORY = Path(__file__).parents[3]


def test_a_port_that_was_given_away_is_given_to_nobody_else() -> None:
    """Guards `reserve`: without it a stack beside this one may be given a port that this one listens on later."""
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert [reserve(port) for port in ports] == [False, False, False]
    program = f"from tests.support.brokers.processes import reserve; print([reserve(port) for port in {ports}])"
    told = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[False, False, False]"


def test_two_stacks_share_no_ops_port() -> None:
    """Guards the reservation of the first: a stack takes the ports after it one by one, when its processes start."""
    assert abs(free_stack_ports().first_ops - free_stack_ports().first_ops) >= 50
