"""Graders: one class per file, named in a task's `grader:`."""
