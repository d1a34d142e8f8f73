"""Checks: which adapter is asked, what it is asked, and what its answer decides. Both session layers use it."""
