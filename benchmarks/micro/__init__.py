"""Micro-benchmarks by pytest-benchmark: ``python -m pytest benchmarks/micro``. The tests do not collect them."""
