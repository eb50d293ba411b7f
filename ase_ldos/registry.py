"""Parts that are known by a name: descriptors, networks, functionals, commands, and those that others add.

Another package adds a part in one of two ways: by calling ``register``, or, without being imported by the user at all,
by an entry point in the registry's group, for example in its ``pyproject.toml``

    [project.entry-points."ase_ldos.descriptors"]
    my_descriptor = "my_package.descriptor:MyDescriptor"
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Parts by name.

    Args:
        what: the word for a part in messages, e.g. ``"descriptor"``.
        group: of the entry points through which other packages add parts; ``None``: there are none.
        parts: the package's own.
    """

    def __init__(self, what: str, group: str | None = None, parts: dict[str, Part] | None = None) -> None:
        self.what, self.group = what, group
        self._parts: dict[str, Part] = dict(parts or {})

    def register(self, name: str, part: Part) -> Part:
        """Add a part; returned as it is.

        Raises:
            ValueError: another part has this name.
        """
        if self._parts.get(name, part) is not part:
            raise ValueError(f"there is a {self.what} {name!r} already; choose another name")
        self._parts[name] = part
        return part

    def names(self) -> list[str]:
        """Names of all parts, those of other packages included, sorted."""
        return sorted(self._parts.keys() | {point.name for point in self._entry_points()})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> Part:
        """The part of a name.

        Raises:
            ValueError: there is none; the message names those that are known, or says why another package's cannot be
                loaded.
        """
        if name not in self._parts:
            point = next((point for point in self._entry_points() if point.name == name), None)
            if point is None:
                raise ValueError(f"unknown {self.what} {name!r}; known: {', '.join(self.names()) or 'none'}")
            try:
                self._parts[name] = cast("Part", point.load())
            except Exception as error:  # another package's code may raise anything
                raise ValueError(f"{self.what} {name!r} of {point.value} cannot be loaded: {error}") from error
        return self._parts[name]

    def _entry_points(self) -> list[EntryPoint]:
        return [] if self.group is None else list(entry_points(group=self.group))
