"""Refusals as clients read them."""

from moe_jax.serve.errors import closing, failed, invalid, overflow


def test_a_refusal_has_openais_form():
    assert invalid("n (0) must be 1 or more", "n").body() == {
        "error": {
            "message": "n (0) must be 1 or more",
            "type": "invalid_request_error",
            "param": "n",
            "code": None,
        }
    }


def test_only_who_may_come_again_is_told_when():
    full = overflow(7, 3)
    assert (full.status, full.headers) == (429, {"Retry-After": "3"})
    assert "7 texts are waiting" in str(full)
    assert failed().headers == closing().headers == {}
    assert (failed().status, closing().status) == (500, 503)
