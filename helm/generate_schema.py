"""Writes the chart's `values.schema.json` and `VALUES.md` from `values.yaml` and our own typed models.

Of values.yaml it takes the comment above each key, and the type of its default; a line `# @schema {…}` says what these
cannot. What the service reads as well is told once, in the service: the fields of `models:`, `training:` and
`settings:` come from the models that check them there. Parts of pods come from Kubernetes' own definitions.
"""

import ast
import inspect
import json
import re
import textwrap
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from helm.values_reference import generate_reference
from service.executors import kubernetes_settings
from service.settings import Settings
from tuning import catalogue, resources

CHART = Path(__file__).resolve().parent / "fettle"
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
REFERENCE = CHART / "VALUES.md"

Schema = dict[str, Any]

# Newer versions only add fields; an API server that does not know one says so.
_KUBERNETES = "kubernetes-json-schema/v1.37.0-local-strict/_definitions.json"

SET_BY_THE_CHART = {
    *("host", "port", "role", "ops_port", "data_dir", "migrations", "models_file"),
    *("storage_uri", "s3_endpoint_url", "s3_region", "s3_addressing_style"),
    *("executor", "kubernetes_file", "serving", "vllm_urls"),
    *("database_url", "api_keys", "vllm_api_key", "wandb_api_key", "grader_api_key"),  # from Secrets
}
"""Settings that other values make."""
_OF_LOCAL_VLLM = {"vllm_kv_cache_gib", "gpu_memory_utilization"}
"""The service refuses them beside vLLMs that it does not start."""

TRAINING_SET_BY_THE_CHART = {
    *("instance", "image", "imagePullPolicy", "imagePullSecrets", "serviceAccountName", "modelCache"),
}

_OUR_LABELS = r"^(app\.kubernetes\.io/(name|instance|component|version|managed-by)$|helm\.sh/chart$|fettle\.dev/)"
"""The chart sets them, and finds its pods by them."""

_PARTS_OF_PODS = {
    "env": "core.v1.EnvVar",
    "envFrom": "core.v1.EnvFromSource",
    "tolerations": "core.v1.Toleration",
    "affinity": "core.v1.Affinity",
    "topologySpreadConstraints": "core.v1.TopologySpreadConstraint",
    "volumes": "core.v1.Volume",
    "volumeMounts": "core.v1.VolumeMount",
}
"""What the service hands on to Kubernetes as it is, by its key in `training:`."""


def main() -> None:
    schema = generate_schema()
    SCHEMA.write_text(json_text(schema), encoding="utf-8")
    REFERENCE.write_text(generate_reference(schema), encoding="utf-8")


def json_text(schema: Schema) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def generate_schema() -> Schema:
    """Raises ValueError for a value without a comment, or of a type that its default does not tell."""
    text = VALUES.read_text(encoding="utf-8")
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    schema = _of_mapping(root, text.splitlines(), "")
    # A chart above this one shares its `global` with all, read or not.
    schema["properties"]["global"] = {"type": "object", "description": "Not read by this chart."}
    definitions = _our_definitions()
    definitions["Model"]["properties"]["serving"] = {
        "$ref": "#/properties/serving/properties/defaults",
        "description": "How this model is served, where it differs from `serving.defaults`.",
    }
    schema["$defs"] = definitions | _kubernetes_definitions(schema, definitions)
    # The newest that Helm knew before 3.18.
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_with_pointers(schema)}


def _of_mapping(node: yaml.MappingNode, lines: list[str], path: str) -> Schema:
    properties: dict[str, Schema] = {}
    for key, value in node.value:
        name = f"{path}{key.value}"
        comment, annotation = _comment_above(lines, key.start_mark.line)
        if not comment:
            raise ValueError(f"values.yaml: {name} has no comment")
        default = yaml.safe_load(yaml.serialize(value))
        if annotation is not None:
            schema = annotation
        elif isinstance(value, yaml.MappingNode) and value.value:
            schema = _of_mapping(value, lines, f"{name}.")
        else:
            schema = {"type": _json_type(default, name)}
        if "properties" not in schema:
            schema = schema | {"default": default}
        properties[key.value] = schema | {"description": comment}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _comment_above(lines: list[str], number: int) -> tuple[str, Schema | None]:
    words: list[str] = []
    annotation = None
    for line in reversed(lines[:number]):
        stripped = line.strip()
        if not stripped.startswith("#"):
            break
        text = stripped.removeprefix("#")
        if text.startswith(" @schema "):
            annotation = yaml.safe_load(text.removeprefix(" @schema "))
        elif not text.startswith("   "):  # an example
            words.insert(0, text.strip())
    return " ".join(words), annotation


def _json_type(default: object, name: str) -> str:
    for kind, json_type in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(default, kind):
            return json_type
    raise ValueError(f"values.yaml: say what {name} may hold, in a line '# @schema {{…}}'")


def _our_definitions() -> dict[str, Schema]:
    definitions: dict[str, Schema] = {}
    for name, model in (("Model", catalogue.CatalogueEntry), ("Training", kubernetes_settings.KubernetesSettings)):
        schema = _of_model(model)
        definitions |= schema.pop("$defs", {})
        definitions[name] = schema
    training = definitions["Training"]
    training["required"] = []
    for key in TRAINING_SET_BY_THE_CHART:
        del training["properties"][key]
    for key, definition in _PARTS_OF_PODS.items():
        field = training["properties"][key]
        reference = {"$ref": f"io.k8s.api.{definition}"}
        field |= {"items": reference} if field["type"] == "array" else {"$ref": reference["$ref"]}
    definitions["Settings"] = _of_settings()
    definitions["Labels"] = {
        "type": "object",
        "propertyNames": {"not": {"pattern": _OUR_LABELS}},
        "additionalProperties": {"type": "string"},
    }
    return definitions


def _of_model(model: type[BaseModel]) -> Schema:
    """With the docstrings of attributes, which pydantic leaves out."""
    schema = model.model_json_schema(by_alias=True)
    parts = {schema["title"]: schema} | schema.get("$defs", {})
    for module in (catalogue, resources, kubernetes_settings):
        for name, part in vars(module).items():
            if name in parts and isinstance(part, type) and issubclass(part, BaseModel):
                _describe(parts[name], part, by_alias=True)
    return schema


def _of_settings() -> Schema:
    schema = Settings.model_json_schema(by_alias=False)
    _describe(schema, Settings, by_alias=False)
    for name in SET_BY_THE_CHART | _OF_LOCAL_VLLM:
        del schema["properties"][name]
    for field in schema["properties"].values():
        if field.get("format") == "duration":
            field |= {"type": ["string", "number"]}
            del field["format"]
    return {"type": "object", "properties": schema["properties"], "additionalProperties": False}


def _describe(schema: Schema, model: type[BaseModel], *, by_alias: bool) -> None:
    schema.pop("description", None)
    schema.pop("title", None)
    docstrings = _attribute_docstrings(model)
    for name, field in model.model_fields.items():
        part = schema["properties"][(field.alias or name) if by_alias else name]
        part.pop("title", None)
        if name in docstrings and "description" not in part:
            part["description"] = docstrings[name]


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    return {
        field.target.id: re.sub(r"\s+", " ", following.value.value).strip()
        for field, following in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
        and isinstance(following.value.value, str)
    }


def _kubernetes_definitions(*schemas: object) -> dict[str, Schema]:
    """Those that the schemas refer to, and what these refer to in turn; without their long descriptions."""
    known = json.loads(files("kubernetes_validate").joinpath(_KUBERNETES).read_text(encoding="utf-8"))["$defs"]
    found: dict[str, Schema] = {}
    wanted = [name for schema in schemas for name in _references(schema)]
    while wanted:
        name = wanted.pop().removeprefix("#/$defs/")
        if name.startswith("io.k8s.") and name not in found:
            found[name] = _bare(known[name])
            wanted += _references(found[name])
    return dict(sorted(found.items()))


def _references(schema: object) -> list[str]:
    if isinstance(schema, dict):
        here = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return here + [name for part in schema.values() for name in _references(part)]
    return [name for part in schema for name in _references(part)] if isinstance(schema, list) else []


def _bare(schema: Any) -> Any:
    """A property may itself be called `description`: that one is an object and stays."""
    if isinstance(schema, list):
        return [_bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _bare(part)
        for key, part in schema.items()
        if not (key == "description" and isinstance(part, str)) and not key.startswith("x-") and key != "format"
    }


def _with_pointers(schema: Any) -> Any:
    """`$ref: Model` as it stands in values.yaml, in JSON Schema's words."""
    if isinstance(schema, list):
        return [_with_pointers(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#/$defs/{part}" if key == "$ref" and isinstance(part, str) and part[0] != "#" else _with_pointers(part)
        for key, part in schema.items()
    }


if __name__ == "__main__":
    main()
