"""The examples in the API's description are what the stock client parses."""

from typing import Any

import pytest
from openai.types import FileObject
from openai.types.admin.organization import AdminAPIKey
from openai.types.admin.organization import Project as TheirProject
from openai.types.admin.organization.projects import ProjectAPIKey
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.checkpoints import PermissionListResponse
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel

from service.checkpoint_permissions.schemas import CheckpointPermission, CreateCheckpointPermissions
from service.files.schemas import File
from service.fine_tuning.progress_schemas import Checkpoint, Event
from service.fine_tuning.schemas import CreateJob, Job
from service.projects.schemas import AdminApiKey, CreateProject, CreateProjectApiKey, Project, ProjectApiKey


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (File, FileObject),
        (Job, FineTuningJob),
        (Event, FineTuningJobEvent),
        (Checkpoint, FineTuningJobCheckpoint),
        (CreateJob, CreateJob),
        (CheckpointPermission, PermissionListResponse),
        (CreateCheckpointPermissions, CreateCheckpointPermissions),
        (Project, TheirProject),
        (CreateProject, CreateProject),
        (ProjectApiKey, ProjectAPIKey),
        (CreateProjectApiKey, CreateProjectApiKey),
        (AdminApiKey, AdminAPIKey),
    ],
)
def test_an_example_is_valid_on_both_sides(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    [example] = ours.model_json_schema()["examples"]
    parsed: dict[str, Any] = ours.model_validate(example).model_dump(exclude_unset=True)
    assert parsed == example
    theirs.model_validate(example, strict=True)
