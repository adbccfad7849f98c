"""Accuracy of the results, compared with other methods and libraries."""
