"""Training methods: one class per file, the file named as the method."""
