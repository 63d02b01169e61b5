"""`python -m control_plane` is the `inferlane` command."""

from control_plane.cli.main import main

main()
