"""Nobody can tell an id of another project from one that does not exist: every operation, called with both.

An operation that is new needs a rule in `RULES` before these tests pass.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.openapi import describe
from service.settings import Settings
from tests.fixtures.batches import chat_request, create_batch, lines_of, wait_for_batch
from tests.fixtures.belongings import Ids, make_belongings, unknown
from tests.fixtures.projects import GuardedService, Organization
from tests.fixtures.service import keep_running, new_database

PATH_IDS = {
    "file_id": "file",
    "upload_id": "upload",
    "fine_tuning_job_id": "job",
    "log_name": "log",
    "fine_tuned_model_checkpoint": "model",
    "permission_id": "permission",
    "model": "model",
    "batch_id": "batch",
    "organization_id": "organization",
    "project_id": "project",
    "api_key_id": "project_key",
    "key_id": "admin_key",
    "webhook_endpoint_id": "webhook_endpoint",
}
"""What is asked for in a path, unless a probe says otherwise."""


@dataclass(frozen=True)
class Probe:
    """One call; `{file}` is an id of the owner's or of nobody's, `{own[file]}` the caller's own."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    form: Mapping[str, str] | None = None
    has_owner_check: bool = True
    """Whether the owner gets another answer; not looked at where it would start vLLM or is an operator's affair."""


TAKES_NO_IDS: list[Probe] = []
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}

GRADER = {"type": "score_model", "model": "{model}", "input": [{"role": "user", "content": "Rate it."}]}
LABELS = GRADER | {"type": "label_model", "labels": ["good"], "passing_labels": ["good"]}

RULES: dict[str, list[Probe]] = {
    "create_file": TAKES_NO_IDS,
    "list_files": [Probe(query={"after": "{file}"})],
    "retrieve_file": [Probe()],
    "download_file": [Probe()],
    "delete_file": [Probe()],
    "create_upload": TAKES_NO_IDS,
    "create_upload_part": [Probe(form={"data": "bytes"})],
    "complete_upload": [
        Probe(path={"upload_id": "{own[upload]}"}, body={"part_ids": ["{part}"]}),
        Probe(body={"part_ids": ["{part}"]}),
    ],
    "cancel_upload": [Probe()],
    "create_fine_tuning_job": [
        Probe(body={"model": "fettle-tiny", "training_file": "{file}"}),
        Probe(body={"model": "fettle-tiny", "training_file": "{own[file]}", "validation_file": "{file}"}),
        Probe(body={"model": "{model}", "training_file": "{own[file]}"}),
        Probe(body={"model": "{checkpoint_model}", "training_file": "{own[file]}"}),
    ],
    "estimate_fine_tuning_job": [
        Probe(body={"model": "fettle-tiny", "training_file": "{file}"}),
        Probe(body={"model": "fettle-tiny", "training_file": "{own[file]}", "validation_file": "{file}"}),
        Probe(body={"model": "{model}", "training_file": "{own[file]}"}),
    ],
    "list_fine_tuning_jobs": [Probe(query={"after": "{job}"})],
    "retrieve_fine_tuning_job": [Probe()],
    "cancel_fine_tuning_job": [Probe()],
    "pause_fine_tuning_job": [Probe()],
    "resume_fine_tuning_job": [Probe()],
    "list_fine_tuning_events": [
        Probe(),
        Probe(path={"fine_tuning_job_id": "{own[job]}"}, query={"after": "{event}"}),
    ],
    "list_fine_tuning_job_checkpoints": [
        Probe(),
        Probe(path={"fine_tuning_job_id": "{own[job]}"}, query={"after": "{checkpoint}"}),
    ],
    "retrieve_fine_tuning_job_receipt": [Probe()],
    "list_fine_tuning_job_logs": [Probe()],
    "download_fine_tuning_job_log": [Probe(), Probe(path={"fine_tuning_job_id": "{own[job]}"})],
    "create_checkpoint_permissions": [
        Probe(body={"project_ids": ["{own[project]}"]}),
        Probe(path={"fine_tuned_model_checkpoint": "{own[model]}"}, body={"project_ids": ["{project}"]}),
    ],
    "list_checkpoint_permissions": [
        Probe(),
        Probe(path={"fine_tuned_model_checkpoint": "{own[model]}"}, query={"after": "{permission}"}),
        Probe(path={"fine_tuned_model_checkpoint": "{own[model]}"}, query={"project_id": "{shared_project}"}),
    ],
    "delete_checkpoint_permission": [
        Probe(path={"fine_tuned_model_checkpoint": "{own[model]}"}),
        Probe(),
    ],
    "run_grader": [Probe(body={"grader": GRADER, "model_sample": "x"}, has_owner_check=False)],
    "validate_grader": [
        Probe(body={"grader": GRADER}),
        Probe(body={"grader": {"type": "multi", "graders": {"a": LABELS}, "calculate_output": "a"}}),
    ],
    "list_models": TAKES_NO_IDS,
    "retrieve_model": [Probe(), Probe(path={"model": "{checkpoint_model}"})],
    "delete_model": [Probe(), Probe(path={"model": "{checkpoint_model}"})],
    "create_chat_completion": [Probe(body={"model": "{model}"} | CHAT, has_owner_check=False)],
    "create_completion": [Probe(body={"model": "{model}", "prompt": "Hi"}, has_owner_check=False)],
    "create_batch": [
        Probe(body={"input_file_id": "{batch_file}", "endpoint": "/v1/chat/completions", "completion_window": "24h"})
    ],
    "list_batches": [Probe(query={"after": "{batch}"})],
    "retrieve_batch": [Probe()],
    "cancel_batch": [Probe()],
    "list_webhook_event_types": TAKES_NO_IDS,
    "create_webhook_endpoint": TAKES_NO_IDS,
    "list_webhook_endpoints": [Probe(query={"after": "{webhook_endpoint}"})],
    "retrieve_webhook_endpoint": [Probe()],
    "update_webhook_endpoint": [Probe(body={"name": "theirs"})],
    "rotate_webhook_endpoint_secret": [Probe()],
    "test_webhook_endpoint": [Probe(body={"event_type": "fine_tuning.job.failed"})],
    "list_webhook_deliveries": [
        Probe(),
        Probe(path={"webhook_endpoint_id": "{own[webhook_endpoint]}"}, query={"after": "{delivery}"}),
    ],
    "delete_webhook_endpoint": [Probe()],
    "create_organization": TAKES_NO_IDS,
    "list_organizations": [Probe(query={"after": "{organization}"}, has_owner_check=False)],
    "retrieve_organization": [Probe(has_owner_check=False)],
    "create_project": TAKES_NO_IDS,
    "list_projects": [Probe(query={"after": "{project}", "include_archived": "true"})],
    "retrieve_project": [Probe()],
    "update_project": [Probe(body={"name": "theirs"})],
    "create_project_api_key": [Probe(body={"name": "k", "role": "writer"})],
    "list_project_api_keys": [
        Probe(),
        Probe(path={"project_id": "{own[project]}"}, query={"after": "{project_key}"}),
    ],
    "retrieve_project_api_key": [Probe(), Probe(path={"project_id": "{own[project]}"})],
    "update_project_api_key": [
        Probe(body={"role": "writer"}),
        Probe(path={"project_id": "{own[project]}"}, body={"role": "writer"}),
    ],
    "delete_project_api_key": [Probe(path={"project_id": "{own[project]}"}), Probe()],
    "create_admin_api_key": TAKES_NO_IDS,
    "list_admin_api_keys": [Probe(query={"after": "{admin_key}", "order": "desc"})],
    "retrieve_admin_api_key": [Probe()],
    "delete_admin_api_key": [Probe()],
    "archive_project": [Probe()],
}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    is_for_admins: bool
    """Of a whole organization, not of a project."""
    described: Mapping[str, Any]

    def send(self, caller: "Caller", probe: Probe, ids: Ids) -> httpx.Response:
        """As the caller, with these ids for the owner's."""
        names = re.findall(r"\{(\w+)\}", self.path)
        path = self.path.format(**{name: probe.path.get(name, f"{{{PATH_IDS[name]}}}") for name in names})
        form = probe.form and {name: ("upload", value) for name, value in probe.form.items()}
        return caller.service.send(
            self.method,
            _filled(path.removeprefix("/v1"), ids, caller.own),
            caller.key,
            params=_filled(dict(probe.query), ids, caller.own) or None,
            json=_filled(probe.body, ids, caller.own),
            files=form,
            headers={"openai-project": caller.project_id} if caller.project_id else {},
        )


@dataclass(frozen=True)
class Caller:
    service: GuardedService
    key: str
    own: Ids
    project_id: str | None = None
    """For an admin key: where it works."""
    is_admin_of_owner: bool = False
    is_of_owners_organization: bool = False


@dataclass(frozen=True)
class World:
    organization: Organization
    owned: Ids
    strangers: Mapping[str, Caller]


@cache
def description() -> dict[str, Any]:
    return describe(create_app(Settings()))


@cache
def operations() -> dict[str, Operation]:
    paths = description()["paths"]
    return {
        operation["operationId"]: Operation(
            method.upper(), path, path.startswith("/v1/organization") or path.count("/permissions") > 0, operation
        )
        for path, methods in paths.items()
        for method, operation in methods.items()
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = {} if request.param == "sqlite" else {"database_url": new_database()}
    for service in keep_running(GuardedService(tmp_path_factory.mktemp("isolation") / "data", **settings)):
        assert isinstance(service, GuardedService)
        ours, others = service.new_organization(), service.new_organization()
        owner, neighbour = ours.new_project(), ours.new_project()
        neighbours = make_belongings(ours, neighbour)
        strangers = make_belongings(others, others.project_id)
        yield World(
            ours,
            make_belongings(ours, owner),
            {
                "a project of the same organization": Caller(
                    service, ours.key(neighbour), neighbours, is_of_owners_organization=True
                ),
                "its admin, at work there": Caller(
                    service,
                    ours.admin_key,
                    neighbours,
                    neighbour,
                    is_admin_of_owner=True,
                    is_of_owners_organization=True,
                ),
                "a project of another organization": Caller(service, others.key(others.project_id), strangers),
                "its admin": Caller(service, others.admin_key, strangers),
            },
        )


def test_every_operation_has_a_rule() -> None:
    known = operations()
    assert set(known) - set(RULES) == set(), "say in RULES how these are called with somebody else's ids"
    assert set(RULES) - set(known) == set(), "there are no such operations"
    for name, operation in known.items():
        if RULES[name] is TAKES_NO_IDS:
            assert list(_places_for_ids(operation)) == [], f"{name} takes ids: write a Probe for each"


@pytest.mark.parametrize("name", RULES)
def test_an_id_of_somebody_else_is_answered_as_one_that_does_not_exist(world: World, name: str) -> None:
    operation, nobodys = operations()[name], unknown(world.owned)
    for who, caller in world.strangers.items():
        if caller.is_admin_of_owner and operation.is_for_admins:
            continue
        secret = dict(world.owned)
        if caller.is_of_owners_organization:
            del secret["organization"]  # which is theirs, too
        if operation.method == "GET" and "{" not in operation.path:
            assert _ids_in(operation.send(caller, Probe(), world.owned).text, secret) == [], who
        for probe in RULES[name]:
            theirs, nothing = (operation.send(caller, probe, ids) for ids in (world.owned, nobodys))
            assert _told(theirs, world.owned) == _told(nothing, nobodys), (who, probe)
            assert _ids_in(_told(theirs, world.owned)[1], secret) == [], (who, probe)
            assert theirs.status_code < 500, (who, probe)


def test_nothing_of_the_owner_was_changed_by_them(world: World) -> None:
    """After the calls above: everything is there, the upload is pending, the keys open, nothing was renamed."""
    ours = Caller(world.organization.service, world.organization.admin_key, world.owned, world.owned["project"])
    known = operations()
    for name in RULES:
        if name.startswith("retrieve_") and name != "retrieve_organization":
            answer = known[name].send(ours, Probe(), world.owned)
            assert (answer.status_code, "theirs" in answer.text) == (200, False), name
    parts = {"part_ids": [world.owned["part"]]}
    completed = known["complete_upload"].send(ours, Probe(body=parts), world.owned)
    assert (completed.status_code, completed.json()["status"]) == (200, "completed")


def test_the_owner_gets_another_answer_to_every_call(world: World) -> None:
    """Or the calls above would prove nothing. Deletions come last."""
    organization, known = world.organization, operations()
    project_id = organization.new_project()
    owned = make_belongings(organization, project_id)
    nobodys = unknown(owned)
    caller = Caller(organization.service, organization.admin_key, owned, project_id)
    probes = [(known[name], probe) for name in RULES for probe in RULES[name] if probe.has_owner_check]
    probes.sort(key=lambda each: (each[0].path.endswith("/archive"), ("GET", "POST", "DELETE").index(each[0].method)))
    sent = set()
    for operation, probe in probes:
        nothing = operation.send(caller, probe, nobodys)
        theirs = operation.send(caller, probe, owned)
        request = (operation.method, str(theirs.request.url), str(_filled(probe.body, owned, owned)))
        if request not in sent:  # the owner's id may be the caller's own
            assert _told(theirs, owned) != _told(nothing, nobodys), (operation.path, probe, theirs.text)
        sent.add(request)


def test_a_batch_cannot_tell_somebody_elses_model_from_none(world: World) -> None:
    service = world.organization.service
    for caller in world.strangers.values():
        client = service.client_with(caller.key, project=caller.project_id)
        told = []
        for ids in (world.owned, unknown(world.owned)):
            batch = create_batch(client, [chat_request("1", model=ids["model"])])
            batch = wait_for_batch(service, batch.id, client=client)
            errors = [error.to_json() for error in (batch.errors.data or [])] if batch.errors else []
            lines = [line["response"] or line["error"] for line in lines_of(client, batch.error_file_id)]
            told.append(str((batch.status, errors, lines)).replace(ids["model"], "MODEL"))
        assert told[0] == told[1]


def test_an_idempotency_key_is_of_its_project(world: World) -> None:
    organization, projects = world.organization, (world.owned["project"], world.organization.project_id)
    stranger = world.strangers["a project of another organization"]
    body = {"bytes": 1, "mime_type": "text/plain", "purpose": "fine-tune", "filename": "f"}
    made = [
        organization.service.send("POST", "/uploads", key, json=body, headers={"idempotency-key": "the same for all"})
        for key in (*[organization.key(project_id) for project_id in projects], stranger.key)
    ]
    assert [answer.status_code for answer in made] == [200, 200, 200]
    assert len({answer.json()["id"] for answer in made}) == 3


def _filled(template: Any, ids: Ids, own: Ids) -> Any:
    if isinstance(template, str):
        return template.format(own=own, **ids)
    if isinstance(template, dict):
        return {name: _filled(value, ids, own) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, ids, own) for value in template]
    return template


def _told(answer: httpx.Response, asked: Ids) -> tuple[int, str, dict[str, str]]:
    """Everything but the ids that were asked for and what is another for each request."""
    text, each_time = answer.text, ("date", "x-request-id", "openai-processing-ms")
    for kind in sorted(asked, key=lambda kind: -len(asked[kind])):
        text = text.replace(asked[kind], f"<{kind}>")
    return answer.status_code, text, {name: value for name, value in answer.headers.items() if name not in each_time}


def _ids_in(text: str, owned: Ids) -> list[str]:
    return [kind for kind, value in owned.items() if value in text]


def _places_for_ids(operation: Operation) -> Iterator[str]:
    names = re.compile(r"(?:^|_)(?:ids?|file|model)$|^after$")
    for parameter in operation.described.get("parameters", []):
        if parameter["in"] == "path" or names.search(parameter["name"]):
            yield parameter["name"]
    components = description()["components"]["schemas"]
    for content in operation.described.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = components[schema["$ref"].rpartition("/")[2]]
        for name, value in schema["properties"].items():
            if names.search(name) and value.get("format") != "binary" and value.get("type") != "null":
                yield name
