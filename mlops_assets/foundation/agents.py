"""The agent catalogue: what each agent sees, does and is paid for. A fourth agent is one more entry in `AGENTS`.

The state vector of a decision is `[context | requirement-text embedding | Feast features]`, in exactly the order
declared here; `features/vector.py` builds it for training, batch, stream and the server alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mlops_assets.foundation.errors import SettingsError


@dataclass(frozen=True)
class ContextField:
    """One number of the decision context, logged with the decision; `low`..`high` is its legal range, inclusive."""

    name: str
    description: str
    low: float = 0.0
    high: float = 1.0
    default: float = 0.0


@dataclass(frozen=True)
class FeatureField:
    """One feature of the state vector, read from a Feast view as of the decision; `default` when missing or expired."""

    view: str
    name: str
    default: float


@dataclass(frozen=True)
class AgentSpec:
    """Everything the project knows about one agent.

    `discount` is the DQN's gamma per decision. `reward_low`..`reward_high` bounds the reward of one decision.
    The first of `actions` is the idle one, which makes and runs no test.
    """

    name: str
    purpose: str
    episode: str
    reward: str
    reward_low: float
    reward_high: float
    discount: float
    actions: tuple[str, ...]
    context: tuple[ContextField, ...]
    text_dimensions: int
    features: tuple[FeatureField, ...]

    @property
    def registered_model(self) -> str:
        """Name in the model registry."""
        return f"{self.name}-agent-dqn"

    @property
    def experiment(self) -> str:
        """MLflow experiment, `{agent_name}-{purpose}`."""
        return f"{self.name}-agent-training"

    @property
    def idle_action(self) -> int:
        """Number of the action that makes and runs no test."""
        return 0

    @property
    def state_fields(self) -> tuple[str, ...]:
        """Names of the state vector's entries, in order; its length is the network's input size."""
        text = tuple(f"requirement_text_embedding_{i:02d}" for i in range(self.text_dimensions))
        return tuple(f.name for f in self.context) + text + tuple(f"{f.view}__{f.name}" for f in self.features)


_TEST_FEATURES = (
    FeatureField("test_execution_features", "execution_time_ms", 0.0),
    FeatureField("test_execution_features", "pass_rate_7d", 1.0),
    FeatureField("test_execution_features", "pass_rate_30d", 1.0),
    FeatureField("test_execution_features", "failure_count", 0.0),
    FeatureField("test_execution_features", "last_execution_status", 0.0),
    FeatureField("test_execution_features", "avg_retry_count", 0.0),
    FeatureField("test_execution_features", "flakiness_score", 0.0),
)
_AGENT_FEATURES = (
    FeatureField("agent_context_features", "recent_accuracy", 0.0),
    FeatureField("agent_context_features", "recent_reward", 0.0),
    FeatureField("agent_context_features", "tests_generated_24h", 0.0),
    FeatureField("agent_context_features", "success_rate_7d", 0.0),
    FeatureField("agent_context_features", "avg_confidence_score", 0.0),
)
_SHARED_CONTEXT = (
    ContextField(
        "ui_complexity_score", "Complexity of the page under test: interactive elements, depth, dynamic parts."
    ),
    ContextField("historical_test_coverage", "Share of the requirement or page that existing tests already cover."),
    ContextField(
        "previous_agent_confidence", "Confidence of the agent that handed over: softmax margin of its decision."
    ),
    ContextField("budget_left", "Share of the episode's budget that is left."),
    ContextField("steps_left", "Share of the episode's decisions that are still to come, this one included."),
)

_REQUIREMENTS = AgentSpec(
    name="requirements",
    purpose="Decides how deeply each requirement of a backlog is to be tested.",
    episode="One refinement session: the requirements of one web app, one after another, under an effort budget.",
    reward="Risk covered by the chosen depth, less what is covered already in that area, less the effort's cost.",
    reward_low=-50.0,
    reward_high=75.0,
    discount=0.99,
    actions=("skip", "smoke", "functional", "exhaustive"),
    context=(
        *_SHARED_CONTEXT,
        ContextField(
            "requirement_risk", "Business risk times change rate; the riskier, the deeper a test has to go to cover it."
        ),
        ContextField(
            "requirement_effort",
            "Effort of testing the requirement, as a share of the largest; takes budget and costs.",
        ),
        ContextField("area_is_forms", "1 when the requirement is about forms and input."),
        ContextField("area_is_navigation", "1 when the requirement is about navigation and search."),
        ContextField("area_is_data", "1 when the requirement is about data and state."),
        ContextField("coverage_forms", "Depth reached so far in this session for forms and input."),
        ContextField("coverage_navigation", "Depth reached so far in this session for navigation and search."),
        ContextField("coverage_data", "Depth reached so far in this session for data and state."),
    ),
    text_dimensions=16,
    features=_AGENT_FEATURES,
)

_GENERATION = AgentSpec(
    name="generation",
    purpose="Decides which kind of test is generated next for a page.",
    episode="One generation session: the pages of one web app, one after another, under a budget of model calls.",
    reward="New faults the generated test can reveal, less what earlier tests reveal already, less the call's cost.",
    reward_low=-25.0,
    reward_high=75.0,
    discount=0.99,
    actions=("reuse", "happy_path", "boundary", "negative", "accessibility"),
    context=(
        *_SHARED_CONTEXT,
        ContextField("form_density", "Share of the page's elements that take input."),
        ContextField("state_density", "Share of the page's elements that change with application state."),
        ContextField("assistive_density", "Share of the page's elements with accessibility semantics."),
        ContextField("fault_proneness", "Estimated chance that an unseen fault lies on the page."),
        ContextField("coverage_happy_path", "How far happy-path tests have saturated in this session."),
        ContextField("coverage_boundary", "How far boundary tests have saturated in this session."),
        ContextField("coverage_negative", "How far negative tests have saturated in this session."),
        ContextField("coverage_accessibility", "How far accessibility tests have saturated in this session."),
    ),
    text_dimensions=16,
    features=(*_TEST_FEATURES, *_AGENT_FEATURES),
)

_EXECUTION = AgentSpec(
    name="execution",
    purpose="Decides which tests of a CI cycle run, and how early.",
    episode="One CI cycle: its tests, one after another, under half of their total duration as time budget.",
    reward="Growth of 100 x NAPFD (or, simulated, of the faults found early) by giving the test its priority class.",
    reward_low=-100.0,
    reward_high=100.0,
    discount=1.0,
    actions=("skip", "low", "normal", "high"),
    context=(
        *_SHARED_CONTEXT,
        ContextField("failure_rate_recent", "Recency-weighted failure rate before the cycle (weight 0.5 per run)."),
        ContextField("failure_rate_total", "Failures over runs before the cycle, shrunk towards the prior."),
        ContextField("last_failed", "1 when the test failed in its last run before the cycle."),
        ContextField("last_four_failures", "Failures among the last four runs before the cycle, over four."),
        ContextField("runs_seen", "Runs before the cycle, n/(n+10)."),
        ContextField("recency", "Time since the last run, 1 - exp(-days/7); 1 for a test never run."),
        ContextField("duration_share", "Duration of the test over the longest of the cycle."),
        ContextField("flakiness", "Share of status changes between consecutive runs before the cycle."),
        ContextField("suite_failure_rate", "Recency-weighted failure rate of the test's suite before the cycle."),
        ContextField("queued_ahead", "Share of the budget already given to tests of class normal or high."),
        ContextField("suite_saturation", "Share of the suite's tests in this cycle already queued as normal or high."),
    ),
    text_dimensions=0,
    features=(*_TEST_FEATURES, *_AGENT_FEATURES),
)

AGENTS: Mapping[str, AgentSpec] = MappingProxyType(
    {spec.name: spec for spec in (_REQUIREMENTS, _GENERATION, _EXECUTION)}
)


def agent_spec(name: str) -> AgentSpec:
    """Look an agent up by name.

    Raises:
        SettingsError: the name is not in the catalogue.
    """
    try:
        return AGENTS[name]
    except KeyError:
        raise SettingsError(f"unknown agent {name!r}; known agents: {', '.join(AGENTS)}") from None
