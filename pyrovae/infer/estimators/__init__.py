"""Estimates for a trained pair, with their errors: ELBO, log p(x), gaps, use of latents."""
