"""Errors as OpenAI's clients read them: a status, and `{"error": {message, type, param, code}}`.

What the client did wrong names the parameter at fault. What went wrong in here is told to the log alone; the client
gets a request id by which to find it.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from underlay.generate import ContextLengthError, ParameterError


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def refuse(error: ParameterError, param: str | None = None) -> ApiError:
    """Say what the engine cannot honour; `param` renames the engine's parameter to the client's."""
    code = "context_length_exceeded" if isinstance(error, ContextLengthError) else "invalid_value"
    return ApiError(400, str(error), code, param or error.parameter)


def internal(request_id: str) -> ApiError:
    """Say no more than that it is our fault."""
    return ApiError(500, f"internal error; the server's log tells more under request {request_id}", "internal_error")


def install(app: FastAPI) -> None:
    """Make every error of the app speak this shape."""

    async def own(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return ApiError(
            error.status_code, error.detail, _CODES.get(error.status_code), None, _headers(error)
        ).response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _describe(error.errors()[0]).response()

    app.add_exception_handler(ApiError, own)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def _headers(error: HTTPException) -> dict[str, str] | None:
    return dict(error.headers) if error.headers else None


def _describe(problem: Any) -> ApiError:
    """Turn pydantic's first complaint into one line; of a union's complaints it names the parameter alone."""
    kind, place = problem["type"], [str(step) for step in problem["loc"][1:]]
    if kind == "json_invalid":
        return ApiError(400, "the body is not JSON", "invalid_json")
    if not place:
        return ApiError(400, "the body must be a JSON object, sent as application/json", "invalid_json")
    if kind == "extra_forbidden":
        param = ".".join(place)
        return ApiError(
            400, f"unknown parameter {param!r}; nothing that is sent is ignored", "unknown_parameter", param
        )
    param = place[0]
    if kind == "missing":
        name = ".".join(place)
        return ApiError(400, f"parameter {name!r} is missing", "missing_parameter", name)
    code = "unsupported_parameter" if kind == "unsupported_parameter" else "invalid_value"
    message = problem["msg"].removeprefix("Value error, ")
    return ApiError(400, f"parameter {param!r}: {message[0].lower()}{message[1:]}", code, param)
