"""The model: prompts to tokens, trunks and branches, log-probabilities, and checks of it all."""
