"""Tests touch no network, leave each other's processors alone, and are never judged by how long they took."""

import os

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("nih", deadline=None)
hypothesis.settings.load_profile("nih")

SLOW = (
    "tests/bench/test_bench_kernels.py::test_every_way_is_measured_with_one_thread_and_with_all",
    "tests/bench/test_bench_prefill.py::test_two_models_in_one_figure_with_a_limit",
    "tests/cli/test_plugin.py::test_an_installed_package_adds_a_model_and_a_task",
    "tests/cost/test_cost.py::test_a_prompt_that_finds_no_memory_is_a_row",
    "tests/cost/test_cost.py::test_a_run_measures_its_own_lengths_once",
    "tests/cost/test_cost.py::test_a_run_that_is_read_whole_is_priced_whole",
    "tests/cost/test_cost.py::test_cost_can_be_asked_for_later_and_changes_no_sample",
    "tests/gate/test_gate.py::test_runs_without_a_change_fail_at_most_alpha",
    "tests/gate/test_gate_models.py",
    "tests/inference/test_verify_dtypes.py",
    "tests/inference/test_workers.py",
    "tests/kernels/test_backend.py::test_importing_the_ops_probes_nothing",
    "tests/models/test_families.py",
    "tests/models/test_mamba.py",
    "tests/models/test_openai.py::test_a_third_of_1000_requests_fails_and_every_sample_is_scored_once",
    "tests/models/test_openai.py::test_an_interrupt_keeps_what_came_and_the_same_command_goes_on",
    "tests/models/test_reference_mixture.py",
    "tests/models/test_reference_training.py",
    "tests/models/test_rwkv.py",
    "tests/models/test_smollm2.py",
    "tests/models/test_vllm.py::test_a_failing_engine_is_one_sentence_and_what_was_answered_is_kept",
    "tests/models/test_vllm.py::test_a_run_writes_what_answered_and_what_its_cache_held",
    "tests/prompts/test_builder.py::test_ids_are_the_same_in_another_process_and_as_recorded",
    "tests/prompts/test_builder.py::test_length_is_exact_and_the_needle_intact",
    "tests/prompts/test_imported.py::test_a_file_of_rulers_runs_unmodified_and_scores_as_ruler_does",
    "tests/prompts/test_prose_nll.py",
    "tests/prompts/test_tasks.py",
    "tests/repo/test_docs.py::test_the_blocks_of_a_section_run_as_printed",
    "tests/repo/test_wheel.py",
    "tests/report/test_browser.py",
    "tests/run/test_crash.py",
)
"""Tests that take more than about two seconds, each a folder, a file, or a file and a test. `make test-fast` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    for item in items:
        plain = item.nodeid.partition("[")[0]
        if any(plain == slow or plain.startswith((f"{slow}/", f"{slow}::")) for slow in SLOW):
            item.add_marker(pytest.mark.slow)
