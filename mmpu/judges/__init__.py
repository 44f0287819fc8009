"""Judges: one class per file. `judges/<name>.yaml` names the class with `kind` and sets its fields."""
