#!/usr/bin/env bash
# Every documented call of the serving API, in the order of one decision's life.
#   DECISIONS_URL=http://127.0.0.1:8000 DECISIONS_TOKEN=mlops_... examples/curl.sh
set -euo pipefail

url=${DECISIONS_URL:-http://127.0.0.1:8000}
experiment=${DECISIONS_EXPERIMENT:-}

# The token goes by a file descriptor: an argument could be read in the process list.
call() {
    local method=$1 path=$2
    shift 2
    echo "# $method $path" >&2
    curl --silent --show-error --fail-with-body --max-time 30 --request "$method" \
        --config <(if [ -n "${DECISIONS_TOKEN:-}" ]; then echo "header = \"Authorization: Bearer $DECISIONS_TOKEN\""; fi) \
        --header 'Content-Type: application/json' "$@" "$url$path"
    echo
}

request='{
  "agent": "execution",
  "agent_id": "execution-shop",
  "test_id": "checkout › pays by card",
  "user_id": "u-17",
  "context": {
    "ui_complexity_score": 0.0,
    "historical_test_coverage": 0.0,
    "previous_agent_confidence": 0.0,
    "budget_left": 1.0,
    "steps_left": 1.0,
    "failure_rate_recent": 0.75,
    "failure_rate_total": 0.2,
    "last_failed": 1.0,
    "last_four_failures": 0.5,
    "runs_seen": 0.5,
    "recency": 0.1,
    "duration_share": 0.3,
    "flakiness": 0.2,
    "suite_failure_rate": 0.1,
    "queued_ahead": 0.0,
    "suite_saturation": 0.0
  }
}'

call GET /livez
call GET /readyz
call GET /health
call GET /models

decision=$(call POST /predict --data "$request")
echo "$decision"
prediction_id=$(sed -E 's/.*"prediction_id": ?"([^"]+)".*/\1/' <<<"$decision")

call POST /predict/batch --data "{\"requests\": [$request, $request]}"

# Sent twice: an outcome counts once. A 404 with Retry-After means that the decision's log row is still on its way.
outcome="{\"outcomes\": [{\"prediction_id\": \"$prediction_id\", \"reward\": 12.5, \"done\": true}]}"
call POST /outcomes --retry 5 --retry-all-errors --data "$outcome"
call POST /outcomes --data "$outcome"

call GET "/predictions/$prediction_id"
call GET "/monitoring/status?hours=24"
call GET /experiments
if [ -n "$experiment" ]; then
    call GET "/experiments/$experiment/status"
fi
call GET /metrics
