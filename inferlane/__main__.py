"""`python -m inferlane` is the `inferlane` command."""

from inferlane.cli.main import main

main()
