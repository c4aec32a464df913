"""The files resource: what was uploaded, and what a job left behind."""
