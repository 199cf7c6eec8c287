"""Which process of which job: tables of flags and environments, no process is started."""

import pytest

from moe_jax.mesh.jobs import SINGLE, DistributedError, Job, JobFlags, detect_job

SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[007-010],other3",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "1,8,7",
    "SLURM_NTASKS": "99",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "2",
}
OPENMPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "40960.0;tcp://10.96.0.1,10.148.0.1:34911",
}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "2",
    "MOE_JAX_NUM_PROCESSES": "4",
    "MOE_JAX_COORDINATOR": "moe-jax-workers-0-0.moe-jax:12321",
}
EXPLICIT = {
    "MOE_JAX_COORDINATOR": "127.0.0.1:4000",
    "MOE_JAX_NUM_PROCESSES": "2",
    "MOE_JAX_PROCESS_ID": "1",
}
TWO = JobFlags("10.0.0.1:99", 2, 1)

# Ports: 65535 - 4096 + 1 + job % 4096.
FOUND = {
    "nothing": ({}, JobFlags(), SINGLE),
    "one_process": ({}, JobFlags(num_processes=1), SINGLE),
    "all_given_for_one": ({}, JobFlags("h:1", 1, 0), SINGLE),
    "flags": ({}, TWO, Job("explicit", "10.0.0.1:99", 2, 1)),
    "variables": (EXPLICIT, JobFlags(), Job("explicit", "127.0.0.1:4000", 2, 1)),
    "flags_and_equal_variables": (
        EXPLICIT,
        JobFlags(process_id=1),
        Job("explicit", "127.0.0.1:4000", 2, 1),
    ),
    "ipv6": ({}, JobFlags("[fe80::1]:99", 2, 0), Job("explicit", "[fe80::1]:99", 2, 0)),
    "explicit_beats_scheduler": (SLURM, TWO, Job("explicit", "10.0.0.1:99", 2, 1)),
    "slurm": (SLURM, JobFlags(), Job("slurm", "node007:62344", 16, 3, 8, 2)),
    "slurm_one_node": (
        SLURM | {"SLURM_STEP_NODELIST": "gpu-a1", "SLURM_NODEID": "0"},
        JobFlags(),
        Job("slurm", "gpu-a1:62344", 16, 3, 1, 2),
    ),
    "slurm_list": (
        SLURM | {"SLURM_STEP_NODELIST": "a1,b[2-3]", "SLURM_STEP_TASKS_PER_NODE": "8(x2),1"},
        JobFlags(),
        Job("slurm", "a1:62344", 16, 3, 8, 2),
    ),
    "slurm_with_own_coordinator": (
        SLURM,
        JobFlags(coordinator="login:80"),
        Job("slurm", "login:80", 16, 3, 8, 2),
    ),
    "slurm_batch_script": (
        {"SLURM_JOB_ID": "5000", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"},
        JobFlags(),
        SINGLE,
    ),
    "slurm_one_task": (
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        JobFlags(),
        SINGLE,
    ),
    "openmpi": (OPENMPI, JobFlags(), Job("openmpi", "10.96.0.1:61450", 4, 3, 2, 1)),
    "openmpi_ipv6": (
        OPENMPI | {"OMPI_MCA_orte_hnp_uri": "40960.0;tcp6://[fe80::9,fe80::8]:43370"},
        JobFlags(),
        Job("openmpi", "[fe80::9]:61450", 4, 3, 2, 1),
    ),
    "openmpi_inside_slurm": (
        SLURM | OPENMPI,
        JobFlags(),
        Job("openmpi", "10.96.0.1:61450", 4, 3, 2, 1),
    ),
    "kubernetes": (
        KUBERNETES,
        JobFlags(),
        Job("kubernetes", "moe-jax-workers-0-0.moe-jax:12321", 4, 2, 1, 0),
    ),
    "kubernetes_single_pod": ({"JOB_COMPLETION_INDEX": "0"}, JobFlags(), SINGLE),
}

REFUSED = {
    "coordinator_only": (
        {},
        JobFlags(coordinator="h:1"),
        ["--num-processes, --process-id", "MOE_JAX_NUM_PROCESSES, MOE_JAX_PROCESS_ID", "none of"],
    ),
    "no_coordinator": ({}, JobFlags(None, 2, 0), ["lacks --coordinator", "MOE_JAX_COORDINATOR"]),
    "id_too_large": ({}, JobFlags("h:1", 2, 2), ["process id 2 of 2", "0 to 1"]),
    "id_negative": ({}, JobFlags("h:1", 2, -1), ["process id -1 of 2", "0 to 1"]),
    "one_process_but_another_id": ({}, JobFlags("h:1", 1, 3), ["process id 3 of 1"]),
    "one_process_forced_on_a_slurm_task": (
        SLURM,
        JobFlags(num_processes=1),
        ["process id 3 of 1", "slurm"],
    ),
    "no_port": ({}, JobFlags("host", 2, 0), ["'host'", "HOST:PORT"]),
    "bare_ipv6": ({}, JobFlags("fe80::1:99", 2, 0), ["'fe80::1:99'", "in brackets"]),
    "contradiction": (
        EXPLICIT,
        JobFlags(process_id=0),
        ["--process-id 0 contradicts MOE_JAX_PROCESS_ID=1", "not both"],
    ),
    "not_a_number": (
        EXPLICIT | {"MOE_JAX_PROCESS_ID": "one"},
        JobFlags(),
        ["MOE_JAX_PROCESS_ID = 'one'", "whole number"],
    ),
    "slurm_without_counts": (
        {k: v for k, v in SLURM.items() if "NTASKS" not in k and "NUM_TASKS" not in k},
        JobFlags(),
        ["SLURM_NTASKS is missing", "MOE_JAX_NUM_PROCESSES"],
    ),
    "slurm_garbled": (
        SLURM | {"SLURM_PROCID": "x"},
        JobFlags(),
        ["SLURM_PROCID = 'x'", "MOE_JAX_PROCESS_ID"],
    ),
    "openmpi_5_does_not_tell": (
        {k: v for k, v in OPENMPI.items() if "uri" not in k},
        JobFlags(),
        ["openmpi", "no address", "MOE_JAX_COORDINATOR"],
    ),
    "kubernetes_without_count": (
        {"JOB_COMPLETION_INDEX": "2"},
        JobFlags(),
        ["pod 2", "MOE_JAX_NUM_PROCESSES", "launch/k8s-jobset.yaml"],
    ),
    "kubernetes_without_coordinator": (
        {k: v for k, v in KUBERNETES.items() if "COORDINATOR" not in k},
        JobFlags(),
        ["kubernetes", "MOE_JAX_COORDINATOR"],
    ),
}


@pytest.mark.parametrize(("environ", "flags", "job"), FOUND.values(), ids=FOUND.keys())
def test_job_is_detected(environ, flags, job):
    assert detect_job(environ, flags) == job


@pytest.mark.parametrize(("environ", "flags", "parts"), REFUSED.values(), ids=REFUSED.keys())
def test_incomplete_or_contradicting_job_is_refused(environ, flags, parts):
    with pytest.raises(DistributedError) as caught:
        detect_job(environ, flags)
    for part in parts:
        assert part in str(caught.value)
