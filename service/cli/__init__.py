"""What people type: `fettle serve`, `fettle demo`, and the jobs, files and models of a running service."""
