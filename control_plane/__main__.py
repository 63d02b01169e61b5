"""`python -m control_plane` is the `inferlane` command."""

from control_plane.command import main

main()
