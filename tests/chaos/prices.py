"""The catalogue of a run, and what usage costs by it: reckoned here from the text of the prices, in decimals.

The gateway's own reckoning is what is being checked, so none of it is used.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Final

import msgspec

PAID: Final = "chaos/paid"
DRAINED: Final = "chaos/drained"
FREE: Final = "chaos/paid:free"
VECTORS: Final = "chaos/vectors"
PROVIDERS: Final = {PAID: ("one", "two"), DRAINED: ("three", "two"), FREE: ("one", "two"), VECTORS: ("one", "two")}
"""By model, who serves it, the first asked first. Three is read to its end when a client leaves."""
MAX_OUTPUT_TOKENS: Final = 4096

PRICES: Final = {
    "one": {"input_text_tokens": "0.137137", "output_text_tokens": "0.6110001", "cached_read_text_tokens": "0.0135"},
    "two": {
        "input_text_tokens": "0.29311",
        "output_text_tokens": "1.17703",
        "cached_read_text_tokens": "0.02913",
        "reasoning_text_tokens": "1.7770007",
    },
    "three": {"input_text_tokens": "0.0713", "output_text_tokens": "0.90909"},
}
"""USD per million, by provider. Few token counts make a whole number of nano-dollars of these."""

_CONFIG: Final = """
replace_catalog: true
providers:
  - {{id: one, dialect: openai, base_url: "{origin}/one/v1"}}
  - {{id: two, dialect: openai, base_url: "{origin}/two/v1", apis: [chat, responses]}}
  - {{id: three, dialect: openai, base_url: "{origin}/three/v1", on_disconnect: drain}}
models:
  - id: {paid}
    max_output_tokens: {max_output}
    offers:
      - {{provider: one, provider_model: up-1, endpoints: [chat, responses, messages], price: {{{one}}}}}
      - {{provider: two, provider_model: up-2, endpoints: [chat, responses, messages], price: {{{two}}}}}
  - id: {drained}
    max_output_tokens: {max_output}
    offers:
      - {{provider: three, provider_model: up-3, endpoints: [chat, responses, messages], price: {{{three}}}}}
      - {{provider: two, provider_model: up-2, endpoints: [chat, responses, messages], price: {{{two}}}}}
  - id: {free}
    max_output_tokens: {max_output}
    offers:
      - {{provider: one, provider_model: up-1, endpoints: [chat, responses, messages]}}
      - {{provider: two, provider_model: up-2, endpoints: [chat, responses, messages]}}
  - id: {vectors}
    offers:
      - {{provider: one, provider_model: up-1, endpoints: [embeddings], price: {{{one}}}}}
      - {{provider: two, provider_model: up-2, endpoints: [embeddings], price: {{{two}}}}}
routing: {{timeout_s: 30, first_byte_timeout_s: 15, idle_timeout_s: 15, max_attempts: 3}}
"""


class Tokens(msgspec.Struct, frozen=True):
    """What an upstream says that it used, or would say: `input` includes `cached`, `output` includes `reasoning`."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0


def config(origin: str) -> str:
    """The configuration file."""
    listed = {name: ", ".join(f'{key}: "{value}"' for key, value in prices.items()) for name, prices in PRICES.items()}
    return _CONFIG.format(
        origin=origin,
        paid=PAID,
        drained=DRAINED,
        free=FREE,
        vectors=VECTORS,
        max_output=MAX_OUTPUT_TOKENS,
        **listed,
    )


def lines(provider: str, used: Tokens) -> dict[str, tuple[int, int]]:
    """By dimension, quantity and nano-dollars; each line is rounded up to a whole nano-dollar."""
    prices = PRICES[provider]
    cached = used.cached if "cached_read_text_tokens" in prices else 0
    reasoning = used.reasoning if "reasoning_text_tokens" in prices else 0
    quantities = {
        "input_text_tokens": used.input - cached,
        "cached_read_text_tokens": cached,
        "output_text_tokens": used.output - reasoning,
        "reasoning_text_tokens": reasoning,
    }
    return {name: (count, line(prices[name], count)) for name, count in quantities.items() if count}


def cost(provider: str, used: Tokens) -> int:
    return sum(nanos for _, nanos in lines(provider, used).values())


def estimate(text: str) -> int:
    """Tokens of a text that nobody counted: four characters of ASCII make one, and each other character one."""
    others = sum(character > "\x7f" for character in text)
    return -(-(len(text) - others) // 4) + others


def prompt_estimate(turns: tuple[str, ...]) -> int:
    """Tokens of a prompt that nobody counted: its text, and four for each turn."""
    return estimate("".join(turns)) + 4 * len(turns)


def nanos(usd: str) -> int:
    """Nano-dollars in so many dollars."""
    return int(Decimal(usd).scaleb(9))


def usd(nanos: int) -> str:
    """Dollars with nine decimals."""
    return f"{Decimal(nanos).scaleb(-9):.9f}"


def line(price: str, count: int) -> int:
    """Nano-dollars of one line; `price` is in dollars per million."""
    return int((Decimal(price) * count * 1000).to_integral_value(ROUND_CEILING))
