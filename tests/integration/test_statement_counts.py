"""A call takes as many SQL statements on a fuller database: no query hides in a loop."""

from benchmarks.control_plane import measure
from benchmarks.rows import Counts
from tests.fixtures.environment import require_environment


def test_the_number_of_statements_does_not_grow_with_the_rows() -> None:
    require_environment("FETTLE_TEST_DATABASE_URL", "a real PostgreSQL")
    report = measure(Counts(jobs=300, events=3000, files=400), repeat=2)
    assert set(report["databases"]) == {"sqlite", "postgresql"}
    for calls in report["databases"].values():
        for name, call in calls.items():
            assert 0 < call["full"]["statements"] == call["one_page"]["statements"] < 10, (name, call)
