"""Interactive components: custom elements that stand in the place of a figure.

Their scripts are in `book/components`. The figure inside is what readers without scripts see, and
what is printed.
"""

import re
from dataclasses import dataclass

# Of each component: what its attributes may be, and the scripts that it needs, in this order.
ATTRIBUTES = {
    "schedule-simulator": {
        "preset": r"frozen|mixed|short-behind-long",
        "policy": r"chunk|whole|alternate|budget",
        "chunk": r"32|64|128|256|512|1024|2048|whole",
    },
    "mask-explorer": {"start": r"\d+", "size": r"\d+", "total": r"\d+"},
}
SCRIPTS = {
    "schedule-simulator": ("component", "schedule", "schedule-simulator"),
    "mask-explorer": ("component", "mask", "mask-explorer"),
}


@dataclass(frozen=True)
class Component:
    """What a `{{#component NAME KEY=VALUE ... | FIGURE.svg | caption}}` asks for.

    Attributes:
        name: the custom element.
        attributes: its attributes, as HTML.
        figure: the rest of the directive: the argument of a `{{#figure}}`.
    """

    name: str
    attributes: str
    figure: str

    def render(self, figure: str) -> str:
        """The element around its rendered figure."""
        start = " ".join(filter(None, (self.name, self.attributes)))
        return f"\n<{start}>\n{figure.strip()}\n</{self.name}>\n"


def parse_component(argument: str) -> Component:
    """Read the argument of a `{{#component}}`.

    Raises:
        ValueError: it is not one; the message says why.
    """
    call, _, figure = (part.strip() for part in argument.partition("|"))
    name, *settings = call.split() or [""]
    if name not in ATTRIBUTES:
        known = " and ".join(ATTRIBUTES)
        raise ValueError(f'the component "{name}" is unknown; there are {known}')
    if not re.match(r"[^\s|]+\.svg(\s|\||$)", figure):
        raise ValueError(
            f"the component {name} has no figure for readers without scripts: "
            f"write {name} | NAME.svg | caption"
        )
    for setting in settings:
        key, _, value = setting.partition("=")
        pattern = ATTRIBUTES[name].get(key)
        if pattern is None:
            known = ", ".join(ATTRIBUTES[name])
            raise ValueError(f"{name} has no attribute {key}; there are {known}")
        if not re.fullmatch(pattern, value):
            raise ValueError(f'{key} of {name} cannot be "{value}"; it is one of {pattern}')
    attributes = " ".join(re.sub(r"=(.*)", r'="\1"', setting) for setting in settings)
    return Component(name, attributes, figure)
