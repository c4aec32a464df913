"""Projects and keys, managed where the SDK can, and a model that another project may use for a while."""

import openai
from strict import admin_key, client, client_with, refused


def check(model: str) -> None:
    project_id, key = _make_project()
    stranger = client_with(key)
    assert list(stranger.fine_tuning.jobs.list()) == []
    refused(openai.NotFoundError, lambda: stranger.models.retrieve(model))

    operator = client_with(admin_key())
    permissions = operator.fine_tuning.checkpoints.permissions
    [permission] = permissions.create(model, project_ids=[project_id])
    assert permission.project_id == project_id, permission
    listed = permissions.list(model) if hasattr(permissions, "list") else permissions.retrieve(model).data
    assert permission.id in [seen.id for seen in listed]
    assert stranger.models.retrieve(model).id == model
    assert permissions.delete(permission.id, fine_tuned_model_checkpoint=model).deleted
    refused(openai.NotFoundError, lambda: stranger.models.retrieve(model))


def _make_project() -> tuple[str, str]:
    """Its id and a key of it."""
    if not hasattr(client, "admin"):
        project_id = client.post("/organization/projects", body={"name": "other"}, cast_to=dict[str, object])["id"]
        return project_id, _make_key(project_id)["value"]
    projects = client.admin.organization.projects
    project = projects.create(name="another")
    assert projects.update(project.id, name="other").name == "other"
    assert projects.retrieve(project.id).status == "active"
    assert project.id in [listed.id for listed in projects.list(limit=1)]

    made = _make_key(project.id)
    spare = _make_key(project.id)
    [newest, older] = projects.api_keys.list(project.id, limit=1)
    assert [newest.id, older.id] == [spare["id"], made["id"]], (newest, older)
    assert projects.api_keys.retrieve(made["id"], project_id=project.id).redacted_value in older.redacted_value
    assert projects.api_keys.delete(spare["id"], project_id=project.id).deleted
    refused(openai.AuthenticationError, lambda: client_with(spare["value"]).models.list())

    admin_keys = client.admin.organization.admin_api_keys
    admin = admin_keys.create(name="clients")
    assert client_with(admin.value).models.list().data
    assert admin_keys.retrieve(admin.id).name == "clients"
    assert admin.id in [listed.id for listed in admin_keys.list()]
    assert admin_keys.delete(admin.id).deleted
    return project.id, made["value"]


def _make_key(project_id: str) -> dict[str, str]:
    """OpenAI makes keys of projects on its website only; this call is ours."""
    path = f"/organization/projects/{project_id}/api_keys"
    return client_with(admin_key()).post(path, body={"name": "clients", "role": "writer"}, cast_to=dict[str, object])
