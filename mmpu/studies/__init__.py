"""Several runs side by side: comparisons of methods, curves."""
