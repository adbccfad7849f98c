"""Input that is wrong in every way there is, and how the command line ends with it."""
