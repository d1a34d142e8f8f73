"""Benchmarks; each ``bench_*.py`` is a script whose last line is JSON."""
