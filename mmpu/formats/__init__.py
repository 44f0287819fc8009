"""Shapes of rows as data sets have them: one class per file, the file named as the format."""
