"""Python, for notebooks and scripts: what `import mmpu` gives. Each name makes a config and calls what the command line
calls; results are objects that show themselves, and become pandas frames."""
