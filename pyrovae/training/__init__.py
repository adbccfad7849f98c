"""``fit``: passes through the data, progress, warnings, and states that resume exactly."""
