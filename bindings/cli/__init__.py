"""The command line: ``m alora train``, ``check`` and ``demo``; ``alorakit`` has the same commands."""
