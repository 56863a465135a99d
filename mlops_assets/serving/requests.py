"""What a client may ask, agent by agent: pydantic models made from the agent catalogue. Nothing is decided here.

JSON is validated strictly: no unknown field, no number in quotes, no NaN or infinity, no control character in an id.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from mlops_assets.experiences.identity import MAX_TEST_ID
from mlops_assets.foundation.agents import AGENTS, AgentSpec

_MAX_STEP = 1_000_000
_MAX_TEXT = 20_000
# PostgreSQL takes no NUL in a text, and an id with a line break breaks the log of whoever reads it.
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"


Name64 = Annotated[str, Field(min_length=1, max_length=64, pattern=_PRINTABLE)]
Name100 = Annotated[str, Field(min_length=1, max_length=100, pattern=_PRINTABLE)]
Name128 = Annotated[str, Field(min_length=1, max_length=128, pattern=_PRINTABLE)]
Name255 = Annotated[str, Field(min_length=1, max_length=255, pattern=_PRINTABLE)]
TestId = Annotated[str, Field(min_length=1, max_length=MAX_TEST_ID, pattern=_PRINTABLE)]


class DecisionRequest(BaseModel):
    """One decision that is asked for; `context` holds a number for every context field of the agent.

    `episode_id` and `step` say to which session or CI cycle the decision belongs, so that its outcome can be learnt from
    with those of the others: both or none, since steps order an episode; without them the decision is an episode of its
    own. `user_id` is what A/B tests split by.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    agent: str
    agent_id: Name255
    test_id: TestId = "unknown"
    requirement_id: Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""
    user_id: Name100 | None = None
    experiment: Name100 | None = None
    episode_id: Name128 | None = None
    step: Annotated[int, Field(ge=0, le=_MAX_STEP, description="From 0 within the episode; comes with it.")] = 0
    ui_framework: Name64 = "unknown"
    browser: Name64 = "unknown"
    test_type: Name64 = "unknown"
    context: Any

    @model_validator(mode="after")
    def _complete(self) -> "DecisionRequest":
        if self.step and self.episode_id is None:
            raise ValueError("step needs episode_id: without one, a decision is an episode of its own")
        if self.episode_id is not None and "step" not in self.model_fields_set:
            raise ValueError("episode_id needs step: give 0 to its first decision, 1 to the next")
        return self

    @property
    def text(self) -> str:
        """The requirement's text; "" for agents that read none."""
        # Not getattr: pydantic makes a slow and careful error of a field that is not there.
        return str(self.__dict__.get("requirement_text", ""))

    @property
    def context_values(self) -> list[float]:
        """The context's numbers in catalogue order."""
        return list(self.context.__dict__.values())


class OutcomeRequest(BaseModel):
    """What came of one decision: its reward in the agent's units, and, where it is known, what would have been best.

    `done` marks the last decision of its episode; a decision without an episode is always done.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prediction_id: Name64
    reward: float
    done: bool = True
    best_action: Annotated[int, Field(ge=0)] | None = None
    action_values: Annotated[list[float], Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _labelled(self) -> "OutcomeRequest":
        if (self.best_action is None) != (self.action_values is None):
            raise ValueError("best_action and action_values make a label together; give both or none")
        return self


@cache
def request_model(agent: str) -> type[DecisionRequest]:
    """Return the request model of one agent.

    Raises:
        SettingsError: no such agent.
    """
    spec = AGENTS[agent]
    return _build(spec)


def request_models() -> Mapping[str, type[DecisionRequest]]:
    """Return the request models of all agents, by name."""
    return {name: request_model(name) for name in AGENTS}


def _build(spec: AgentSpec) -> type[DecisionRequest]:
    title = spec.name.capitalize()
    numbers: dict[str, Any] = {
        field.name: (Annotated[float, Field(ge=field.low, le=field.high, description=field.description)], ...)
        for field in spec.context
    }
    context = create_model(
        f"{title}Context",
        __config__=ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False),
        __doc__=f"Decision context of the agent {spec.name}.",
        **numbers,
    )
    fields: dict[str, Any] = {"agent": (Literal[spec.name], ...), "context": (context, ...)}
    if spec.text_dimensions:
        text = Annotated[str, Field(max_length=_MAX_TEXT, pattern=r"^[^\x00]*$")]
        fields["requirement_text"] = (text, "")
    if any(field.view == "test_execution_features" for field in spec.features):
        fields["test_id"] = (TestId, ...)
    return create_model(f"{title}Request", __base__=DecisionRequest, __doc__=spec.purpose, **fields)
