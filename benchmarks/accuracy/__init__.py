"""How good the results are, beside those of other methods."""
