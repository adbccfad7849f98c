"""A model and a guide run together: their traces, the terms of the bound, and particles."""
