"""Wrong inputs and killed processes."""
