"""Mutation testing: change the package in one place at a time, and see whether a test fails.

``mutants`` lists the changes, ``tracing`` finds the tests that run each line, ``copies`` runs tests
in a copy of the checkout, and ``__main__`` is the command.
"""
