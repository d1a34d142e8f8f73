"""The command line: ``m alora train``, ``check``, ``chat`` …; ``alorakit`` has the same commands."""
