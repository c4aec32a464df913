"""Organizations and projects through OpenAI's own admin client, strictly parsed, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.fixtures.projects import OPERATOR_KEY, GuardedService, Organization

NOBODY = "proj_" + "a" * 24


def test_a_project_lives_its_life_through_openais_client(organization: Organization) -> None:
    projects = organization.client.admin.organization.projects
    made = projects.create(name="support ✨")
    assert (made.name, made.status, made.archived_at) == ("support ✨", "active", None)
    assert projects.retrieve(made.id) == made
    assert projects.update(made.id, name="customers").name == "customers"
    archived = projects.archive(made.id)
    assert (archived.status, archived.name) == ("archived", "customers")
    assert archived.archived_at is not None
    assert projects.archive(made.id) == archived, "archiving is safe to repeat"
    assert projects.retrieve(made.id) == archived
    with pytest.raises(openai.BadRequestError, match="is archived") as error:
        projects.update(made.id, name="again")
    assert error.value.code == "project_archived"


def test_a_page_walk_sees_every_project_once_and_archived_ones_on_request(organization: Organization) -> None:
    projects = organization.client.admin.organization.projects
    made = [organization.project_id, *[projects.create(name=f"p{number}").id for number in range(5)]]
    walked = []
    for project in projects.list(limit=2):
        walked.append(project.id)
        if len(walked) == 2:
            projects.create(name="made meanwhile")
            projects.archive(project.id)  # stays a cursor
    assert walked == made[::-1]
    active = [project.id for project in projects.list()]
    assert made[4] not in active
    assert made[4] in [project.id for project in projects.list(include_archived=True)]
    assert (projects.list(limit=0).data, projects.list(after=NOBODY).data) == ([], [])


def test_an_archived_project_is_closed_and_its_data_stays(organization: Organization) -> None:
    service, projects = organization.service, organization.client.admin.organization.projects
    project_id = organization.new_project()
    writer = organization.client_of(project_id)
    file = writer.files.create(file=b"{}\n", purpose="user_data")
    model = service.add_tuned_model(project_id, organization.name)
    permissions = organization.client.fine_tuning.checkpoints.permissions
    permissions.create(model.name, project_ids=[organization.project_id])
    neighbour = organization.client_of(organization.project_id)
    assert neighbour.models.retrieve(model.name).id == model.name

    projects.archive(project_id)

    with pytest.raises(openai.AuthenticationError):
        writer.files.retrieve(file.id)
    with pytest.raises(openai.AuthenticationError, match="No such project"):
        service.client_with(organization.admin_key, project=project_id).files.list()
    with pytest.raises(openai.NotFoundError):
        neighbour.models.retrieve(model.name)
    with pytest.raises(openai.NotFoundError):
        permissions.list(model.name)
    answer = service.send(
        "POST",
        f"/organization/projects/{project_id}/api_keys",
        organization.admin_key,
        json={"name": "late", "role": "reader"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "project_archived")
    [key] = projects.api_keys.list(project_id, owner_project_access="inactive").data
    assert key.owner_project_access == "inactive"
    assert projects.api_keys.list(project_id, owner_project_access="active").data == []
    assert projects.api_keys.delete(key.id, project_id=project_id).deleted


def test_the_last_project_cannot_be_archived_also_not_by_two_at_once(organization: Organization) -> None:
    projects = organization.client.admin.organization.projects
    with pytest.raises(openai.BadRequestError, match="last one"):
        projects.archive(organization.project_id)
    ids = [organization.project_id, *[organization.new_project() for _ in range(3)]]

    def archive(project_id: str) -> bool:
        try:
            return projects.archive(project_id).status == "archived"
        except openai.BadRequestError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(archive, ids)) == [False, True, True, True]
    assert len(projects.list().data) == 1


@pytest.mark.parametrize("field", ["geography", "residency", "external_key_id"])
def test_what_is_not_carried_out_is_refused_by_name(organization: Organization, field: str) -> None:
    projects: Any = organization.client.admin.organization.projects
    with pytest.raises(openai.BadRequestError, match="does not carry it out; leave it out") as error:
        projects.create(name="p", **{field: "EU_STORAGE_PROCESSING"})
    assert error.value.param == field
    assert projects.create(name="p", **{field: None}).name == "p"
    if field != "residency":
        with pytest.raises(openai.BadRequestError) as error:
            projects.update(organization.project_id, **{field: "eu"})
        assert error.value.param == field


@pytest.mark.parametrize("name", ["", " ", "x" * 129, "a\0b", "a\nb", "\u202ea", 7, None, ["a"]])
def test_a_name_that_cannot_be_shown_is_refused(organization: Organization, name: Any) -> None:
    for path in ("/organization/projects", "/organization/admin_api_keys"):
        answer = organization.service.send("POST", path, organization.admin_key, json={"name": name})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name"), path


def test_a_name_may_be_as_long_as_the_limit(organization: Organization) -> None:
    assert organization.client.admin.organization.projects.create(name="ä" * 128).name == "ä" * 128


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_only_admins_manage_projects_and_keys(organization: Organization, role: str) -> None:
    client = organization.client_of(organization.project_id, role)
    admin = client.admin.organization
    for call in (
        lambda: admin.projects.list(),
        lambda: admin.projects.create(name="p"),
        lambda: admin.projects.retrieve(organization.project_id),
        lambda: admin.projects.archive(organization.project_id),
        lambda: admin.projects.api_keys.list(organization.project_id),
        lambda: admin.admin_api_keys.create(name="k"),
        lambda: admin.admin_api_keys.list(),
        lambda: client.get("/organizations", cast_to=object),
    ):
        with pytest.raises(openai.PermissionDeniedError) as error:
            call()
        assert error.value.code == "insufficient_permissions"
        assert f"yours has '{role}'" in error.value.message


def test_organizations_are_for_operators_and_know_nothing_of_each_other(
    guarded_service: GuardedService, organization: Organization
) -> None:
    other = guarded_service.new_organization()
    names = {one["id"]: one["name"] for one in guarded_service.send("GET", "/organizations?limit=100").json()["data"]}
    assert (names[organization.id], names[other.id]) == (organization.name, other.name)
    retrieved = guarded_service.send("GET", f"/organizations/{other.id}").json()
    assert (retrieved["object"], retrieved["name"]) == ("organization", other.name)
    for path in ("/organizations", f"/organizations/{organization.id}", f"/organizations/org-{'a' * 24}"):
        answer = guarded_service.send("GET", path, organization.admin_key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions")
    for body in ({"name": organization.name}, {"name": "Has Blanks"}, {"name": "a:b"}, {"name": ""}, {}):
        answer = guarded_service.send("POST", "/organizations", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name"), body
    with pytest.raises(openai.AuthenticationError, match="should match organization"):
        guarded_service.client_with(organization.admin_key, organization=other.id).models.list()
    with pytest.raises(openai.AuthenticationError, match="No such organization"):
        guarded_service.client_with(OPERATOR_KEY, organization="org-" + "a" * 24).models.list()


def test_an_admin_works_in_any_project_of_the_organization_and_no_other(
    guarded_service: GuardedService, organization: Organization
) -> None:
    project_id = organization.new_project()
    there = guarded_service.client_with(organization.admin_key, project=project_id)
    file = there.files.create(file=b"{}\n", purpose="user_data")
    assert organization.client_of(project_id).files.retrieve(file.id).id == file.id
    raw = there.files.with_raw_response.list()
    assert (raw.headers["openai-organization"], raw.headers["openai-project"]) == (organization.id, project_id)
    with pytest.raises(openai.NotFoundError):
        organization.client.files.retrieve(file.id)  # without the header: the oldest project
    stranger = guarded_service.new_organization()
    for other in (stranger.project_id, NOBODY, "x" * 300):
        with pytest.raises(openai.AuthenticationError) as error:
            guarded_service.client_with(organization.admin_key, project=other).files.list()
        body: Any = error.value.body
        assert body["message"].replace(other, "X") == f"No such project in organization {organization.id}: X."
    with pytest.raises(openai.AuthenticationError, match="should match project"):
        guarded_service.client_with(organization.key(project_id), project=organization.project_id).files.list()
