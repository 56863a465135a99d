"""One decision from question to explanation: predict, report the outcome, look at what the server knows of it.

    python examples/client.py

The server is $DECISIONS_URL (http://127.0.0.1:8000), its token $DECISIONS_TOKEN.
"""

import os
import sys

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.serving.client import DecisionClient, DecisionQuery, Outcome, ServingError


def main() -> int:
    """Ask, report, explain; 1 when the server refuses or does not answer."""
    url, token = os.environ.get("DECISIONS_URL", "http://127.0.0.1:8000"), os.environ.get("DECISIONS_TOKEN")
    spec = agent_spec("execution")
    # A runner sends what it measured; these are the catalogue's defaults, but for a test that failed lately.
    context = {field.name: field.default for field in spec.context} | {"failure_rate_recent": 0.75, "last_failed": 1.0}
    query = DecisionQuery(
        agent=spec.name, agent_id="execution-shop", context=context, test_id="checkout › pays by card", user_id="u-17"
    )
    try:
        with DecisionClient(url, token or None) as client:
            health = client.health()
            print(f"server: {health.status}, versions {health.current_model_versions}")
            decision = client.predict(query)
            print(f"decision {decision.prediction_id}: {decision.action_name} ({decision.confidence:.2f} sure)")
            print(f"  by {decision.model.name} {decision.model.version}, variant {decision.variant}, {decision.status}")
            receipt = client.post_outcomes([Outcome(prediction_id=decision.prediction_id, reward=12.5)])
            print(f"outcome: {receipt.accepted} accepted, {receipt.repeated} repeated")
            explanation = client.explain(decision.prediction_id)
            strongest = sorted(explanation.features.items(), key=lambda item: -abs(item[1]))[:3]
            print(f"it saw {len(explanation.features)} features, among them {dict(strongest)}")
            print(f"its outcome: {explanation.outcome.reward if explanation.outcome else None}")
    except ServingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
