"""A step recorded as a graph of tensor operations, compiled, and checked against the program."""
