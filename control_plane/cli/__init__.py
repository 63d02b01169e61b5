"""The `inferlane` command: one module per group of subcommands."""
