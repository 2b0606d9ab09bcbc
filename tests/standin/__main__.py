"""``python -m tests.standin``: an echoing server for benchmarks, which ends when its standard input does."""

from __future__ import annotations

import argparse
import sys

from tests.standin import Model, StandIn, echo


def main() -> None:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(prog="tests.standin", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="before the first byte of each answer")
    parser.add_argument("--capacity", type=int, default=1024, help="answers at once; more wait")
    parser.add_argument("--model", default="test-model", help="the loaded model's id")
    given = parser.parse_args()
    models = [Model(given.model, parallel=given.capacity)]
    with StandIn(port=given.port, models=models, capacity=given.capacity, keep=False) as server:
        server.strict = False
        server.default = echo(delay_s=given.delay_ms / 1000)
        print(f"READY {server.url}", flush=True)
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
