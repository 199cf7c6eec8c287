"""Hand-made schedule dumps, in the form of XLA's, for the tests of the parser and what reads it."""

MS = 1000.0

_SHAPE = """      shape {
        element_type: BF16
        dimensions: 8
        dimensions: %d
        layout {
          minor_to_major: 1
          minor_to_major: 0
        }
      }
"""


def _instruction(name, opcode, number, extra="", rows=4, op_name="jit(f)/dot"):
    return (
        f'    instructions {{\n      name: "{name}"\n      opcode: "{opcode}"\n{_SHAPE % rows}'
        f'      metadata {{\n        op_name: "{op_name}"\n      }}\n{extra}'
        f"      id: {number}\n    }}\n"
    )


def _computation(name, number, root, instructions):
    body = "".join(instructions)
    return (
        f'  computations {{\n    name: "{name}"\n{body}    program_shape {{\n    }}\n'
        f"    id: {number}\n    root_id: {root}\n  }}\n"
    )


def _groups(groups):
    rows = "".join(
        "        replica_groups {\n"
        + "".join(f"          replica_ids: {i}\n" for i in g)
        + "        }\n"
        for g in groups
    )
    return f"      collective_device_list {{\n{rows}      }}\n"


def dump(*events, groups=((0, 1),), rate=1, caller="while", op_name="jit(f)/dot"):
    """A dump whose one scheduled computation, "body", has these events.

    An event is (name, start_us, end_us). "a2a-start.N" and "a2a-done.N" are an async all-to-all of
    N rows; "sync" is one that blocks; "attention" and "attention_backward" are cuDNN calls; any
    other name is a fusion.
    """
    body, slots, called = [], [], []
    numbers = {name: 100 + i for i, (name, _, _) in enumerate(events)}
    for (name, start, end), number in zip(events, numbers.values(), strict=True):
        if name.startswith("a2a-start"):
            rows = int(name.split(".")[1])
            work = _instruction(f"w{number}", "all-to-all", 1000 + number, _groups(groups), rows)
            called.append(_computation(f"async{number}", 2000 + number, 1000 + number, [work]))
            extra = f"      called_computation_ids: {2000 + number}\n"
            body.append(_instruction(name, "async-start", number, extra, rows))
        elif name.startswith("a2a-done"):
            operand = numbers[name.replace("done", "start")]
            body.append(_instruction(name, "async-done", number, f"      operand_ids: {operand}\n"))
        elif name.startswith("sync"):
            body.append(_instruction(name, "all-to-all", number, _groups(groups)))
        elif name.startswith("attention"):
            target = "__cudnn$fmhaSoftmax" + ("Backward" if "backward" in name else "")
            extra = f'      custom_call_target: "{target}"\n'
            body.append(_instruction(name, "custom-call", number, extra))
        else:
            body.append(_instruction(name, "fusion", number, op_name=op_name))
        slots.append(
            f"  instructions {{\n    id: {number}\n"
            + (f"    start_timestamp_cycles: {start * rate}\n" if start else "")
            + (f"    end_timestamp_cycles: {end * rate}\n" if end else "")
            + "    memory_usage_after: 1\n  }\n"
        )
    call = _instruction("loop", caller, 50, "      called_computation_ids: 7\n")
    return (
        'hlo_module {\n  name: "jit_f"\n'
        + "".join(called)
        + _computation("body", 7, 100, body)
        + _computation("main", 8, 50, [call])
        + "  frontend_attributes {\n    id: 99\n  }\n}\n"
        + "computation_schedules {\n  computation_id: 7\n"
        + "".join(slots)
        + f"  scheduler_statistics {{\n  }}\n  cycles_per_microsecond: {rate}\n}}\n"
    )


def one_collective(hidden_us, own_us=1000.0):
    """An all-to-all of `own_us` beside `hidden_us` of compute, before and after more compute."""
    return dump(
        ("before", 0, 500),
        ("a2a-start.64", 500, 501),
        ("beside", 501, 501 + hidden_us),
        ("a2a-done.64", 500 + own_us - 1, 500 + own_us),
        ("after", 500 + own_us, 900 + own_us),
    )
