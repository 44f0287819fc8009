"""What is done with judges: duels are scheduled, verdicts kept, and everything that is published computed from them."""
