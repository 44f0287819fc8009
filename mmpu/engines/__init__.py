"""Engines: one class per file. Every word that a model says, a teacher's, a student's or a judge's, comes from one of
these."""
