"""``python -m pytest_lmstudio`` is the command ``pytest-lmstudio``."""

from __future__ import annotations

from pytest_lmstudio.cli.command import main

if __name__ == "__main__":
    raise SystemExit(main())
