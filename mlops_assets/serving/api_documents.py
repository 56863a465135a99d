"""The OpenAPI document: schemas from the request models, examples that work, the errors of every route."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.serving.approvals import VoteRequest
from mlops_assets.serving.problems import PROBLEM_MEDIA_TYPE
from mlops_assets.serving.requests import OutcomeRequest, request_models

APPROVAL_PATH = "/approvals/{model_name}/{version}"
_REF = "#/components/schemas/{model}"


class ModelReference(BaseModel):
    """The version that answered."""

    name: str
    version: str
    alias: str


class DecisionAnswer(BaseModel):
    """One decision."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str
    agent: str
    action: int
    action_name: str
    q_values: dict[str, float]
    confidence: float = Field(description="Softmax margin between the best and the second best action.")
    model: ModelReference
    experiment: str | None
    variant: str
    propensity: float = Field(description="Probability with which the served policy took this action.")
    explored: bool
    cached: bool
    status: str = Field(description="ok, or degraded: without online features.")
    fallback: str | None = Field(
        description="Why the champion answered a user of the treatment: its model failed, or is absent."
    )
    missing_features: list[str] = Field(description="Features that were missing or expired: defaults stood for them.")
    latency_ms: float
    timestamp: str


class BatchAnswer(BaseModel):
    """Decisions, in the order of the requests."""

    predictions: list[DecisionAnswer]
    count: int


class OutcomesAnswer(BaseModel):
    """How many outcomes are new, and how many had been told before."""

    accepted: int
    repeated: int


class ApprovalVoteAnswer(BaseModel):
    """One vote."""

    approver: str
    decision: str
    comment: str
    voted_at: str


class ApprovalAnswer(BaseModel):
    """An approval request, and who has said what to it."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    model_name: str
    version: str
    risk: str
    reasons: list[str]
    author: str
    required_approvers: list[str]
    min_approvals: int
    report_hash: str
    evidence_hash: str
    status: str = Field(description="open, approved, rejected, expired or superseded.")
    requested_at: str
    expires_at: str
    applied: bool = Field(description="The approved version has been given its place in the registry.")
    notified_by: list[str]
    votes: list[ApprovalVoteAnswer]
    awaited: list[str]
    approved_by: list[str]


class FieldError(BaseModel):
    """One field that cannot be taken."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None
    error_id: str | None = None


_POSTED: Mapping[str, tuple[type[BaseModel], tuple[int, ...]]] = {
    "/predict": (DecisionAnswer, (404, 413, 422, 429, 503)),
    "/predict/batch": (BatchAnswer, (404, 413, 422, 429, 503)),
    "/outcomes": (OutcomesAnswer, (404, 409, 413, 422, 429, 503)),
    # Here the token is needed also where the rest of the API asks for none.
    APPROVAL_PATH: (ApprovalAnswer, (401, 403, 404, 409, 413, 422, 429, 503)),
}
_READ: Mapping[str, tuple[int, ...]] = {
    "/predictions/{prediction_id}": (404, 429, 503),
    "/models": (429,),
    "/models/{model_name}/{version}/card": (404, 429, 503),
    "/monitoring/status": (422, 429, 503),
    "/experiments": (429, 503),
    "/experiments/{name}/status": (404, 429, 503),
    "/approvals": (422, 429, 503),
    APPROVAL_PATH: (404, 429, 503),
    "/livez": (),
    "/readyz": (503,),
    "/health": (429, 503),
    "/metrics": (429,),
}
_OPEN = {"/livez", "/readyz"}
_MEANINGS = {
    401: "No valid token",
    403: "Not the one who may decide",
    404: "Unknown name",
    409: "Something else is recorded already",
    413: "Request too large",
    422: "Invalid request; the fields are named",
    429: "Too many requests; Retry-After says when to come back",
    503: "Not available now; Retry-After says when to come back",
    500: "Server error; only an id, under which the log has the reason",
}


def example_request(spec: AgentSpec) -> dict[str, Any]:
    """A request that the server answers: every context field at a plausible value within its range."""
    context = {field.name: round(field.low + 0.25 * (field.high - field.low), 3) for field in spec.context}
    request: dict[str, Any] = {"agent": spec.name, "agent_id": f"{spec.name}-app-01", "user_id": "user-1"}
    if any(field.view == "test_execution_features" for field in spec.features):
        request["test_id"] = "checkout-total"
    if spec.text_dimensions:
        request["requirement_id"] = "REQ-1"
        request["requirement_text"] = "As a customer I want to pay by card so that I get my order."
    return {**request, "context": context}


def describe_api(app: FastAPI, *, authenticated: bool) -> None:
    """Give the app its OpenAPI document; `authenticated` adds the token."""
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(_document(app, authenticated=authenticated))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, *, authenticated: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description="Ask an agent for a decision, tell what came of it, and see why it was taken.",
        routes=app.routes,
    )
    models = request_models()
    answers: list[type[BaseModel]] = [answer for answer, _ in _POSTED.values()]
    used: list[type[BaseModel]] = [*models.values(), OutcomeRequest, VoteRequest, Problem, *answers]
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in used]
    _, definitions = models_json_schema(inputs, ref_template=_REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    refs = {name: {"$ref": _REF.format(model=model.__name__)} for name, model in models.items()}
    one = {
        "oneOf": list(refs.values()),
        "discriminator": {"propertyName": "agent", "mapping": {name: ref["$ref"] for name, ref in refs.items()}},
    }
    outcome = {"prediction_id": "0" * 32, "reward": 1.0, "done": True}
    bodies = {
        "/predict": (one, {name: {"value": example_request(AGENTS[name])} for name in models}),
        "/predict/batch": (
            _list_schema("requests", one),
            {"two": {"value": {"requests": [example_request(spec) for spec in list(AGENTS.values())[:2]]}}},
        ),
        "/outcomes": (
            _list_schema("outcomes", {"$ref": _REF.format(model="OutcomeRequest")}),
            {"one": {"value": {"outcomes": [outcome]}}},
        ),
        APPROVAL_PATH: (
            {"$ref": _REF.format(model="VoteRequest")},
            {"approve": {"value": {"decision": "approve", "comment": "read the report"}}},
        ),
    }
    for path, (answer, statuses) in _POSTED.items():
        operation = document["paths"][path]["post"]
        schema, examples = bodies[path]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": examples}},
        }
        ok = {"application/json": {"schema": {"$ref": _REF.format(model=answer.__name__)}}}
        operation["responses"] = {"200": {"description": "Answered", "content": ok}}
        _add_errors(operation, statuses, authenticated=authenticated)
    for path, statuses in _READ.items():
        operation = document["paths"][path]["get"]
        kept = operation["responses"]["200"]
        kept["content"] = _content_of(path)
        operation["responses"] = {"200": kept}
        _add_errors(operation, statuses, authenticated=authenticated and path not in _OPEN)
    if authenticated:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


def _content_of(path: str) -> dict[str, Any]:
    if path == "/metrics":
        return {"text/plain": {"schema": {"type": "string"}}}
    if path.endswith("/card"):
        return {"application/yaml": {"schema": {"type": "object"}}}
    return {"application/json": {"schema": {"type": "object"}}}


def _list_schema(name: str, items: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name],
        "properties": {name: {"type": "array", "minItems": 1, "items": items}},
    }


def _add_errors(operation: dict[str, Any], statuses: tuple[int, ...], *, authenticated: bool) -> None:
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    # /health is a document also when it is bad news.
    if operation["operationId"].startswith("health"):
        content["application/json"] = {"schema": {"type": "object"}}
    for status in (*statuses, *((401,) if authenticated else ()), 500):
        operation["responses"][str(status)] = {"description": _MEANINGS[status], "content": content}
    if authenticated:
        operation["security"] = [{"token": []}]
