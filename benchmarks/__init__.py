"""Benchmarks; each ``bench_*.py`` is a script whose last line is JSON."""

import alorakit.engine  # noqa: F401  OpenMP's spin count must be set before a benchmark imports torch
