"""Scorers: one class per file. A field named `engine` or `task` is wired by the recipe, every other one is
configuration."""
