"""Models as OpenAI's clients read them."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from service.database.tables import ModelRow
from tuning.catalogue import CatalogueEntry


class Model(BaseModel):
    object: Literal["model"] = "model"
    id: str
    created: int
    owned_by: str
    is_served: bool = Field(description="Whether this server answers requests for it, or only tunes it.")

    @classmethod
    def from_entry(cls, entry: CatalogueEntry, is_served: bool) -> Self:
        return cls(id=entry.name, created=entry.created, owned_by=entry.owned_by, is_served=is_served)

    @classmethod
    def from_row(cls, row: ModelRow, organization_id: str, is_served: bool) -> Self:
        return cls(id=row.name, created=int(row.created_at), owned_by=organization_id, is_served=is_served)


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class DeletedModel(BaseModel):
    object: Literal["model"] = "model"
    id: str
    deleted: Literal[True] = True
