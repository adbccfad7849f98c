"""Run a model and a guide together: their traces, the terms of the bound, and several samples."""
