"""What a key may do. Each role may do what the ones before it may."""

from enum import StrEnum


class Role(StrEnum):
    READER = "reader"
    """Reads everything in its project and asks its models."""
    WRITER = "writer"
    """Makes, changes and deletes things in its project."""
    ADMIN = "admin"
    """Manages the projects and keys of its organization, and works in any of its projects."""

    def includes(self, other: "Role") -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)
