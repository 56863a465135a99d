"""From the bytes of a request to what it asks, in one pass; what cannot be taken is said field by field."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.serving.boundary import ProblemError
from mlops_assets.serving.requests import DecisionRequest, OutcomeRequest, request_model

_OUTCOMES = TypeAdapter(list[OutcomeRequest])
# A sentence names so many wrong fields; the list of errors names all.
_NAMED = 5
Result = TypeVar("Result")


def parse_request(body: bytes, experiments: Mapping[str, Experiment], prefix: str = "") -> DecisionRequest:
    """Return one request for a decision; `prefix` stands before the names of its fields in errors.

    Raises:
        ProblemError: 422 with the fields, or 404 for an agent or an experiment that there is not.
    """
    document = _json(body)
    agent = document.get("agent") if isinstance(document, dict) else None
    if not isinstance(agent, str):
        message = f"name the agent: one of {', '.join(AGENTS)}"
        raise ProblemError(
            422,
            "Invalid request",
            f"{prefix}agent: {message}",
            errors=[{"field": f"{prefix}agent", "message": message}],
        )
    if agent not in AGENTS:
        raise ProblemError(404, "Unknown agent", f"there is no agent {agent!r}; known agents: {', '.join(AGENTS)}")
    asked = _validated(lambda: request_model(agent).model_validate_json(body), prefix)
    running = experiments.get(agent)
    if asked.experiment is not None and (running is None or asked.experiment != running.name):
        known = "it has none" if running is None else f"it has {running.name!r}"
        raise ProblemError(
            404, "Unknown experiment", f"agent {agent!r} has no experiment {asked.experiment!r}; {known}"
        )
    return asked


def parse_batch(body: bytes, experiments: Mapping[str, Experiment], most: int) -> list[DecisionRequest]:
    """Return the requests in `{"requests": [...]}`.

    Raises:
        ProblemError: as `parse_request`; or there is none, or more than `most`.
    """
    items = _list_in(body, "requests", most)
    return [parse_request(to_json(item), experiments, f"requests.{i}.") for i, item in enumerate(items)]


def parse_outcomes(body: bytes, most: int) -> list[OutcomeRequest]:
    """Return the outcomes in `{"outcomes": [...]}`.

    Raises:
        ProblemError: 422 with the fields; or there is none, or more than `most`.
    """
    items = to_json(_list_in(body, "outcomes", most))
    return _validated(lambda: _OUTCOMES.validate_json(items), "outcomes.")


def _json(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ProblemError(422, "Invalid request", f"the body is not JSON: {error}") from None


def _list_in(body: bytes, name: str, most: int) -> list[Any]:
    document = _json(body)
    items = document.get(name) if isinstance(document, dict) and document.keys() == {name} else None
    if not isinstance(items, list) or not 1 <= len(items) <= most:
        message = f"expected an object with one field, {name!r}: a list of 1 to {most} entries"
        raise ProblemError(422, "Invalid request", message, errors=[{"field": name, "message": message}])
    return items


def _validated(validate: Callable[[], Result], prefix: str) -> Result:
    try:
        return validate()
    except ValidationError as error:
        # Neither the input, which may hold anything, nor links to the library's site.
        found = error.errors(include_url=False, include_input=False, include_context=False)
        errors = [
            {
                "field": prefix + ".".join(map(str, one["loc"])) if one["loc"] else prefix.rstrip(".") or "body",
                "message": one["msg"],
            }
            for one in found
        ]
        detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:_NAMED])
        more = f"; and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
        raise ProblemError(422, "Invalid request", detail + more, errors=errors) from None
