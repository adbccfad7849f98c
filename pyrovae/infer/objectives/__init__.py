"""What is maximised: the ELBO and its alternatives, as functions of the terms of the bound."""
