"""OpenAI's lists: newest first, walked with `after=<last id>` until `has_more` is false."""

from typing import Annotated, Generic, Literal, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import ListedTable
from service.ids import CURSOR_PATTERN

Item = TypeVar("Item")
Row = TypeVar("Row", bound=ListedTable)

After = Annotated[str | None, Query(description="The id of the last object of the page before.")]


class Page(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


class Identified(BaseModel):
    id: str


IdentifiedItem = TypeVar("IdentifiedItem", bound=Identified)


class PageWithEnds(Page[IdentifiedItem], Generic[IdentifiedItem]):
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, data: list[IdentifiedItem], has_more: bool) -> Self:
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, has_more=has_more, first_id=first_id, last_id=last_id)


async def paginate(
    session: AsyncSession,
    statement: Select[Row],
    table: type[Row],
    scope: ColumnElement[bool],
    *,
    after: str | None,
    limit: int,
    ascending: bool = False,
) -> tuple[list[Row], bool]:
    """One page of the statement's rows within `scope`, and whether there are more.

    `scope` says whose rows they are, and holds for the cursor too; the statement may leave out more of them, deleted
    ones for example, which stay valid cursors. An unknown `after` gives an empty page.
    """
    if limit == 0:
        return [], False  # nobody can walk on from an empty page
    if after is not None:
        seq = None
        if CURSOR_PATTERN.fullmatch(after):
            seq = await session.scalar(select(table.seq).where(table.id == after, scope))
        if seq is None:
            return [], False
        statement = statement.where(table.seq > seq if ascending else table.seq < seq)
    statement = statement.where(scope).order_by(table.seq.asc() if ascending else table.seq.desc()).limit(limit + 1)
    rows = list(await session.scalars(statement))
    return rows[:limit], len(rows) > limit
