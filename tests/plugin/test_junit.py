"""JUnit XML carries the rates of a run and the calls of each test, in a form that CI systems read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.suite import ALONE, NO_XDIST, WORKERS
from tests.standin import close_before_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugin.suite import Suite
    from tests.standin import StandIn

ALL_WAYS = pytest.mark.parametrize("way", [ALONE, WORKERS, NO_XDIST], ids=["n0", "n2", "no-xdist"])
LOSES = ("--lmstudio-retries=1", "--lmstudio-breaker=off", "--lmstudio-max-error-rate=100%")
XML = "--junitxml=junit.xml"
MIXED = """
    def test_two(lm):
        lm("one"); lm("two")
    def test_lost(lm): lm("lost")
    def test_fails(lm): assert lm("three") == "no"
    def test_plain(): pass
"""
#: Elements and attributes that Jenkins' schema allows (junit-10.xsd of its xUnit plugin), each with the elements in it;
#: and, as its JUnit plugin, GitLab and Azure read it too, properties at the head of a test case.
ALLOWED: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package", "file", "log", "url", "group"},
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name"},
        {"time", "classname", "group"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "skipped": (set(), set(), {"type", "message"}),
    "failure": (set(), set(), {"type", "message"}),
    "error": (set(), set(), {"type", "message"}),
    "system-out": (set(), set(), set()),
    "system-err": (set(), set(), set()),
}
TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")


def breaches(node: ET.Element, *, strict: bool) -> Iterator[str]:
    """Yield what in an element is not as the schema has it."""
    if node.tag not in ALLOWED:
        yield f"<{node.tag}> is not known"
        return
    inside, required, optional = ALLOWED[node.tag]
    if node.tag == "testcase" and not strict:
        inside = inside | {"properties"}
    if missing := required - set(node.attrib):
        yield f"<{node.tag}> lacks {missing}"
    if more := set(node.attrib) - required - optional:
        yield f"<{node.tag}> has {more}"
    if "time" in node.attrib and not TIME.fullmatch(node.attrib["time"]):
        yield f"<{node.tag}> took {node.attrib['time']}"
    tags = [child.tag for child in node]
    if tags.count("properties") > 1 or "properties" in tags[1:]:
        yield f"<{node.tag}> has properties that do not come first, or twice"
    yield from (f"<{tag}> in <{node.tag}>" for tag in tags if tag not in inside)
    for child in node:
        yield from breaches(child, strict=strict)


def read(suite: Suite, *, strict: bool = False) -> ET.Element:
    """Return the file's root, which must be as the schema has it."""
    root = ET.parse(suite.pytester.path / "junit.xml").getroot()  # noqa: S314  # pytest wrote it
    assert list(breaches(root, strict=strict)) == []
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert all(len({p.get("name") for p in node}) == len(node) for node in root.iter("properties")), names
    return root


def properties(node: ET.Element | None) -> dict[str, str]:
    """Return a suite's or a test's own properties, less the times."""
    assert node is not None
    found = {one.attrib["name"]: one.attrib["value"] for one in node.findall("properties/property")}
    return {name: value for name, value in found.items() if "_ms." not in name}


def cases(root: ET.Element) -> dict[str, dict[str, str]]:
    return {case.attrib["name"]: properties(case) for case in root.iter("testcase")}


def told(calls: int, attempts: int, failed: int = 0, cached: int = 0, **errors: int) -> dict[str, str]:
    counts = {"calls": calls, "failed": failed, "cached": cached, "attempts": attempts}
    counts |= {f"errors.{kind}": count for kind, count in errors.items()}
    return {f"lmstudio.{name}": str(count) for name, count in counts.items()}


@pytest.fixture(autouse=True)
def broken(server: StandIn) -> None:
    server.when(lambda r: "lost" in r.text, close_before_headers())


@ALL_WAYS
def test_the_suite_tells_the_rates_and_each_test_its_calls(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write(MIXED)
    ran = suite.run(*way, *LOSES, XML)
    root = read(suite)
    of_suite = properties(root.find("testsuite"))
    assert {name: of_suite[f"lmstudio.{name}"] for name in ("run_id", "gate", "calls.total", "calls.failed")} == {
        "run_id": ran.report["run_id"],
        "gate": "passed",
        "calls.total": "4",
        "calls.failed": "1",
    }
    assert of_suite["lmstudio.rates.error_rate"] == "0.25"
    assert of_suite["lmstudio.gate.max_error_rate"] == "1"
    assert of_suite["lmstudio.tests.lm_error"] == "1"
    assert of_suite["lmstudio.errors.disconnect"] == "2"
    assert cases(root) == {
        "test_two": told(2, 2),
        "test_lost": told(1, 2, failed=1, disconnect=2),
        "test_fails": told(1, 1),
        "test_plain": {},
    }


@ALL_WAYS
def test_latencies_are_those_of_the_report(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("def test_asks(lm): lm('one')")
    ran = suite.run(*way, XML)
    found = {one.attrib["name"]: one.attrib["value"] for one in read(suite).iter("property")}
    assert float(found["lmstudio.latency_ms.p50"]) == pytest.approx(ran.report["latency_ms"]["p50"], abs=0.001)
    # The log has tenths of a millisecond.
    assert float(found["lmstudio.latency_ms.mean"]) == pytest.approx(ran.report["latency_ms"]["mean"], abs=0.051)


@pytest.mark.parametrize("family", ["legacy", "xunit1", "xunit2"])
def test_a_family_that_was_asked_for_is_kept_to(suite: Suite, family: str) -> None:
    suite.write("def test_asks(lm): lm('one')")
    suite.run(*ALONE, XML, "-o", f"junit_family={family}")
    root = ET.parse(suite.pytester.path / "junit.xml").getroot()  # noqa: S314  # pytest wrote it
    assert cases(root) == {"test_asks": {} if family == "xunit2" else told(1, 1)}
    assert properties(root.find("testsuite"))["lmstudio.calls.total"] == "1"
    if family == "xunit2":
        read(suite, strict=True)


@ALL_WAYS
def test_an_ini_file_that_asks_for_xunit2_is_kept_to(suite: Suite, way: tuple[str, ...]) -> None:
    suite.pytester.makeini("[pytest]\njunit_family = xunit2\n")
    suite.write("def test_asks(lm): lm('one')")
    suite.run(*way, XML)
    assert cases(read(suite, strict=True)) == {"test_asks": {}}


@ALL_WAYS
def test_each_rerun_tells_its_own_calls(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        tried = []
        def test_flaky(lm):
            tried.append(lm(f"try {len(tried)}"))
            assert len(tried) > 2
    """)
    ran = suite.run(*way, *LOSES, XML, "-p", "rerunfailures", "--reruns=3")
    assert ran.summary == "1 passed, 2 rerun"
    assert [properties(case) for case in read(suite).iter("testcase")] == [told(1, 1)] * 3


@ALL_WAYS
def test_calls_of_every_phase_are_told_once(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("""
        import pytest

        @pytest.fixture
        def around(lm):
            lm("before")
            yield
            lm("after")

        @pytest.fixture
        def breaks(lm):
            yield
            lm("broken")
            assert 0

        def test_passes(lm, around): lm("one"); lm("two")
        def test_fails(lm, around): lm("three"); assert 0
        def test_fails_twice(lm, around, breaks): lm("four"); assert 0
        @pytest.fixture
        def lost(lm): lm("lost")
        def test_lost_before(lost): pass
    """)
    suite.run(*way, *LOSES, XML, "--lmstudio-cache=off")
    found = [(case.attrib["name"], properties(case)) for case in read(suite).iter("testcase")]
    assert sorted(found, key=lambda one: (one[0], one[1]["lmstudio.attempts"])) == [
        ("test_fails", told(3, 3)),
        ("test_fails_twice", told(2, 2)),  # its call
        ("test_fails_twice", told(2, 2)),  # its teardown, a case of its own
        ("test_lost_before", told(1, 2, failed=1, disconnect=2)),
        ("test_passes", told(4, 4)),
    ]


def test_properties_that_a_test_records_itself_stay(suite: Suite) -> None:
    suite.write("""
        def test_asks(lm, request):
            request.node.user_properties.append(("mine", "yes"))
            lm("one")
    """)
    suite.run(*ALONE, XML)
    assert cases(read(suite)) == {"test_asks": {"mine": "yes", **told(1, 1)}}


def test_cached_calls_and_calls_that_were_not_sent_are_told(suite: Suite) -> None:
    suite.write("""
        def test_asks(lm): lm("one"); lm("one")
        def test_misses(lm): lm("never asked")
    """)
    suite.run(*ALONE, XML)
    suite.run(*ALONE, XML, "--lmstudio-cache=offline", "-k", "misses")
    assert cases(read(suite)) == {"test_misses": told(1, 0, cached=1)}
    suite.run(*ALONE, XML, "--lmstudio-cache=offline", "--lmstudio-pipeline-version=2")
    assert cases(read(suite)) == {
        "test_asks": told(1, 0, failed=1, cache_miss=1),
        "test_misses": told(1, 0, failed=1, cache_miss=1),
    }


def test_a_run_without_calls_has_no_properties(suite: Suite) -> None:
    suite.write("def test_plain(): pass")
    suite.run(*ALONE, XML)
    assert list(read(suite).iter("property")) == []


@ALL_WAYS
def test_a_failed_gate_and_an_interrupted_run_say_so(suite: Suite, way: tuple[str, ...]) -> None:
    suite.write("def test_lost(lm): lm('lost')")
    assert suite.run(*way, *LOSES, XML, "--lmstudio-max-error-rate=5%").ret == 1
    assert properties(read(suite).find("testsuite"))["lmstudio.gate"] == "failed"
    suite.write("""
        import pytest
        def test_stops(lm):
            lm("one")
            raise KeyboardInterrupt
    """)
    ran = suite.run_apart(*way, XML)
    assert ran.ret == 2
    root = ET.parse(suite.pytester.path / "junit.xml").getroot()  # noqa: S314  # pytest wrote it
    told_of = properties(root.find("testsuite"))
    assert told_of["lmstudio.gate"] == "not judged"
    assert told_of["lmstudio.calls.total"] == "1"


def test_hostile_names_and_answers_stay_text(suite: Suite) -> None:
    suite.write("""
        import pytest
        @pytest.mark.parametrize("text", ["]]></property>", "\\x00\\x1b[31m", "a&<b>\\"'"])
        def test_asks(lm, text):
            assert lm(text, model="test-model") == text
    """)
    suite.run(*ALONE, XML)
    assert list(cases(read(suite)).values()) == [told(1, 1)] * 3
