"""Fixtures of a real Kubernetes: loaded here only, as its client takes a while to import."""

from tests.fixtures.cluster import shell_trainers
from tests.fixtures.cluster_service import cluster, start_cluster_service

__all__ = ["cluster", "shell_trainers", "start_cluster_service"]
