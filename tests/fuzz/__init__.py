"""Fuzzing: random use of the package, compared with models in plain Python that share no code with it.

`python tests/fuzz` runs it (`make fuzz`), each target in a process of its own; ``tests/test_fuzz.py`` runs a little of
each target in every run of the tests.
"""
