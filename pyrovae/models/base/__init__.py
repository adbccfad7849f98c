"""What the model families share: their base class, and the Pyro programs they are built from."""
