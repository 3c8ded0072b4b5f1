"""The sides of `bench/adapt.py`, each run in a process of its own."""
