"""Tables with columns of mixed types: the likelihood of each, and filling missing cells."""
