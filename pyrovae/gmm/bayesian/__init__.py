"""The Bayesian mixture: conjugate priors, coordinate ascent, SVI, NUTS, and the evidence."""
