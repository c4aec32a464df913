"""The uploads resource: a large file that arrives in parts."""
