"""The graders resource: a grader tried on one answer, or only checked."""
