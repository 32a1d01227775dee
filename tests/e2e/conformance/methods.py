"""Which methods an SDK has, found by looking, and which of them lead to a route of the gateway, found by calling.

Each is called with a wrong key and a placeholder for all that it requires. Where the gateway has the route, it refuses
the key; where it has not, it says that instead. So a new method of an SDK and a new route of the gateway both show up.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conformance.cases import SHOWN, Row

HERE = Path(__file__).parent
WRONG_KEY = "aistats_v1_sk_nobody_nothing"
NO_ROUTE = {404, 405}

Method = tuple[str, Callable[..., Any]]


def methods_of(client: Any, package: str) -> Iterator[Method]:
    """The methods of a client's resources, all the way down, each as `chat.completions.create`."""
    for name in dir(type(client)):
        if name.startswith(("_", "with_")):
            continue
        with warnings.catch_warnings(action="ignore"):
            attribute = getattr(client, name)
        if type(attribute).__module__.startswith(package):
            yield from ((f"{name}.{inner}", method) for inner, method in methods_of(attribute, package))
        elif inspect.ismethod(attribute) and type(client).__module__.startswith(package):
            yield name, attribute


def call(method: Callable[..., Any], placeholders: Mapping[str, Any]) -> int | None:
    """The status that it was answered with; None where nothing was asked."""
    wanted = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    values = {parameter.name: placeholders.get(parameter.name, "x") for parameter in wanted}
    with warnings.catch_warnings(action="ignore"):
        try:
            result = method(**values)
            if inspect.isgenerator(result):
                list(result)
        except Exception as failure:
            return status_of(failure)
    return None


def status_of(failure: BaseException) -> int | None:
    """Of `openai`, `anthropic` and httpx; or of urllib, whose error is the response, and is closed."""
    if callable(close := getattr(failure, "close", None)):
        close()
    response = getattr(failure, "response", failure)
    return getattr(response, "status_code", None) or getattr(response, "code", None)


@dataclass(frozen=True)
class Standing:
    """`untested`: what leads to a route and no test shows. `elsewhere`: what leads to none, for the table."""

    untested: list[str]
    elsewhere: list[Row]


def standing(
    sdk: str, methods: Iterable[Method], placeholders: Mapping[str, Any], *, asks_nobody: Collection[str] = ()
) -> Standing:
    """A method that could not be called, for want of better placeholders, goes with the others of its resource.

    `asks_nobody`: methods that need no gateway.
    """
    for module in HERE.glob(f"test_{sdk}*.py"):
        importlib.import_module(f"{__package__}.{module.stem}")
    shown = {method for of, method in SHOWN if of == sdk}
    passed_over = {*shown, *asks_nobody}
    answers = {name: call(method, placeholders) for name, method in methods if name not in passed_over}
    nowhere = {name for name in answers if _leads_nowhere(name, answers, shown)}
    return Standing(untested=sorted(answers.keys() - nowhere), elsewhere=_rows(nowhere, sdk, shown))


def _leads_nowhere(name: str, answers: Mapping[str, int | None], shown: Collection[str]) -> bool:
    if answers[name] is not None:
        return answers[name] in NO_ROUTE
    resource = name
    while resource := resource.rpartition(".")[0]:
        if any(other.startswith(f"{resource}.") for other in shown):
            return False
        if beside := {answer for other, answer in answers.items() if answer and other.startswith(f"{resource}.")}:
            return beside <= NO_ROUTE
    return False


def _rows(nowhere: Iterable[str], sdk: str, shown: Collection[str]) -> list[Row]:
    """One for all of a resource of which nothing is shown, else one a method."""
    shown_resources = {
        ".".join(method.split(".")[:depth]) for method in shown for depth in range(1, method.count(".") + 1)
    }
    groups: dict[str, list[str]] = {}
    for name in sorted(nowhere):
        parts = name.split(".")
        resources = (".".join(parts[:depth]) for depth in range(1, len(parts)))
        resource = next((one for one in resources if one not in shown_resources), None)
        groups.setdefault(f"{resource}.*" if resource else name, []).append(name)
    return [
        Row(
            sdk,
            group,
            f"{len(names)} methods" if len(names) > 1 else "",
            "not offered",
            "no such route",
        )
        for group, names in groups.items()
    ]
