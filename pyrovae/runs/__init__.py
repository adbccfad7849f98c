"""A run, from options to pictures, and the directory it keeps."""
