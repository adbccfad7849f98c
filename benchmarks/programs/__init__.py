"""Programs of the kinds that Pyro's users write, and how they run under our SVI and under Pyro's.

``python -m benchmarks.programs`` trains each program with both classes in double precision, from
the same seed. It prints whether the steps are recorded, or why not, by how much losses and
parameters differ, and how the times of a step compare. Each program runs in a process of its own.

``program.py`` says what a program is and keeps the registry; ``compare.py`` runs one under both
classes; ``workers.py`` does so in processes; ``families/`` holds the programs:

- ``images.py``: autoencoders, plain, convolutional, annealed, conditional, semi-supervised; AIR.
- ``sequences.py``: deep Markov models, neural hidden Markov models.
- ``hmms.py``: hidden Markov models of ragged sequences.
- ``counts.py``: topic models, gamma factorisations, annotators, single cells.
- ``hierarchies.py``: eight schools, baseball, regressions, Bayesian networks, CEVAE.
- ``mixtures.py``: mixtures and other discrete latents.
- ``processes.py``: Gaussian processes.
- ``series.py``: state-space models, forecasting, epidemics, capture and recapture.
- ``autoguides.py``, ``flows.py``, ``losses.py``, ``optimisers.py``: every one that Pyro has.
- ``arguments.py``: arguments of unusual types, several kinds of call, handlers.
- ``contrib.py``: models of ``pyro.contrib`` and networks of ``pyro.nn``.
- ``values.py``: shapes and branches that depend on values, state of Python, random numbers.

To add a program, write a function that returns a ``Run`` under ``@program("its name")``. It makes
its data from a fixed seed, and takes a few milliseconds a step.
"""
