"""Checkpoint permissions and the rights to models: another project may use a tuned model, and loses it at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from service.database.engine import create_engine, create_sessions
from service.database.tables import ModelRow
from service.models.repository import replace_model
from tests.fixtures.projects import GuardedService, Organization, TunedModel

UNKNOWN = "ft:fettle-tiny:nobody::12345678"


@pytest.fixture
def tuned(organization: Organization) -> TunedModel:
    return organization.service.add_tuned_model(organization.project_id, organization.name)


def names(client: OpenAI) -> list[str]:
    return [model.id for model in client.models.list() if model.id.startswith("ft:")]


def test_a_permission_gives_the_model_and_its_deletion_takes_it_at_once(
    organization: Organization, tuned: TunedModel
) -> None:
    permissions = organization.client.fine_tuning.checkpoints.permissions
    other_id = organization.new_project()
    other = organization.client_of(other_id)
    with pytest.raises(openai.NotFoundError):
        other.models.retrieve(tuned.checkpoint_name)
    [permission] = permissions.create(tuned.checkpoint_name, project_ids=[other_id]).data
    assert (permission.object, permission.project_id) == ("checkpoint.permission", other_id)
    assert permission.id.startswith("cp_")
    assert other.models.retrieve(tuned.checkpoint_name).owned_by == organization.id
    assert names(other) == [tuned.checkpoint_name], "and not the job's other models"
    with pytest.raises(openai.PermissionDeniedError, match="belongs to another project"):
        other.models.delete(tuned.checkpoint_name)

    deleted = permissions.delete(permission.id, fine_tuned_model_checkpoint=tuned.checkpoint_name)

    assert (deleted.id, deleted.object, deleted.deleted) == (permission.id, "checkpoint.permission", True)
    with pytest.raises(openai.NotFoundError):
        other.models.retrieve(tuned.checkpoint_name)
    assert names(other) == []
    with pytest.raises(openai.NotFoundError, match=permission.id):
        permissions.delete(permission.id, fine_tuned_model_checkpoint=tuned.checkpoint_name)
    [again] = permissions.create(tuned.checkpoint_name, project_ids=[other_id]).data
    assert again.id != permission.id
    assert names(other) == [tuned.checkpoint_name]


def test_a_permitted_project_trains_on_from_the_model_until_it_loses_it(
    organization: Organization, tuned: TunedModel
) -> None:
    permissions = organization.client.fine_tuning.checkpoints.permissions
    other_id = organization.new_project()
    other = organization.client_of(other_id)
    file = other.files.create(file=b"too few rows\n", purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as error:
        other.fine_tuning.jobs.create(model=tuned.name, training_file=file.id)
    assert error.value.code == "model_not_available"
    [permission] = permissions.create(tuned.name, project_ids=[other_id]).data
    assert other.fine_tuning.jobs.create(model=tuned.name, training_file=file.id).model == tuned.name
    permissions.delete(permission.id, fine_tuned_model_checkpoint=tuned.name)
    with pytest.raises(openai.BadRequestError) as error:
        other.fine_tuning.jobs.create(model=tuned.name, training_file=file.id)
    assert error.value.code == "model_not_available"


def test_creating_again_gives_the_same_permission_also_for_many_at_once(
    organization: Organization, tuned: TunedModel
) -> None:
    permissions = organization.client.fine_tuning.checkpoints.permissions
    first, second = organization.new_project(), organization.new_project()
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda _: permissions.create(tuned.name, project_ids=[first, second, first]).data, range(4))
        )
    assert all(page == made[0] for page in made)
    assert [permission.project_id for permission in made[0]] == [first, second]
    assert len(list(permissions.list(tuned.name))) == 2


def test_the_list_walks_both_ways_filters_and_keeps_deleted_cursors(
    organization: Organization, tuned: TunedModel
) -> None:
    permissions = organization.client.fine_tuning.checkpoints.permissions
    projects = [organization.new_project() for _ in range(5)]
    made = [permission.id for permission in permissions.create(tuned.name, project_ids=projects).data]
    assert [each.id for each in permissions.list(tuned.name, limit=2)] == made[::-1]
    assert [each.id for each in permissions.list(tuned.name, limit=2, order="ascending")] == made
    assert [each.id for each in permissions.list(tuned.name, project_id=projects[3])] == [made[3]]
    permissions.delete(made[2], fine_tuned_model_checkpoint=tuned.name)
    page = permissions.list(tuned.name, after=made[2], order="ascending")
    assert ([each.id for each in page.data], page.has_more, page.last_id) == (made[3:], False, made[4])
    for empty in (
        permissions.list(tuned.name, limit=0),
        permissions.list(tuned.name, after="cp_unknown"),
        permissions.list(tuned.name, project_id="proj_unknown"),
        permissions.list(tuned.name, project_id="%00 '"),
        permissions.list(tuned.checkpoint_name),
    ):
        assert (empty.data, empty.has_more, empty.last_id) == ([], False, None)
    with pytest.warns(DeprecationWarning):
        assert len(permissions.retrieve(tuned.name).data) == 4


def test_projects_that_cannot_be_permitted_are_named(
    guarded_service: GuardedService, organization: Organization, tuned: TunedModel
) -> None:
    permissions = organization.client.fine_tuning.checkpoints.permissions
    archived, good = organization.new_project(), organization.new_project()
    organization.client.admin.organization.projects.archive(archived)
    foreign = guarded_service.new_organization().project_id
    for bad in (archived, foreign, "proj_" + "a" * 24, "' OR 1=1"):
        with pytest.raises(openai.BadRequestError, match="has no active project") as error:
            permissions.create(tuned.name, project_ids=[good, bad])
        body: Any = error.value.body
        assert body["message"].replace(repr(bad), "X") == "Your organization has no active project X - 'project_ids'"
    with pytest.raises(openai.BadRequestError, match="needs no permission"):
        permissions.create(tuned.name, project_ids=[organization.project_id])
    for malformed in ([], ["p"] * 101, "proj", [1], ["x" * 65], None):
        with pytest.raises(openai.BadRequestError) as error:
            permissions.create(tuned.name, project_ids=malformed)  # type: ignore[arg-type]
        assert str(error.value.param).startswith("project_ids")
    with pytest.raises(openai.BadRequestError, match="is a base model"):
        permissions.create("fettle-tiny", project_ids=[good])
    assert permissions.list(tuned.name).data == []


def test_only_admins_share_models(organization: Organization, tuned: TunedModel) -> None:
    for role in ("reader", "writer"):
        permissions = organization.client_of(organization.project_id, role).fine_tuning.checkpoints.permissions
        for name in (tuned.name, UNKNOWN):
            for call in (
                lambda name=name, permissions=permissions: permissions.list(name),
                lambda name=name, permissions=permissions: permissions.create(name, project_ids=["proj_x"]),
                lambda name=name, permissions=permissions: permissions.delete("cp_x", fine_tuned_model_checkpoint=name),
            ):
                with pytest.raises(openai.PermissionDeniedError) as error:
                    call()
                assert error.value.code == "insufficient_permissions"


def test_a_deleted_model_is_gone_everywhere_and_leaves_the_jobs_others(
    organization: Organization, tuned: TunedModel
) -> None:
    permissions = organization.client.fine_tuning.checkpoints.permissions
    other_id = organization.new_project()
    other = organization.client_of(other_id)
    permissions.create(tuned.checkpoint_name, project_ids=[other_id])
    owner = organization.client_of(organization.project_id)
    file = owner.files.create(file=b"{}\n", purpose="fine-tune")

    assert owner.models.delete(tuned.checkpoint_name).deleted

    for client in (owner, other):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(tuned.checkpoint_name)
        with pytest.raises(openai.NotFoundError):
            client.models.delete(tuned.checkpoint_name)
    with pytest.raises(openai.NotFoundError):
        permissions.list(tuned.checkpoint_name)
    with pytest.raises(openai.NotFoundError):
        permissions.create(tuned.checkpoint_name, project_ids=[other_id])
    with pytest.raises(openai.BadRequestError) as error:
        owner.fine_tuning.jobs.create(model=tuned.checkpoint_name, training_file=file.id)
    assert error.value.code == "model_not_available"
    assert names(owner) == [tuned.name]
    assert owner.models.retrieve(tuned.name).id == tuned.name


def test_two_deletions_at_once_are_one(organization: Organization, tuned: TunedModel) -> None:
    owner = organization.client_of(organization.project_id)

    def delete(_: int) -> bool:
        try:
            return owner.models.delete(tuned.name).deleted
        except openai.NotFoundError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(delete, range(4))) == [False, False, False, True]


HOSTILE = [
    "a%2Fb",
    "ft:m:org:a%2Fb:id",
    "%2e%2e%2f%2e%2e%2fetc",
    "%00",
    "%0A",
    "%E2%9C%A8",
    "%25",
    "x" * 5000,
    "a/b",
    "%",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_with_odd_characters_is_not_found_cleanly(organization: Organization, name: str) -> None:
    for method, path, body in (
        ("GET", f"/models/{name}", None),
        ("DELETE", f"/models/{name}", None),
        ("GET", f"/fine_tuning/checkpoints/{name}/permissions", None),
        ("POST", f"/fine_tuning/checkpoints/{name}/permissions", {"project_ids": [organization.project_id]}),
        ("DELETE", f"/fine_tuning/checkpoints/{name}/permissions/cp_x", None),
    ):
        answer = organization.service.send(method, path, organization.admin_key, json=body)
        assert answer.status_code == 404, (path, answer.text)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_name_is_found_however_its_colons_are_sent(organization: Organization, tuned: TunedModel) -> None:
    headers = {"authorization": f"Bearer {organization.admin_key}"}
    for name in (tuned.name, tuned.name.replace(":", "%3A"), tuned.name.replace("-", "%2D")):
        for path in (f"/models/{name}", f"/fine_tuning/checkpoints/{name}/permissions"):
            request = httpx.Request("GET", "http://x", headers=headers)
            request.url = httpx.URL(f"{organization.service.url}/v1").copy_with(raw_path=f"/v1{path}".encode())
            with httpx.Client() as client:
                assert client.send(request).status_code == 200, path


def test_every_project_sees_base_models_and_none_deletes_them(organization: Organization) -> None:
    client = organization.client_of(organization.new_project())
    assert client.models.retrieve("fettle-tiny").id in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="cannot be deleted"):
        client.models.delete("fettle-tiny")


async def test_a_second_attempt_keeps_permissions_and_deletions(organization: Organization, tuned: TunedModel) -> None:
    """As the dispatcher does it when a trainer was started again."""
    other_id = organization.new_project()
    other = organization.client_of(other_id)
    organization.client.fine_tuning.checkpoints.permissions.create(tuned.name, project_ids=[other_id])
    organization.client_of(organization.project_id).models.delete(tuned.checkpoint_name)
    engine = create_engine(organization.service.database_url.replace("sqlite:", "sqlite+aiosqlite:"))
    rows: dict[str, Any] = {
        "project_id": organization.project_id,
        "job_id": tuned.job_id,
        "created_at": 1.0,
        "base_model": "fettle-tiny",
        "adapter_sha256": "2" * 64,
    }
    async with create_sessions(engine).begin() as session:
        for name in (tuned.name, tuned.checkpoint_name):
            await replace_model(session, ModelRow(name=name, **rows))
    await engine.dispose()
    assert names(other) == [tuned.name]
    assert names(organization.client_of(organization.project_id)) == [tuned.name]
