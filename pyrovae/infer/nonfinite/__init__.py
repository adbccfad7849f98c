"""Losses and gradients that are NaN or infinite: block the update, and name the cause."""
