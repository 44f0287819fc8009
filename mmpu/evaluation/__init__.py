"""An evaluation, from systems' answers to a board."""
