"""`python -m moe_jax.planner.compile.worker REQUEST.json OUT_DIR`: compile jobs one by one.

Started by `jobs.py`, which also prepares the environment and defines both formats; no one else
calls this. Results are written as each job ends: `I.json` (figures), `I.hlo`, `I.schedule`,
`I.buffers`, or `error.json` for the first job that fails, after which the worker stops.
"""

import json
import sys
import traceback
from pathlib import Path

from moe_jax.config.schema import MeshConfig
from moe_jax.planner.compile.deviceless import compile_program, target_mesh


def run_request(request_path: str, out_dir: str) -> int:
    """Run the jobs of a request. Returns 0, or 1 when one failed."""
    request = json.loads(Path(request_path).read_text())
    out = Path(out_dir)
    for i, job in enumerate(request["jobs"]):
        try:
            _run(i, job, request, out)
        except Exception as error:  # reported to the parent, which raises
            report = {
                "job": i,
                "message": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
            (out / "error.json").write_text(json.dumps(report))
            return 1
    return 0


def _run(i: int, job: dict, request: dict, out: Path) -> None:
    mesh = target_mesh(
        request["target_text"],
        request["hosts"],
        request["devices_per_host"],
        MeshConfig(**job["mesh"]),
    )
    program = compile_program(
        mesh, job["build"], job["kwargs"], job["options"], Path(request["dump_dir"])
    )
    (out / f"{i}.hlo").write_text(program.hlo_text)
    (out / f"{i}.schedule").write_text(program.schedule_text)
    (out / f"{i}.buffers").write_bytes(program.buffers)
    (out / f"{i}.json").write_text(json.dumps(program.figures))


if __name__ == "__main__":
    raise SystemExit(run_request(*sys.argv[1:]))
