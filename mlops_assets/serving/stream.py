"""Commands of the decision stream: `python -m mlops_assets.serving.stream consume | status | publish | dead-letters`.

The broker is the Redis of MLOPS_STREAM_URL, else of MLOPS_REDIS_URL. `consume` ends on SIGTERM or SIGINT with the batch
in hand. Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.errors import InputError, MlopsError, SettingsError, TransientError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.serving.decide import Decision
from mlops_assets.serving.models import ServedModels
from mlops_assets.serving.redis_stream import DeadLetter, RedisStream, connect
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.stream_consumer import ConsumerLimits, StreamConsumer
from mlops_assets.serving.stream_metrics import StreamMetrics

DONE, REFUSED = 0, 2
# Loading three models and Feast takes some seconds; what is not there by then is waited for message by message.
_START_SECONDS = 60.0


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(environ)
        return int(arguments.run(arguments, settings, RedisStream(connect(stream_url(settings)))))
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


def stream_url(settings: Settings) -> str:
    """Return the broker's address.

    Raises:
        SettingsError: there is none.
    """
    url = settings.stream_url or settings.redis_url
    if url is None:
        raise SettingsError("MLOPS_STREAM_URL: needed for streamed decisions; set it to redis://<host>:<port>/<db>")
    return url.get_secret_value()


def consumer_of(
    runtime: ServingRuntime, stream: RedisStream, *, name: str, metrics: StreamMetrics | None = None
) -> StreamConsumer:
    """Make a consumer out of the parts of a started server process; its decisions are counted as that process's."""

    def models() -> ServedModels:
        # Nothing is known, which is not the same as a registry without champions: no message is to blame.
        if not runtime.registry.models.by_alias and runtime.registry.problem is not None:
            raise TransientError(f"no model is known yet: {runtime.registry.problem}")
        return runtime.registry.models

    def experiments() -> Mapping[str, Experiment]:
        if runtime.database_poll.age_seconds is None:
            raise TransientError(f"no experiment is known yet: {runtime.database_poll.problem}")
        return runtime.experiments

    def decided(decision: Decision) -> None:
        runtime.account(decision, runtime.registry.models)

    metrics = metrics or StreamMetrics(runtime.metrics.registry, stream.lag)
    return StreamConsumer(
        stream,
        name=name,
        models=models,
        experiments=experiments,
        features=runtime.store.online_features,
        decider=runtime.decider,
        engine=runtime.engine,
        clock=runtime.clock,
        limits=ConsumerLimits.of(runtime.policy),
        count=metrics.count,
        on_decision=decided,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.serving.stream", description=__doc__)
    commands = parser.add_subparsers(required=True)
    consume = commands.add_parser("consume", help="decide requests until it is told to stop")
    consume.add_argument("--consumer", help="its name in the group; by default host and process id")
    consume.add_argument("--once", action="store_true", help="decide what is there and end")
    consume.add_argument("--metrics-port", type=int, help="show Prometheus metrics on this port; by default on none")
    consume.add_argument("--metrics-host", default="127.0.0.1", help="by default loopback only")
    consume.set_defaults(run=_consume)
    status = commands.add_parser("status", help="show what is not answered, as JSON")
    status.set_defaults(run=_status)
    publish = commands.add_parser(
        "publish", help="send the requests of a file, one JSON a line; sent again, each line is decided once"
    )
    publish.add_argument("file", type=Path)
    publish.add_argument(
        "--max-backlog", type=int, help="most unanswered requests; by default the profile's log_queue_rows"
    )
    publish.add_argument("--from-line", type=int, default=1, help="where to go on, as a refusal says; by default 1")
    publish.set_defaults(run=_publish)
    dead = commands.add_parser("dead-letters", help="show what was given up and why, one JSON a line")
    dead.add_argument("--replay", action="store_true", help="send all of them once more")
    dead.set_defaults(run=_dead_letters)
    return parser


def _consume(arguments: argparse.Namespace, settings: Settings, stream: RedisStream) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mlops_assets").setLevel(logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    runtime = ServingRuntime(settings)
    try:
        runtime.start()
        _wait_until_loaded(runtime, stop)
        consumer = consumer_of(runtime, stream, name=arguments.consumer or f"{socket.gethostname()}-{os.getpid()}")
        if arguments.metrics_port is not None:
            _show_metrics(runtime, arguments.metrics_host, arguments.metrics_port)
        if arguments.once:
            sys.stdout.write(f"{consumer.drain()} messages handled\n")
        else:
            consumer.run(stop)
    finally:
        runtime.stop()
    return DONE


def _wait_until_loaded(runtime: ServingRuntime, stop: threading.Event) -> None:
    runtime.registry.poll.wait_first(_START_SECONDS)
    runtime.database_poll.wait_first(_START_SECONDS)
    # Feast opens its stores at the first read: by one thread, not by two at once.
    while not runtime.features.warm and runtime.uptime_seconds < _START_SECONDS and not stop.wait(0.05):
        pass


def _show_metrics(runtime: ServingRuntime, host: str, port: int) -> None:
    from prometheus_client import start_http_server

    try:
        start_http_server(port, addr=host, registry=runtime.metrics.registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be shown on {host}:{port} ({error.strerror}); choose another port"
        ) from error


def _status(_arguments: argparse.Namespace, _settings: Settings, stream: RedisStream) -> int:
    lag = stream.lag()
    shown = {
        "lag_messages": lag.waiting,
        "pending_messages": lag.pending,
        "oldest_age_seconds": round(lag.oldest_age_seconds, 3),
        "dead_letters": lag.dead_letters,
    }
    sys.stdout.write(f"{json.dumps(shown)}\n")
    return DONE


def _publish(arguments: argparse.Namespace, settings: Settings, stream: RedisStream) -> int:
    path: Path = arguments.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    limit = arguments.max_backlog or load_profile(settings.policy_profile).serving.log_queue_rows
    # The file's content names it: sent again after a refusal, what was sent before is not decided again.
    prefix = hashlib.sha256(content).hexdigest()[:16]
    every, first = content.splitlines(), arguments.from_line
    if not 1 <= first <= max(len(every), 1):
        raise InputError(f"--from-line {first} is not within 1..{len(every)}, the lines of {path}")
    lines = [(number, line) for number, line in enumerate(every, start=1) if number >= first and line.strip()]
    for sent, (number, line) in enumerate(lines):
        try:
            stream.publish(line, message_id=f"{prefix}:{number}", max_backlog=limit)
        except TransientError as error:
            raise type(error)(
                f"{sent} of {len(lines)} requests sent: {error}; then go on with --from-line {number}"
            ) from error
    sys.stdout.write(f"{len(lines)} requests sent\n")
    return DONE


def _dead_letters(arguments: argparse.Namespace, _settings: Settings, stream: RedisStream) -> int:
    replayed = 0
    for letter in stream.dead_letters():
        if arguments.replay:
            replayed += stream.replay(letter) is not None
        else:
            sys.stdout.write(f"{json.dumps(_shown(letter))}\n")
    if arguments.replay:
        sys.stdout.write(f"{replayed} messages sent once more\n")
    return DONE


def _shown(letter: DeadLetter) -> dict[str, Any]:
    fields = {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in letter.fields.items()
    }
    return {
        "id": letter.id,
        "origin": letter.origin,
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "fields": fields,
    }


if __name__ == "__main__":
    sys.exit(main())
