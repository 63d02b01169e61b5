"""The store's user may call what the code calls: a command that is added to one is added to the other."""

import re
from pathlib import Path

from control_plane.kubernetes.backing_services import user_lines
from inferlane.contracts.naming import Names

REPOSITORY = Path(__file__).parents[3]
SERVICES = ("inferlane", "control_plane", "producer_api", "router", "workers")
# What redis-py calls otherwise than the store does; what is no command at all is None.
COMMANDS = {
    "delete": "del",
    "register_script": "evalsha",
    "pipeline": "multi",
    "execute": "exec",
    "pubsub": "subscribe",
    "from_pool": None,
    "from_url": None,
    "aclose": None,
    "popleft": None,
    "pop": None,
    "call": None,
    "pcall": None,
    "get_message": None,
}


def called() -> set[str]:
    """Every command that a method of a client, or a script, of ours calls."""
    found = set()
    for package in SERVICES:
        for path in (REPOSITORY / package).rglob("*.py"):
            text = path.read_text()
            found |= {name.lower() for name in re.findall(r"redis\.p?call\('(\w+)'", text)}
            found |= set(re.findall(r"\b(?:self\._redis|redis|pipeline|pubsub)\.([a-z_]+)\(", text))
    commands = {COMMANDS.get(name, name) for name in found}
    return {command for command in commands if command is not None}


def test_the_stores_user_may_call_each_command_of_the_code() -> None:
    granted = set(re.findall(r"\+(\w+)", user_lines(Names(), ">secret")[-1]))
    wanted = called()
    assert {"set", "mget", "zadd", "publish"} <= wanted
    assert wanted <= granted, wanted - granted
