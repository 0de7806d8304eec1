"""The speed of the engine beside a plain torch loop and beside JAX, on the same work: `python -m bench.perf`."""
