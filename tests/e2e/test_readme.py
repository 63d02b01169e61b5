"""The README's commands, run in its order."""

import re

import pytest

from tests.e2e.conftest import REPOSITORY, Stack

BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
# The stack is started and stopped by the tier's own fixture, by the same scripts.
COMMANDS = [
    (f"{name}: {line[:60]}", line)
    for name, block in BLOCKS
    for line in block.strip().splitlines()
    if line not in {"./start.sh", "./stop.sh"}
]


def test_the_readme_starts_and_stops_the_stack_as_the_fixture_does() -> None:
    assert "./start.sh\npython scripts/demo.py\n./stop.sh\n" in dict(BLOCKS)["quickstart"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [line for _, line in COMMANDS], ids=[name for name, _ in COMMANDS])
def test_the_command_works(stack: Stack, command: str) -> None:
    here = command.replace("localhost:8000", f"127.0.0.1:{stack.api_port}")
    # The load of the README says something about an idle machine; a busy one need only do the same thing smaller.
    for size, smaller in (
        ("scripts/demo.py", "scripts/demo.py --requests 500"),
        ("64 --requests 10000", "8 --requests 500 --timeout 60"),
        ("--rate 500", "--rate 20 --timeout 60"),
    ):
        here = here.replace(size, smaller)
    done = stack.run("bash", "-euo", "pipefail", "-c", here, timeout_s=500, INFERLANE_URL=stack.url)
    assert done.returncode == 0, done.stdout + done.stderr
