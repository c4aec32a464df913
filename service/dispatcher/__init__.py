"""Takes jobs from state to state: claim due rows, take one step for each, give them back."""
