"""The `inferlane` command: a service starts at once, everything else by the command line."""

import sys
from pathlib import Path

from control_plane.services import SETTINGS_FILE, quiet_libraries, raise_open_files, run_service, service_of


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit code 1."""
    quiet_libraries()
    raise_open_files()
    service = service_of(sys.argv[1:])
    # What the file may set is known to the command line.
    if service is None or Path(SETTINGS_FILE).is_file():
        from control_plane.cli.main import main as command_line  # noqa: PLC0415 - typer and rich take 0.3 s

        command_line()
    else:
        sys.exit(run_service(service))
