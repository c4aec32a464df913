"""Organisations, projects and API keys: who a caller is, and whose rows they see."""
