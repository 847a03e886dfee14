"""The peers' side of rows 7a and 7b: each runs in an environment of its own, as a `Worker`."""
