"""mmpu: train and evaluate small language and vision-language models from one teacher answer per prompt."""

__version__ = "0.1.0"
