"""API keys: what they open, for how long, and that nobody ever reads one a second time."""

from pathlib import Path

import openai
import pytest
from sqlalchemy import create_engine, text

from tests.fixtures.projects import GuardedService, Organization
from tests.fixtures.service import RunningService, StartService, wait_until


def test_a_key_is_shown_once_and_kept_as_a_hash(guarded_service: GuardedService, organization: Organization) -> None:
    made = guarded_service.create_project_key(organization.project_id, "writer", organization.admin_key)
    key = made["value"]
    assert key.startswith("sk-fettle-")
    assert len(key) >= len("sk-fettle-") + 43
    assert made["redacted_value"].endswith(key[-4:])
    retrieved = organization.client.admin.organization.projects.api_keys.retrieve(
        made["id"], project_id=organization.project_id
    )
    assert key not in retrieved.to_json()
    assert retrieved.to_dict() == {name: value for name, value in made.items() if name != "value"}
    engine = create_engine(guarded_service.database_url)
    with engine.connect() as connection:
        rows = str(connection.execute(text("SELECT * FROM api_keys")).all())
    engine.dispose()
    for secret in (key, organization.admin_key):
        assert secret not in rows
        assert secret not in guarded_service.log


def test_a_key_opens_its_own_project_with_its_own_role(organization: Organization) -> None:
    reader = organization.client_of(organization.project_id, "reader")
    writer = organization.client_of(organization.project_id, "writer")
    neighbour = organization.client_of(organization.new_project(), "writer")
    file = writer.files.create(file=b"{}\n", purpose="user_data")
    assert reader.files.retrieve(file.id) == file
    for refused in (
        lambda: reader.files.create(file=b"{}\n", purpose="user_data"),
        lambda: reader.files.delete(file.id),
        lambda: reader.fine_tuning.jobs.create(model="fettle-tiny", training_file=file.id),
        lambda: reader.models.delete("ft:x"),
    ):
        with pytest.raises(openai.PermissionDeniedError, match="needs a key with the role 'writer'"):
            refused()
    with pytest.raises(openai.NotFoundError):
        neighbour.files.retrieve(file.id)
    assert neighbour.files.list().data == []


def test_azures_header_carries_the_same_keys(guarded_service: GuardedService, organization: Organization) -> None:
    key = organization.key(organization.project_id, "reader")
    answer = guarded_service.send("GET", "/files", headers={"api-key": key, "authorization": ""})
    assert (answer.status_code, answer.headers["openai-project"]) == (200, organization.project_id)


def test_a_revoked_key_opens_nothing_from_the_next_request_on(organization: Organization) -> None:
    keys = organization.client.admin.organization.projects.api_keys
    client = organization.client_of(organization.project_id)
    [key] = keys.list(organization.project_id).data
    assert client.models.list().data
    deleted = keys.delete(key.id, project_id=organization.project_id)
    assert (deleted.id, deleted.object) == (key.id, "organization.project.api_key.deleted")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        client.models.list()
    assert keys.list(organization.project_id).data == []
    for call in (keys.retrieve, keys.delete, keys.update):
        with pytest.raises(openai.NotFoundError, match=f"No such API key: {key.id}"):
            call(key.id, project_id=organization.project_id)


def test_an_admin_key_lives_its_life_through_openais_client(organization: Organization) -> None:
    keys = organization.client.admin.organization.admin_api_keys
    made = keys.create(name="operations", expires_in_seconds=3600)
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - 3600) <= 1
    other = organization.service.client_with(made.value)
    assert [key.name for key in other.admin.organization.admin_api_keys.list()] == ["the first one", "operations"]
    assert [key.name for key in keys.list(order="desc", limit=1)] == ["operations", "the first one"]
    retrieved = keys.retrieve(made.id)
    assert retrieved.to_dict() | {"last_used_at": None} == {
        name: value for name, value in made.to_dict().items() if name != "value"
    }
    assert keys.delete(made.id).deleted
    with pytest.raises(openai.AuthenticationError):
        other.models.list()
    with pytest.raises(openai.NotFoundError):
        keys.retrieve(made.id)
    assert [key.name for key in keys.list(after=made.id, order="desc")] == ["the first one"], "it stays a cursor"


def test_an_admin_key_is_no_project_key_and_the_other_way_round(organization: Organization) -> None:
    admin = organization.client.admin.organization
    [admin_key] = admin.admin_api_keys.list().data
    organization.key(organization.project_id)
    [project_key] = admin.projects.api_keys.list(organization.project_id).data
    with pytest.raises(openai.NotFoundError):
        admin.admin_api_keys.delete(project_key.id)
    with pytest.raises(openai.NotFoundError):
        admin.projects.api_keys.delete(admin_key.id, project_id=organization.project_id)
    with pytest.raises(openai.NotFoundError):
        admin.projects.api_keys.retrieve(project_key.id, project_id=organization.new_project())


def test_an_expired_key_opens_nothing_and_stays_expired(organization: Organization) -> None:
    keys = organization.client.admin.organization.projects.api_keys
    made = organization.service.create_project_key(
        organization.project_id, "reader", organization.admin_key, expires_in_seconds=1
    )
    client = organization.service.client_with(made["value"])

    def is_closed() -> bool:
        try:
            client.models.list()
        except openai.AuthenticationError:
            return True
        return False

    wait_until(is_closed, 30, "the key did not expire")
    with pytest.raises(openai.BadRequestError, match="has expired") as error:
        keys.update(made["id"], project_id=organization.project_id, expires_in_seconds=3600)
    assert error.value.code == "key_expired"
    assert [key.expires_at for key in keys.list(organization.project_id)] == [made["expires_at"]]


def test_a_keys_expiry_and_role_can_be_changed(organization: Organization) -> None:
    keys = organization.client.admin.organization.projects.api_keys
    client = organization.client_of(organization.project_id, "reader")
    [key] = keys.list(organization.project_id).data
    changed = keys.update(key.id, project_id=organization.project_id, expires_in_seconds=60)
    assert changed.expires_at is not None
    assert 50 <= changed.expires_at - key.created_at <= 90
    assert keys.update(key.id, project_id=organization.project_id) == changed
    keys.update(key.id, project_id=organization.project_id, extra_body={"role": "writer"})
    assert client.files.create(file=b"{}\n", purpose="user_data").id
    with pytest.raises(openai.BadRequestError) as error:
        keys.update(key.id, project_id=organization.project_id, scopes=["api.all.read"])
    assert error.value.param == "scopes"


def test_the_last_use_of_a_key_is_told(organization: Organization) -> None:
    keys = organization.client.admin.organization.projects.api_keys
    client = organization.client_of(organization.project_id)
    [unused] = keys.list(organization.project_id).data
    assert unused.last_used_at is None
    client.models.list()
    used = keys.retrieve(unused.id, project_id=organization.project_id)
    assert used.last_used_at is not None
    assert used.last_used_at >= unused.created_at


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires_in_seconds", 0),
        ("expires_in_seconds", -1),
        ("expires_in_seconds", 10**12),
        ("expires_in_seconds", "3600"),
        ("expires_in_seconds", True),
        ("expires_in_seconds", 1.5),
        ("role", "admin"),
        ("role", "owner"),
        ("role", None),
        ("colour", "red"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_the_fields_name(
    organization: Organization, field: str, value: object
) -> None:
    body = {"name": "k", "role": "reader", field: value}
    path = f"/organization/projects/{organization.project_id}/api_keys"
    answer = organization.service.send("POST", path, organization.admin_key, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert organization.client.admin.organization.projects.api_keys.list(organization.project_id).data == []


def test_a_repeated_idempotency_key_neither_makes_nor_tells_a_second_key(organization: Organization) -> None:
    path = f"/organization/projects/{organization.project_id}/api_keys"
    answers = [
        organization.service.send(
            "POST",
            path,
            organization.admin_key,
            json={"name": "k", "role": "reader"},
            headers={"idempotency-key": "once"},
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[0].json()["value"] not in answers[1].text
    assert len(organization.client.admin.organization.projects.api_keys.list(organization.project_id).data) == 1


def test_the_first_key_of_an_open_server_is_an_admins_and_closes_it(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off")
    admin = service.client.with_options(admin_api_key="any").admin.organization
    body = {"name": "too early", "role": "writer"}
    with pytest.raises(openai.BadRequestError, match=r"Make an admin key first .* or set FETTLE_API_KEYS") as error:
        service.client.post("/organization/projects/proj_default/api_keys", cast_to=object, body=body)
    assert error.value.code == "admin_key_first"
    assert service.client.models.list().data, "the refused key closed nothing"

    made = admin.admin_api_keys.create(name="first")

    with pytest.raises(openai.AuthenticationError):
        service.client.models.list()
    opened = service.client.with_options(api_key=made.value, admin_api_key=made.value)
    assert opened.post("/organization/projects/proj_default/api_keys", cast_to=object, body=body)
    opened.admin.organization.admin_api_keys.delete(made.id)
    for _ in range(2):
        with pytest.raises(openai.AuthenticationError):
            service.client.models.list()
        service.restart()


def test_an_operators_key_opens_a_server_whose_keys_are_lost(start_service: StartService, tmp_path: Path) -> None:
    service: RunningService = start_service(tmp_path / "data", serving="off")
    service.client.with_options(admin_api_key="any").admin.organization.admin_api_keys.create(name="lost")
    service.stop()
    again = start_service(tmp_path / "data", serving="off", api_keys="sk-operator-again")
    operator = again.client.with_options(api_key="sk-operator-again", admin_api_key="sk-operator-again")
    assert [key.name for key in operator.admin.organization.admin_api_keys.list()] == ["lost"]
