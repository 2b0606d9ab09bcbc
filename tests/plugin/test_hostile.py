"""Nothing that a server says drives a terminal, a browser, a CI system or a parser."""

from __future__ import annotations

import html.parser
import io
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from tests.standin import (
    Model,
    auth_401,
    error_object,
    error_string,
    reply,
    status,
    stream_error,
    tool_call,
    wrong_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugin.suite import Ran, Suite
    from tests.standin import Received, Step

HOSTILE = [
    "\x1b[2J\x1b[31mred\x1b[0m",
    "\x1b]8;;http://127.0.0.1/evil\x07click\x1b]8;;\x07",
    "\x1b]52;c;ZXZpbA==\x07\x1bP+q\x1b\\",
    "\x9b31m\x9d52;c;ZXZpbA==\x9c\x90",
    "\u202egnp.exe\u202c\u2066\u2069\u200e\u200b\u2060\ufeff\u3164",
    "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&amp;",
    "</title></style></pre>--><svg/onload=alert(1)>",
    "]]></system-out></testcase><failure/>&#0;&#xFFFE;",
    "::error::pwned",
    "x\n::set-output name=a::pwned",
    "x\r\n  ::stop-commands::pwned\r::add-mask::pwned",
    "x\u2028::error::pwned\x0b::error::pwned\x0c::error::pwned\x85::error::pwned",
    "w" * 130 + "::error::pwned" + " ::error::pwned" * 20,
    "##[error]pwned ##[add-mask]pwned",
    "x##vso[task.setvariable variable=a]pwned##teamcity[buildStatus text='pwned']",
    "nul\x00 bell\x07 back\x08\x08 del\x7f",
    "\ud800 lone \udcff\udfff \uffff\ufffe",
    "%s %n {0} {x!r} $(touch pwned) `touch pwned` ../../pwned",
]
#: The suite itself holds nothing hostile: pytest shows its lines as they are.
SUITE = """
    import pytest
    N, HOW = {n}, {how}
    @pytest.mark.parametrize("n", range(N))
    @pytest.mark.parametrize("how", HOW)
    def test_it(lm, how, n):
        lm(f"{{how}} {{n}}", retries=1)
        pytest.fail("so that its section is shown", pytrace=False)
    @pytest.mark.parametrize("n", range(N))
    def test_json(lm, n):
        lm.json(f"reply {{n}}", {{"type": "object"}})
    @pytest.mark.parametrize("n", range(N))
    def test_schema(lm, n):
        lm.json(f"json {{n}}", {{"type": "object", "additionalProperties": {{"type": "integer"}}}})
    @pytest.mark.parametrize("n", range(N))
    def test_models(lm, n):
        lm(f"reply {{n}}", model=f"unknown {{n}}")
"""


def steps(text: str) -> dict[str, Step]:
    """Return every place where a server can put a text."""
    return {
        "reply": reply(text),
        "reasoning": reply("fine", reasoning=text),
        "tools": reply("", tool_calls=[tool_call(text, text, id=text)]),
        "finish": reply("fine", finish_reason=text),
        "usage": reply("fine", usage={text: text, "prompt_tokens": text, "completion_tokens": text}),
        "json": reply(json.dumps({text: text})),
        "other": wrong_model(text),
        "bad": error_string(400, text),
        "object": error_object(400, text, type=text, param=text, code_=text),
        "page": status(502, f"<h1>{text}</h1>".encode("utf-8", "replace")),
        "auth": auth_401(text),
        "lost": error_string(500, text),
        "memory": error_string(400, f"Insufficient system resources: {text}"),
        "stream": stream_error(text, after_tokens=1),
    }


def asks(prompt: str) -> Callable[[Received], bool]:
    return lambda received: received.text == prompt


def prepare(suite: Suite) -> None:
    for n, text in enumerate(HOSTILE):
        for how, step in steps(text).items():
            suite.server.when(asks(f"{how} {n}"), step)
    suite.server.models[:] = [Model("test-model"), *(Model(text, loaded=False) for text in HOSTILE)]
    suite.write(SUITE.format(n=len(HOSTILE), how=[how for how in steps("") if how != "json"]))


EVERYTHING = (
    "-vv", "-rA", "--junitxml=junit.xml", "--lmstudio-report=copy.json", "--lmstudio-html=page.html",
    "--lmstudio-breaker=off", "--lmstudio-backoff=0", "--durations=3", "--lmstudio-model=test-model",
)  # fmt: skip


@pytest.fixture(params=[("-n0", "--lmstudio-stream"), ("-n2", "--no-lmstudio-stream")], ids=["stream", "workers"])
def ran(request: pytest.FixtureRequest, suite: Suite) -> Ran:
    prepare(suite)
    return suite.run_apart(*EVERYTHING, *request.param)


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file that a run left behind, those inside archives too."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.name, (data := path.read_bytes())
        if path.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


class Page(html.parser.HTMLParser):
    """The tags of a page, and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]")
COMMAND = re.compile(r"^\s*::[A-Za-z]|##(?:vso|teamcity)?\[", re.IGNORECASE | re.MULTILINE)


def test_hostile_answers_stay_text_in_all_that_a_run_shows_and_writes(ran: Ran, suite: Suite) -> None:
    tests = len(HOSTILE) * (len(steps("")) - 1 + 3)
    assert ran.ret == 1
    assert sum(ran.outcomes.values()) == tests
    assert ran.report["calls"]["sent"] + ran.report["calls"]["cached"] == tests
    check_output((suite.pytester.path / "stdout").read_bytes())
    check_output((suite.pytester.path / "stderr").read_bytes())
    check_files(suite.pytester.path)
    check_page((suite.pytester.path / "page.html").read_bytes())
    check_junit(suite.pytester.path / "junit.xml", tests)


def check_output(data: bytes) -> None:
    text = data.decode("utf-8")
    assert UNSAFE.findall(text.replace("\r\n", "\n")) == []
    assert [line for line in text.splitlines() if COMMAND.search(line)] == []
    assert "INTERNALERROR" not in text


def check_files(folder: Path) -> None:
    seen = set()
    for name, data in written(folder):
        seen.add(name)
        assert re.fullmatch(r"[\w.@-]+(?:/[\w.@-]+)*", name), name
        if name.endswith(".jsonl"):
            for line in data.decode("utf-8").splitlines():
                strict_json(line)
        elif name.endswith(".json"):
            strict_json(data.decode("utf-8"))
            assert not re.search("[\ud800-\udfff]", data.decode("utf-8"))
        if name.endswith((".jsonl", ".json", ".txt", ".xml", ".html")):
            assert UNSAFE.findall(data.decode("utf-8").replace("\r\n", "\n")) == [], name
    assert seen >= {"events.jsonl", "report.json", "copy.json", "failures.jsonl", "page.html", "junit.xml", "cache.db"}
    assert "pwned" not in seen


def strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def check_page(data: bytes, shown: bytes = b"alert(1)") -> None:
    page = Page()
    page.feed(data.decode("utf-8"))
    page.close()
    assert page.tags.isdisjoint({"script", "img", "svg/onload=alert(1)", "iframe", "object", "link", "base", "form"})
    assert [name for name in page.attributes if name.startswith("on") or name in {"src", "srcdoc", "action"}] == []
    assert shown in data


def check_junit(path: Path, tests: int) -> None:
    root = ET.parse(path).getroot()  # noqa: S314  # pytest wrote it
    assert len(list(root.iter("testcase"))) == tests
    reasons = [skip.get("message", "") for skip in root.iter("skipped")]
    assert reasons
    assert all(reason.startswith("lm-error: [") for reason in reasons)


def test_a_hostile_test_id_and_prompt_stay_text_in_what_is_ours(suite: Suite) -> None:
    suite.server.default = error_string(500, "lost")
    suite.write(f"""
        import pytest
        HOSTILE = {HOSTILE!r}
        @pytest.mark.parametrize("text", HOSTILE, ids=HOSTILE)
        def test_it(lm, text):
            lm(text, retries=0)
    """)
    ran = suite.run_apart("-n0", "--lmstudio-breaker=off", "--lmstudio-html=page.html")
    assert ran.outcomes == {"lm_error": len(HOSTILE)}
    assert sum(line.startswith("lost   ") for line in ran.section) == 10
    check_output("\n".join(ran.section).encode())
    for name in ("events.jsonl", "report.json"):
        assert UNSAFE.findall((ran.folder / name).read_text("utf-8")) == []
    check_page((suite.pytester.path / "page.html").read_bytes(), shown=b"onerror=alert(1)")


def test_hostile_names_of_models_stay_text(suite: Suite) -> None:
    suite.server.models[:] = [Model(text) for text in HOSTILE]
    suite.write("""
        import pytest
        def test_lists(lm):
            assert len(lm.models()) == 18
            lm("which?")
        @pytest.mark.parametrize("n", range(18))
        def test_asks(lm, n):
            lm("hi", model=lm.models()[n].id)
            pytest.fail("so that its section is shown", pytrace=False)
    """)
    ran = suite.run_apart("-n0", "-rA", "--lmstudio-html=page.html")
    assert ran.ret == 1
    assert "several llm models are loaded, and none is named; loaded: " in ran.out
    check_output((suite.pytester.path / "stdout").read_bytes())
    for name in ("events.jsonl", "report.json"):
        assert UNSAFE.findall((ran.folder / name).read_text("utf-8")) == []
    check_page((suite.pytester.path / "page.html").read_bytes(), shown=b"onerror=alert(1)")
