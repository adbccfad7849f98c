"""Record a function as a graph of tensor operations, with the conditions on which it is valid."""
