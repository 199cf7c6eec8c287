"""The forms in which HLO prints the devices of a collective."""

import pytest

from moe_jax.planner.xla.groups import device_groups


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ("), replica_groups={{0,1},{2,3}}, dimensions={0}", ((0, 1), (2, 3))),
        ("), replica_groups={}, to_apply=%add", ()),
        ("), replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", ((0, 2), (1, 3))),
        ("), source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
        ("), replica_groups=mesh['axis_0'=4] {'axis_0'}, use", ((0, 1, 2, 3),)),
        ("), replica_groups=mesh['a'=2,'b'=1,'c'=2] {'c','b'}, use", ((0, 1), (2, 3))),
        ("), replica_groups=mesh['a'=2,'c'=2] {'a'}, use", ((0, 2), (1, 3))),
        (
            "), replica_groups=mesh['a'=1,'b'=4], device_ids=([2,2]T(1,0)) {'b'}, use",
            ((0, 2, 1, 3),),
        ),
        (
            "), replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, use",
            ((0, 2), (1, 3)),
        ),
        ("), replica_groups=mesh['a'=4] {'a':(2)2}, use", ((0, 1), (2, 3))),
        ("), replica_groups=mesh['a'=4] {'a':(1)2}, use", ((0, 2), (1, 3))),
    ],
)
def test_each_form(attributes, groups):
    assert device_groups(attributes) == groups


@pytest.mark.parametrize(
    "attributes",
    ["), dimensions={0}", "), replica_groups=mesh['a'=4], device_ids=(3,2,1,0) {'a'}"],
)
def test_other_forms_are_refused(attributes):
    with pytest.raises(ValueError, match="no device groups"):
        device_groups(attributes)
