"""What can go wrong with a request, in OpenAI's words. Who answers with it is `app.py`."""

from typing import Any


class ApiError(Exception):
    """A refusal that its client can read.

    Args:
        status: of the HTTP answer.
        message: what was wrong, and the remedy.
        param: the parameter to blame, if it is one.
        code: a short name that programs look for.
        kind: OpenAI's `type` of an error.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after
        self.param, self.code, self.kind = param, code, kind

    @property
    def headers(self) -> dict[str, str]:
        """Of the HTTP answer, beside the usual ones."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(message: str, param: str | None = None) -> ApiError:
    """Return a refusal of what is wrong in itself: trying again does not help.

    Args:
        message: the value, the rule and the remedy.
        param: the parameter to blame, if it is one.
    """
    return ApiError(400, message, param=param)


def overflow(waiting: int, retry_after: int) -> ApiError:
    """Return the refusal of a full queue.

    Args:
        waiting: texts in it.
        retry_after: seconds until a slot should be free.
    """
    return ApiError(
        429,
        f"{waiting} texts are waiting for a slot already: try again in {retry_after} s",
        code="queue_full",
        kind="rate_limit_error",
        retry_after=retry_after,
    )


def failed() -> ApiError:
    """Return the refusal of a broken engine; clients are not told what happened, the log is."""
    return ApiError(500, "the engine has failed: see the server's log", kind="server_error")


def broken() -> ApiError:
    """Return the refusal after a defect of this server; clients are not told which, the log is."""
    return ApiError(500, "an unexpected failure: see the server's log", kind="server_error")


def closing() -> ApiError:
    """Return the refusal of a server that has been asked to end."""
    return ApiError(503, "the server is shutting down", code="closing", kind="server_error")
