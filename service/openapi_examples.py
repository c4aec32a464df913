"""Examples for the API's description: whole answers, put together from those that the schemas and their fields have."""

from typing import Any

NOWHERE = "?"
"""Where no example is known; a test finds it."""

PATH_PARAMETERS = {
    "file_id": ("The file's id.", "file-3bs0p4nJaVgKqpwiteP20A"),
    "upload_id": ("The upload's id.", "upload_0d5f1c6a5c2b4f3a8e7d9b1a2c3d4e5f"),
    "fine_tuning_job_id": ("The job's id.", "ftjob-aQ3kV9mT2pLxW7cYzX81QlWe"),
    "log_name": ("The log's name, as the list tells it.", "0001-trainer.log"),
    "fine_tuned_model_checkpoint": (
        "The name of a tuned model or of a checkpoint.",
        "ft:fettle-tiny:fettle:smart-home:zX81QlWe",
    ),
    "permission_id": ("The permission's id.", "cp_c0Rr3ctH0rs3B4tt3ryStapl"),
    "model": ("A model's name, colons included.", "ft:fettle-tiny:fettle:smart-home:zX81QlWe"),
    "batch_id": ("The batch's id.", "batch_3bs0p4nJaVgKqpwiteP20Abc"),
    "webhook_endpoint_id": ("The endpoint's id.", "whe_3bs0p4nJaVgKqpwiteP20Abc"),
    "organization_id": ("The organization's id.", "org-7Hb2kV9sQxTzW1mN4pLcRdYf"),
    "project_id": ("The project's id.", "proj_h4ZkT2vQ8sXnB6mR1wLcYdPf"),
    "api_key_id": ("The key's id, which is not the key.", "key_P2oRGGJ4hX5bV0tcKqEw81uS"),
    "key_id": ("The key's id, which is not the key.", "key_P2oRGGJ4hX5bV0tcKqEw81uS"),
}

_IDS_BY_OBJECT = {
    "file": "file_id",
    "model": "model",
    "checkpoint.permission": "permission_id",
    "organization.project.api_key.deleted": "api_key_id",
    "organization.admin_api_key.deleted": "key_id",
    "webhook_endpoint.deleted": "webhook_endpoint_id",
}

_FIELDS: dict[str, Any] = {
    "created_at": 1795263543,
    "updated_at": 1795263543,
    "created": 1795263543,
    "name": "training events",
    "url": "https://example.com/hooks",
    "event_type": "fine_tuning.job.succeeded",
    "event_types": ["fine_tuning.job.succeeded", "fine_tuning.job.failed"],
    "owned_by": "fettle",
    "status_code": 200,
    "started_at": 1795263700,
    "duration_ms": 84,
    "response_body": "ok",
    "next_attempt_at": None,
    "webhook_endpoint_id": PATH_PARAMETERS["webhook_endpoint_id"][1],
}


def example_of(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """`schemas`: those of the components, by name."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for given in ("examples", "enum"):
        if given in schema:
            return schema[given][0]
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas)
    match schema.get("type"):
        case "object":
            return _object_example(schema, schemas)
        case "array":
            return [example_of(schema["items"], schemas)]
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return NOWHERE


def complete(schema: dict[str, Any], example: Any, schemas: dict[str, Any]) -> None:
    """FastAPI leaves out what is null, and a schema has its parent's example, without its own fields."""
    schema = _resolved(schema, schemas)
    if isinstance(example, list):
        for item in example:
            complete(schema.get("items", {}), item, schemas)
    if not isinstance(example, dict):
        return
    for name in schema.get("required", []):
        field = schema["properties"][name]
        if name not in example and (_takes_null(field) or "examples" in field):
            example[name] = None if _takes_null(field) else field["examples"][0]
    for name, field in schema.get("properties", {}).items():
        complete(field, example.get(name), schemas)


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Behind a reference, and of two alternatives the one that is not null."""
    found = schema
    others = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(others) == 1:
        found = others[0]
    return schemas[found["$ref"].rpartition("/")[2]] if "$ref" in found else found


def _takes_null(schema: dict[str, Any]) -> bool:
    return any(each.get("type") == "null" for each in [schema, *schema.get("anyOf", [])])


def _object_example(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    example = {}
    for name, field in schema.get("properties", {}).items():
        value = example_of(field, schemas)
        example[name] = _FIELDS.get(name, value) if value == NOWHERE or name in _FIELDS else value
    if example.get("id") == NOWHERE and example.get("object") in _IDS_BY_OBJECT:
        example["id"] = PATH_PARAMETERS[_IDS_BY_OBJECT[example["object"]]][1]
    if example.get("data") and "first_id" in example:
        example |= {"first_id": example["data"][0]["id"], "last_id": example["data"][-1]["id"]}
    return example
