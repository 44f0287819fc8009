"""Tasks: from YAML, by way of sources and templates, to samples."""
