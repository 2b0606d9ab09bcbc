"""How every setting is spelled and explained; it knows no pytest, so the command can read it too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Flag(NamedTuple):
    """One setting's names.

    Attributes:
        name: the field of `Settings`; command line and ini names derive from it.
        env: the environment variable.
        metavar: what the help shows as the value; empty for a switch, which is on or off.
        help: one line.
    """

    name: str
    env: str
    metavar: str
    help: str

    @property
    def option(self) -> str:
        """Return the command line's name."""
        return f"--lmstudio-{self.name.replace('_', '-')}"

    @property
    def negated(self) -> str:
        """Return the command line's name that turns a switch off."""
        return self.option.replace("--", "--no-", 1)

    @property
    def ini(self) -> str:
        """Return the ini file's name, which is also argparse's destination."""
        return f"lmstudio_{self.name}"


FLAGS: tuple[Flag, ...] = (
    Flag("url", "LMSTUDIO_URL", "URL", "Base URL of the server, or 'embedded' for a llama.cpp server of the run's own"),
    Flag("model", "LMSTUDIO_MODEL", "ID", "Model to ask; by default the one that is loaded"),
    Flag("timeout", "LLM_REQUEST_TIMEOUT_MS", "SECONDS", "Hard limit of one attempt, or 'auto'"),
    Flag(
        "first_token_timeout",
        "LLM_FIRST_TOKEN_TIMEOUT_MS",
        "SECONDS",
        "How long a stream may take to its first token, or 'off' (the default)",
    ),
    Flag(
        "inter_token_timeout",
        "LLM_INTER_TOKEN_TIMEOUT_MS",
        "SECONDS",
        "How long a stream may be silent after that, or 'off'",
    ),
    Flag("retries", "LLM_MAX_RETRIES", "N", "Retries after the first attempt"),
    Flag("backoff", "LLM_RETRY_BACKOFF_MS", "SECONDS", "Base of the exponential back-off"),
    Flag("retry_strategy", "LLM_RETRY_STRATEGY", "NAME", "'exponential', 'decorrelated', or a name known to a hook"),
    Flag(
        "concurrency",
        "EVAL_CONCURRENCY",
        "N",
        "Requests in flight at once, over all xdist workers",
    ),
    Flag(
        "latency_threshold",
        "LLM_LATENCY_THRESHOLD_MS",
        "SECONDS",
        "Mean latency that lowers the limit for a while, or 'off'",
    ),
    Flag(
        "breaker",
        "LLM_BREAKER",
        "N:SECONDS",
        "Network errors in a row that pause everything, and how long, or 'off'",
    ),
    Flag("cache", "LLM_CACHE", "MODE", "'readwrite', 'refresh', 'off' or 'offline'"),
    Flag("cache_size", "EVAL_CACHE_SIZE", "N", "Entries that the cache holds"),
    Flag("pipeline_version", "EVAL_PIPELINE_VERSION", "V", "Part of every cache key; change it when the evals change"),
    Flag("max_error_rate", "LLM_MAX_ERROR_RATE", "P", "Share of calls that may be lost, such as 5%% or 0.05"),
    Flag(
        "on_error",
        "LLM_ON_ERROR",
        "HOW",
        "'gate': lost calls count against the rate; 'fail': each fails its test",
    ),
    Flag("stream", "LLM_STREAM", "", "Let answers travel as event streams (the default)"),
    Flag("order", "LMSTUDIO_ORDER", "HOW", "'affinity': tests of one model run together; or 'as-written'"),
    Flag("recipe", "LLM_RECIPE", "NAME", "Preset: slow-model, fast-feedback, stress or noisy-network"),
    Flag("wait", "LMSTUDIO_WAIT", "SECONDS", "How long to wait for a server that is still starting"),
    Flag("dir", "LMSTUDIO_DIR", "PATH", "Folder of cache and runs; by default .lmstudio under rootdir"),
    Flag("report", "LMSTUDIO_REPORT", "PATH", "Where a further copy of report.json goes"),
    Flag("html", "LMSTUDIO_HTML", "PATH", "Where the report goes as one HTML page"),
    Flag("html_texts", "LMSTUDIO_HTML_TEXTS", "", "Put prompts and replies into the HTML page"),
    Flag("metrics_port", "LMSTUDIO_METRICS_PORT", "PORT", "Serve Prometheus metrics on 127.0.0.1 meanwhile"),
    Flag("metrics_file", "LMSTUDIO_METRICS_FILE", "PATH", "Where metrics go at the end, for the textfile collector"),
)

TOKEN_VARIABLES = ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN")


def is_header_safe(secret: str) -> bool:
    """Tell whether a secret can travel in an HTTP header."""
    return secret.isascii() and secret.isprintable()


def token_problem(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why a token in the environment cannot be sent, one line; None when all is well."""
    for name in TOKEN_VARIABLES:
        if not is_header_safe(environ.get(name, "").strip()):
            return f"{name} (environment): the token holds characters that no HTTP header can carry; set it again"
    return None


def token(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the API token, or None; it is read where it is used and kept out of `Settings`."""
    for name in TOKEN_VARIABLES:
        if environ.get(name, "").strip():
            return environ[name].strip()
    return None
