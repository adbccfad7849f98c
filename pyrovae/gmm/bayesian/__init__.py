"""The Bayesian mixture: conjugate priors, coordinate ascent, SVI and NUTS, and the evidence."""
