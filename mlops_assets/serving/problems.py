"""Refusals as the server words them: `application/problem+json` (RFC 9457). What is refused is decided elsewhere."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

PROBLEM_MEDIA_TYPE = "application/problem+json"


def problem_response(
    status: int,
    title: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    error_id: str | None = None,
) -> Response:
    """Make the answer to a request that is refused.

    Args:
        status: HTTP status, 400..599.
        title: what kind of problem it is, the same text every time.
        detail: the value, what was expected, what to do next; never an exception's text for a 500.
        errors: one `{"field": ..., "message": ...}` for each invalid field.
        headers: more headers, such as Retry-After.
        error_id: by which the log names the cause.
    """
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = [dict(error) for error in errors]
    if error_id is not None:
        body["error_id"] = error_id
    return Response(json.dumps(body), status_code=status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)
