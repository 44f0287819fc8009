"""The command line: `main.py` has the commands, the other files what they share or a group of its own."""
