"""Permissions that let other projects of an organization use a tuned model."""
