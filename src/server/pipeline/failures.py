"""What a client is told when providers have failed: attempts in, one error out."""

from __future__ import annotations

from typing import Final

from server.domain.errors import AttemptFailure, FailureCategory, GatewayError, Reason

CAPACITY_RETRY_S: Final = 1.0

_REASON_OF_FINAL = {
    FailureCategory.CALLER_ERROR: Reason.UPSTREAM_REJECTED_REQUEST,
    FailureCategory.CONTEXT_LENGTH: Reason.CONTEXT_LENGTH_EXCEEDED,
    FailureCategory.CONTENT_POLICY: Reason.CONTENT_POLICY_VIOLATION,
}


def exhausted(failures: tuple[AttemptFailure, ...]) -> GatewayError:
    """The error of a request of which nothing was generated, after the last attempt that was worth making."""
    last = failures[-1]
    if last.category in _REASON_OF_FINAL:
        said = last.upstream.message or "The provider refused the request without saying why."
        return GatewayError(_REASON_OF_FINAL[last.category], said, param=last.upstream.param, failures=failures)
    categories = {failure.category for failure in failures}
    if categories == {FailureCategory.RATE_LIMITED}:
        waits = [failure.retry_after_s for failure in failures if failure.retry_after_s is not None]
        return GatewayError(
            Reason.UPSTREAM_RATE_LIMITED,
            "Every provider of this model is limiting the rate of requests.",
            failures=failures,
            retry_after_s=min(waits, default=None),
        )
    if categories == {FailureCategory.TIMEOUT}:
        return GatewayError(Reason.UPSTREAM_TIMEOUT, "No provider of this model answered in time.", failures=failures)
    if categories == {FailureCategory.NO_CAPACITY}:
        # No provider has failed, hence no `failures`: this is the gateway's own limit.
        return GatewayError(
            Reason.OVERLOADED,
            "This gateway has no capacity for another connection: retry shortly.",
            retry_after_s=CAPACITY_RETRY_S,
        )
    return GatewayError(
        Reason.ALL_CANDIDATES_FAILED, "Every provider that could serve this request failed.", failures=failures
    )


def unavailable(retry_after_s: float) -> GatewayError:
    """The error of a request for which no provider was called: all of them are failing, or asked to be left alone."""
    return GatewayError(
        Reason.PROVIDERS_UNAVAILABLE,
        "Every provider of this model has been failing or limiting requests, and is not called for now: retry later.",
        retry_after_s=retry_after_s,
    )


def interrupted(failures: tuple[AttemptFailure, ...]) -> GatewayError:
    """The error of a stream that broke after the client had seen output."""
    last = failures[-1]
    reason = Reason.UPSTREAM_TIMEOUT if last.category is FailureCategory.TIMEOUT else Reason.STREAM_INTERRUPTED
    said = f" It said: {last.upstream.message}" if last.upstream.message else ""
    return GatewayError(reason, f"The provider failed before the output was complete.{said}", failures=failures)
