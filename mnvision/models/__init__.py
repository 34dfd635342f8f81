"""Task networks: a backbone and a head each. Every one offers ``forward``, ``losses`` and ``predict``."""
