"""Stochastic variational inference: the step, its parameters, their update, and its state."""
