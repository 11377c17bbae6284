"""What holds for the online store in sqlite holds in Redis and in PostgreSQL: the same tests again."""

import pytest

from features.generation import Place
from tests.unit.features.test_consistency import (  # noqa: F401
    test_a_sample_is_of_both_sides,
    test_every_value_is_compared_and_all_are_the_same,
    test_the_command_compares_and_is_1_when_a_value_differs,
    test_what_is_served_can_be_compared_at_any_time,
)
from tests.unit.features.test_online_store import (  # noqa: F401
    test_a_failure_while_filling_leaves_the_former_generation,
    test_a_push_comes_online_without_a_materialization,
    test_a_request_reads_one_generation,
    test_a_row_is_served_until_it_is_as_old_as_its_ttl,
    test_a_table_older_than_the_definitions_gives_their_types,
    test_an_older_event_does_not_overwrite,
    test_an_open_store_sees_the_next_generation,
    test_async_reads_answer_the_same,
    test_async_reads_of_one_view_and_async_pushes,
    test_dropped_views_and_teardown,
    test_each_of_many_keys_gets_its_own_row,
    test_feasts_own_materialize_gives_the_same,
    test_of_equal_events_the_later_created_wins,
    test_online_is_offline_at_the_horizon,
    test_rows_after_the_horizon_wait,
    test_the_report_counts_entities,
    test_the_request_is_now_unless_given,
    test_the_same_release_is_no_work_until_the_store_is_deleted,
    test_value_service_needs_a_customer_only,
    test_what_has_outlived_its_ttl_is_not_served,
)


@pytest.fixture(autouse=True)
def online_there(there: Place) -> Place:
    return there
