"""Declared cases: one test a case, asked ahead of its turn, under the one limit."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.plugin import inner
from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers, endless_stream, reply, status, unexpected_endpoint

if TYPE_CHECKING:
    from tests.plugin.suite import Suite

EVERYWHERE = pytest.mark.parametrize("args", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])
SUITE = """
    import pytest
    @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.", id="word")
    def test_it(reply, case): assert case["word"] in reply
"""


def write(suite: Suite, words: list[str], source: str = SUITE, **more: Any) -> None:
    """Write a suite of one case a word."""
    lines = [json.dumps({"word": word, **more}) for word in words]
    (suite.pytester.path / "cases.jsonl").write_text("\n".join(lines), encoding="utf-8")
    suite.write(source)


@EVERYWHERE
def test_each_case_is_a_test_with_its_own_call(suite: Suite, args: tuple[str, ...]) -> None:
    write(suite, ["one", "two", "three"])
    ran = suite.run("-v", *args)
    assert ran.words == {f"test_it[{word}]": {"PASSED"} for word in ("one", "two", "three")}
    assert sorted(request.text for request in suite.server.requests) == ["Say one.", "Say three.", "Say two."]
    assert ran.report["calls"] | {"total": 3, "sent": 3, "ok": 3} == ran.report["calls"]
    assert {event["nodeid"] for event in ran.named("gen_request")} == {
        f"test_suite.py::test_it[{word}]" for word in ("one", "two", "three")
    }


@EVERYWHERE
def test_an_error_belongs_to_the_test_of_its_case(suite: Suite, args: tuple[str, ...]) -> None:
    suite.server.when(lambda request: "two" in request.text, close_before_headers())
    write(suite, ["one", "two", "three"], SUITE.replace("in reply", 'in reply and case["word"] != "three"'))
    ran = suite.run("-v", "--lmstudio-retries=0", *args)
    assert ran.words == {"test_it[one]": {"PASSED"}, "test_it[two]": {"LM-ERROR"}, "test_it[three]": {"FAILED"}}
    assert "user: Say three." in ran.out
    assert ran.report["calls"] | {"total": 3, "sent": 3, "failed": 1} == ran.report["calls"]


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_holds_and_every_answer_comes_in_order(suite: Suite, limit: int) -> None:
    suite.server.default = reply("x", delay_s=0.02)
    words = [f"w{n:02d}" for n in range(20)]
    write(suite, words, SUITE.replace('assert case["word"] in reply', 'assert str(reply) == "x"'))
    ran = suite.run("-n0", f"--lmstudio-concurrency={limit}")
    assert ran.summary == "20 passed"
    assert suite.server.peak_in_flight == limit
    asked = [request.text for request in suite.server.requests]
    expected = [f"Say {word}." for word in words]
    assert all(abs(asked.index(text) - place) < limit for place, text in enumerate(expected))
    assert ran.report["calls"] | {"total": 20, "sent": 20, "ok": 20} == ran.report["calls"]


def test_the_next_call_is_sent_before_the_answer_is_stored(suite: Suite) -> None:
    suite.pytester.makeconftest("""
        import asyncio, pathlib
        from pytest_lmstudio.engine.keeper import Keeper
        store = Keeper.store
        def sent():
            return sum(log.read_text("utf-8").count('"gen_request"') for log in pathlib.Path().rglob("events.jsonl"))
        async def late(keeper, key, entry):
            for _ in range(500):
                if sent() > 1: return await store(keeper, key, entry)
                await asyncio.sleep(0.01)
        Keeper.store = lambda *args, **_: asyncio.ensure_future(late(*args))
    """)
    write(suite, ["one", "two"])
    ran = suite.run_apart("-n0", "--lmstudio-concurrency=1")
    assert ran.summary == "2 passed", ran.out
    assert suite.server.peak_in_flight == 1
    assert ran.report["cache"]["stores"] == 2


def test_after_x_only_what_was_in_flight_is_abandoned(suite: Suite) -> None:
    suite.server.when(lambda request: "first" not in request.text, endless_stream())
    write(suite, ["first", *(f"w{n}" for n in range(20))], SUITE.replace("in reply", 'in "nothing"'))
    ran = suite.run("-n0", "-x", "--lmstudio-concurrency=3")
    assert ran.summary == "1 failed"
    suite.server.wait_for(lambda: suite.server.in_flight == 0)
    assert len(suite.server.requests) <= 4
    calls = ran.report["calls"]
    assert calls | {"sent": 1, "ok": 1, "failed": 0} == calls
    assert calls["abandoned"] == calls["total"] - 1 == len(suite.server.requests) - 1
    assert ran.report["gate"]["failed"] is False


def test_an_answer_that_came_for_a_test_that_never_ran_is_in_no_rate(suite: Suite) -> None:
    suite.server.when(lambda request: "w0" in request.text, reply("late", delay_s=0.5))
    write(suite, [f"w{n}" for n in range(4)], SUITE.replace("in reply", 'in "nothing"'))
    ran = suite.run("-n0", "-x", "--lmstudio-model=test-model")
    assert ran.summary == "1 failed"
    assert len(suite.server.requests) == 4
    assert ran.report["calls"] | {"total": 4, "sent": 1, "ok": 1, "abandoned": 3} == ran.report["calls"]
    assert ran.report["attempts"]["total"] == 1


@pytest.mark.parametrize(
    ("mark", "summary"),
    [
        ("pytest.mark.skip", "1 passed, 3 skipped"),
        ("pytest.mark.skipif(True, reason='no')", "1 passed, 3 skipped"),
        ("pytest.mark.skipif('True', reason='no')", "1 passed, 3 skipped"),
        ("pytest.mark.xfail(run=False)", "1 passed, 3 xfailed"),
    ],
)
def test_what_marks_skip_is_never_asked(suite: Suite, mark: str, summary: str) -> None:
    source = f"""
        import pytest
        @pytest.mark.llm_cases([{{"word": "a"}}], prompt="Say {{word}}.")
        def test_it(reply): pass
        @{mark}
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {{word}}.")
        def test_skipped(reply): pass
    """
    write(suite, ["one", "two", "three"], source)
    ran = suite.run("-n0")
    assert ran.summary == summary
    assert [request.text for request in suite.server.requests] == ["Say a."]


@EVERYWHERE
def test_deselected_cases_are_never_asked(suite: Suite, args: tuple[str, ...]) -> None:
    write(suite, [f"w{n}" for n in range(8)])
    ran = suite.run("-k", "w2 or w5", *args)
    assert ran.summary == "2 passed, 6 deselected" if args != WORKERS else ran.summary == "2 passed"
    assert sorted(request.text for request in suite.server.requests) == ["Say w2.", "Say w5."]


def test_cases_are_answered_from_the_cache(suite: Suite) -> None:
    write(suite, ["one", "two"])
    assert suite.run("-n0").summary == "2 passed"
    ran = suite.run("-n0", "--lmstudio-cache=offline")
    assert ran.summary == "2 passed"
    assert ran.report["calls"] | {"total": 2, "cached": 2, "sent": 0} == ran.report["calls"]
    assert len(suite.server.requests) == 2


def test_answers_that_nothing_has_to_be_sent_for_are_looked_up_many_at_once(suite: Suite) -> None:
    write(suite, [f"w{n:02d}" for n in range(100)])
    assert suite.run("-n0").summary == "100 passed"
    suite.pytester.makeconftest("""
        import pathlib
        from pytest_lmstudio.engine.cache import AnswerCache

        looks, get_all = [], AnswerCache.get_all

        def counted(cache, keys, **more):
            looks.append(len(keys))
            return get_all(cache, keys, **more)

        AnswerCache.get_all = counted

        def pytest_unconfigure():
            pathlib.Path("looks").write_text(" ".join(map(str, looks)))
    """)
    assert suite.run("-n0", "--lmstudio-concurrency=1").summary == "100 passed"
    looks = [int(look) for look in (suite.pytester.path / "looks").read_text("utf-8").split()]
    assert sum(looks) == 100
    assert looks[0] == 1  # as long as something may have to be sent
    assert len(looks) <= 12


def test_a_case_that_is_not_in_the_cache_is_told_offline(suite: Suite) -> None:
    write(suite, ["one"])
    ran = suite.run("-n0", "--lmstudio-cache=offline", "--lmstudio-model=test-model")
    assert ran.summary == "1 failed"
    assert "[cache_miss]" in ran.out


def test_a_call_of_a_running_test_comes_before_the_cases_that_wait(suite: Suite) -> None:
    suite.server.default = reply("x", delay_s=0.05)
    write(
        suite,
        [f"w{n:02d}" for n in range(12)],
        """
        import pytest
        def test_own(lm): assert str(lm("own")) == "x"
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.")
        def test_it(reply): assert str(reply) == "x"
        """,
    )
    ran = suite.run("-n0", "--lmstudio-concurrency=2", "--lmstudio-model=test-model")
    assert ran.summary == "13 passed"
    assert [request.text for request in suite.server.requests].index("own") <= 2


def test_a_schema_that_is_broken_fails_its_test(suite: Suite) -> None:
    suite.server.when(lambda request: "good" in request.text, reply('{"a": 1}'))
    suite.server.when(lambda request: "bad" in request.text, reply('{"a": "x"}'))
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    write(
        suite,
        ["good", "bad"],
        f"""
        import pytest
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {{word}}.", id="word", schema={schema})
        def test_it(reply): assert reply.parsed == {{"a": 1}}
        """,
    )
    ran = suite.run("-n0", "-v")
    assert ran.words == {"test_it[good]": {"PASSED"}, "test_it[bad]": {"FAILED"}}


def test_marks_parameters_and_fields_make_the_request(suite: Suite) -> None:
    write(
        suite,
        ["one"],
        """
        import pytest
        @pytest.mark.llm(temperature=0.5, timeout=7)
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.", system="Be {style}.", max_tokens=9)
        def test_it(reply, case): assert case == {"word": "one", "style": "brief", "params": {"seed": 4}}
        """,
        style="brief",
        params={"seed": 4},
    )
    ran = suite.run("-n0")
    assert ran.summary == "1 passed"
    body = suite.server.requests[0].body
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say one."}]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (9, 0.5, 4)
    assert ran.named("gen_request")[0]["timeout_ms"] == 7000


@EVERYWHERE
@pytest.mark.parametrize(
    ("text", "source", "problem"),
    [
        ("", SUITE, "cases.jsonl holds no case"),
        ('{"word": "a"}\nno\n', SUITE, "cases.jsonl, line 2: it is no JSON (Expecting value)"),
        ('{"a": "b"}', SUITE, "cases.jsonl, line 1: the field 'word' is missing; it has: a"),
        (
            '{"word": "b"}',
            SUITE.replace("reply, case", "lm").replace('case["word"] in reply', "lm"),
            "the test takes neither `reply` nor `case`; name one of them as its argument",
        ),
    ],
    ids=["empty", "bad line", "missing field", "no fixture"],
)
def test_wrong_cases_are_one_line_and_wrong_use(
    suite: Suite, args: tuple[str, ...], text: str, source: str, problem: str
) -> None:
    (suite.pytester.path / "cases.jsonl").write_text(text)
    suite.write(source)
    ran = suite.run(*args)
    assert ran.ret == 4
    assert ran.err.strip() == f"ERROR: test_suite.py::test_it: @pytest.mark.llm_cases: {problem}"
    assert suite.server.all_requests == []


@pytest.mark.parametrize("name", ["reply", "case"])
def test_without_the_mark_the_fixtures_say_what_is_missing(suite: Suite, name: str) -> None:
    suite.write(f"def test_it({name}): pass")
    ran = suite.run("-n0")
    assert ran.summary == "1 error"
    assert "need cases: mark the test with @pytest.mark.llm_cases('cases.jsonl', prompt='...')" in ran.out


@pytest.mark.parametrize("name", ["reply", "case"])
def test_nor_do_they_need_a_server_to_say_so(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(f"def test_it(request): request.getfixturevalue('{name}')")
    ran = inner.run(pytester, "-n0")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*need cases: mark the test with @pytest.mark.llm_cases('cases.jsonl', prompt='...')*"])
    assert not (pytester.path / ".lmstudio").exists()


@EVERYWHERE
def test_cases_alone_ask_nothing(suite: Suite, args: tuple[str, ...]) -> None:
    """The model may be asked by the test itself, or not at all."""
    write(suite, ["one", "two"], """
        import pytest
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.", id="word")
        def test_it(case): assert case == {"word": "one"}
    """)  # fmt: skip
    ran = suite.run("-v", *args)
    assert ran.words == {"test_it[one]": {"PASSED"}, "test_it[two]": {"FAILED"}}
    assert suite.server.requests == []


def test_tests_that_failed_are_run_again_alone(suite: Suite) -> None:
    write(suite, ["one", "two", "three"], SUITE.replace("in reply", 'in reply and case["word"] != "two"'))
    cached = ("-p", "cacheprovider", "-n0")
    assert suite.run(*cached).summary == "1 failed, 2 passed"
    ran = suite.run(*cached, "--lf", "--lmstudio-cache=off")
    assert ran.summary == "1 failed"
    assert [request.text for request in suite.server.requests][3:] == ["Say two."]


def test_what_failed_is_run_first(suite: Suite) -> None:
    write(suite, ["one", "two", "three"], SUITE.replace("in reply", 'in reply and case["word"] != "three"'))
    cached = ("-p", "cacheprovider", "-n0", "-v")
    assert suite.run(*cached).summary == "1 failed, 2 passed"
    ran = suite.run(*cached, "--ff", "--lmstudio-cache=off")
    assert list(ran.words) == ["test_it[three]", "test_it[one]", "test_it[two]"]
    assert [request.text for request in suite.server.requests][3] == "Say three."


def test_stepwise_goes_on_where_it_stopped(suite: Suite) -> None:
    write(suite, ["one", "two", "three"], SUITE.replace("in reply", 'in reply and case["word"] != "two"'))
    stepwise = ("-p", "cacheprovider", "-n0", "--stepwise")
    assert suite.run(*stepwise).summary == "1 failed, 1 passed"
    ran = suite.run(*stepwise, "--lmstudio-cache=off")
    assert ran.summary == "1 failed, 1 deselected"
    assert "Say one." not in [request.text for request in suite.server.requests][3:]


def test_a_rerun_asks_again_and_the_test_counts_once(suite: Suite) -> None:
    suite.server.script(reply("two"), reply("no"), reply("two"))
    write(suite, ["one", "two"], SUITE.replace('case["word"]', '"two"'))
    ran = suite.run(
        "-n0", "-p", "pytest_rerunfailures", "--reruns=2", "--lmstudio-cache=off", "--lmstudio-concurrency=1", "-v"
    )
    assert ran.words["test_it[two]"] == {"RERUN", "PASSED"}
    assert ran.outcomes == {"passed": 2}
    assert ran.report["calls"] | {"total": 3, "sent": 3, "ok": 3, "abandoned": 0} == ran.report["calls"]


def test_a_rerun_of_a_lost_case_asks_again(suite: Suite) -> None:
    suite.server.script(reply("two"), status(500, "no"), reply("two"))
    write(suite, ["one", "two"], SUITE.replace('case["word"]', '"two"'))
    ran = suite.run(
        *("-n0", "-p", "pytest_rerunfailures", "--reruns=2", "--lmstudio-concurrency=1"),
        *("--lmstudio-retries=0", "--lmstudio-on-error=fail", "-v"),
    )
    assert ran.words["test_it[two]"] == {"RERUN", "PASSED"}
    assert ran.report["calls"] | {"total": 3, "sent": 3, "ok": 2, "failed": 1} == ran.report["calls"]


@pytest.mark.parametrize("order", ["above", "below"])
def test_repeats_by_parameters_ask_once_for_each_case_and_share_the_answer(suite: Suite, order: str) -> None:
    mark, repeat = 'pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.")', 'pytest.mark.parametrize("n", [1, 2])'
    first, second = (mark, repeat) if order == "above" else (repeat, mark)
    write(
        suite,
        ["one", "two"],
        f"""
        import pytest
        @{first}
        @{second}
        def test_it(reply, case, n): assert case["word"] in reply
        """,
    )
    ran = suite.run("-n0")
    assert ran.summary == "4 passed"
    assert sorted(request.text for request in suite.server.requests) == ["Say one.", "Say two."]
    calls = ran.report["calls"]
    assert calls["total"] == 4
    assert calls["sent"] == 2
    assert calls["cached"] + calls["coalesced"] == 2


@pytest.mark.parametrize(("dist", "times"), [("loadscope", 1), ("worksteal", 1), ("loadfile", 1), ("each", 2)])
def test_every_way_to_deal_tests_asks_each_case_once(suite: Suite, dist: str, times: int) -> None:
    words = [f"w{n}" for n in range(6)]
    write(suite, words)
    ran = suite.run("-n2", f"--dist={dist}")
    assert ran.ret == 0, ran.out
    calls = ran.report["calls"]
    assert calls["ok"] + calls["cached"] + calls["coalesced"] == 6 * times
    assert calls["failed"] == 0
    assert sorted({request.text for request in suite.server.requests}) == [f"Say {word}." for word in words]


def test_a_case_is_named_by_its_whole_id(suite: Suite) -> None:
    write(suite, ["one", "two", "three"])
    assert suite.run("-n0", "test_suite.py::test_it[two]").summary == "1 passed"
    assert [request.text for request in suite.server.requests] == ["Say two."]


def test_collecting_alone_asks_nothing(suite: Suite) -> None:
    write(suite, ["one", "two"])
    ran = suite.run("--collect-only", "-q")
    assert "test_suite.py::test_it[one]" in ran.out
    assert suite.server.all_requests == []


HINT = "declared cases need no xdist workers"


@EVERYWHERE
def test_workers_that_nothing_but_declared_cases_used_are_pointed_out(suite: Suite, args: tuple[str, ...]) -> None:
    write(suite, ["one", "two", "three", "four"])
    ran = suite.run(*args)
    rows = {row["symptom"]: row for row in ran.report["diagnosis"]}
    assert (HINT in rows) is (args == WORKERS)
    if args == WORKERS:
        assert rows[HINT]["evidence"].startswith("4 cases in 2 workers took ")
        assert any("run them with -n0" in line for line in ran.section)
    assert [event.get("declared") for event in ran.named("test_end")] == [True] * 4


@pytest.mark.parametrize(
    "other", ["def test_other(lm): lm('hi')", "def test_other(): pass", "def test_other(reply, lm): pass"]
)
def test_workers_that_other_tests_used_too_are_not(suite: Suite, other: str) -> None:
    mark = '    @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.")\n' if "reply" in other else ""
    write(suite, ["one", "two"], f"{SUITE}{mark}    {other}\n")
    ran = suite.run("-n2")
    assert HINT not in [row["symptom"] for row in ran.report["diagnosis"]]


REFUSED = """
    import pytest
    @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.", id="word")
    def test_declared(reply): assert reply
    def test_asks(lm): lm("Say bad.", cache=False)
    @pytest.fixture
    def asked(lm): return lm("Say bad.", cache=False)
    def test_own_fixture(asked): pass
"""


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["n0", "n2"])
@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("wrong_url", ()),
        ("cache_miss", ("--lmstudio-cache=offline", "--lmstudio-model=test-model")),
        ("disconnect", ("--lmstudio-on-error=fail", "--lmstudio-retries=0")),
    ],
    ids=["wrong url", "offline", "on-error fail"],
)
def test_a_case_without_answer_fails_as_a_test_does_that_asks(
    suite: Suite, kind: str, args: tuple[str, ...], way: tuple[str, ...]
) -> None:
    step = close_before_headers() if kind == "disconnect" else unexpected_endpoint()
    suite.server.when(lambda request: "bad" in request.text, step)
    write(suite, ["bad"], REFUSED)
    ran = suite.run(*way, "-v", *args)
    assert ran.words == {
        "test_declared[bad]": {"FAILED"}, "test_asks": {"FAILED"}, "test_own_fixture": {"ERROR"},
    }  # fmt: skip
    assert ran.outcomes == {"failed": 2, "error": 1}
    title = re.search(r"^_+ test_declared\[bad\] _+$", ran.out, re.MULTILINE)
    assert title is not None
    shown = [line for line in ran.out[title.end() :].split("\n")[1:4] if not line.startswith("[gw")]
    assert shown[0].startswith(f"[{kind}] the server at {suite.server.url} ")
    assert shown[1].strip("-") == " LM Studio calls "


def test_what_happens_in_the_setup_of_a_case_is_an_error(suite: Suite) -> None:
    write(
        suite,
        ["good"],
        """
        import pytest
        @pytest.fixture
        def breaks(reply): raise ValueError("mine")
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.", id="word")
        def test_it(reply, breaks): pass
        """,
    )
    assert suite.run("-n0", "-v").words == {"test_it[good]": {"ERROR"}}


def test_a_case_that_must_be_asked_anew_takes_no_answer_from_its_neighbours(suite: Suite) -> None:
    """Cases share a look into the cache, whatever each may take from it."""
    suite.write("""
        import pytest
        @pytest.mark.llm_cases([{"n": n} for n in range(3)], prompt="Say it.")
        class TestThem:
            def test_any(self, reply): assert reply
            @pytest.mark.llm(cache=False)
            def test_new(self, reply): assert not reply.cached
    """)
    assert suite.run("-n0").report["calls"]["sent"] == 4  # the first, which the next two share; and each that is new
    ran = suite.run("-n0")
    assert ran.summary == "6 passed"
    assert (ran.report["calls"]["sent"], ran.report["calls"]["cached"]) == (3, 3)


@EVERYWHERE
def test_a_fixture_of_the_users_own_may_stand_before_ours(suite: Suite, args: tuple[str, ...]) -> None:
    write(
        suite,
        ["one", "two"],
        """
        import pytest
        @pytest.fixture
        def reply(reply): return str(reply).upper()
        @pytest.fixture
        def word(case): return case["word"].upper()
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.", id="word")
        def test_both(reply, word): assert word in reply
        @pytest.mark.llm_cases("cases.jsonl", prompt="Say {word}.")
        def test_fields(case, request): assert case["word"].upper() in request.getfixturevalue("reply")
        """,
    )
    assert suite.run(*args).summary == "4 passed"


OTHER_RUNNERS = {
    "inside another test": """
        def pytest_runtest_setup(item):
            if item.name == "test_it[one]":
                other = next(one for one in item.session.items if one.name == "test_it[two]")
                item.config.hook.pytest_runtest_protocol(item=other, nextitem=None)
    """,
    "in another thread": """
        import threading
        from pytest_lmstudio.session import open_run
        def pytest_runtest_setup(item):
            one, two = item.session.items
            if item is one:
                thread = threading.Thread(target=open_run(item.config).begin_test, args=[two])
                thread.start()
                thread.join()
    """,
}


@pytest.mark.parametrize("runner", OTHER_RUNNERS.values(), ids=OTHER_RUNNERS)
def test_no_test_gets_the_case_of_another_that_runs_beside_it(suite: Suite, runner: str) -> None:
    suite.pytester.makeconftest(runner)
    write(suite, ["one", "two"])
    ran = suite.run("-v", "-n0")
    assert ran.words["test_it[one]"] == {"ERROR"}
    assert "`case` and `reply` do not know which test asks" in ran.out
    assert ran.words["test_it[two]"] == {"PASSED"}
