"""Fitting and measuring the verifier: `python -m benchmarks.verifier.train` and `.evaluate`."""
