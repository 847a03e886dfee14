"""Measures Waypost on the machine it runs on: `python -m benchmarks.run` and `python -m benchmarks.soak`."""
