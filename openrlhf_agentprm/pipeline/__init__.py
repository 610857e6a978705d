"""Recipes: YAML files of stages, each a command line, run in order and resumable."""
