"""What a training run needs of the place where it runs, in Kubernetes' words."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
"""Kubernetes' notation: `500m` CPUs, `16Gi` of memory."""


class TrainingResources(BaseModel):
    """Of each node, where there are several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus: int = Field(0, ge=0, le=16, description="GPUs of each node; 0 trains on the CPU.")
    nodes: int = Field(1, ge=1, le=64, description="Nodes that train together.")
    cpu: Quantity | None = Field(None, description="CPUs of each node, such as `8` or `500m`.")
    memory: Quantity | None = Field(None, description="Memory of each node, such as `64Gi`.")
    ephemeral_storage: Quantity | None = Field(None, description="Local disk of each node, such as `50Gi`.")

    @property
    def processes_per_node(self) -> int:
        """One for each GPU."""
        return max(1, self.gpus)
