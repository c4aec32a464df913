"""Is the tuned model better than what it was tuned from? Both answer held-out rows, through the gateway."""
