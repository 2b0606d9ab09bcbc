"""The command ``pytest-lmstudio``: one module a subcommand."""
