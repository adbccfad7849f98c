"""Benchmarks: speed against other libraries (``python -m benchmarks``), accuracy and robustness."""
