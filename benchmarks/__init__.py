"""What the plugin costs, next to doing without it: ``python -m benchmarks``."""
