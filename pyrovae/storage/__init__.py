"""Atomic writes, checksums, and the package versions that files record."""
