"""Tables of parts: built in, registered in this process, or named as ``module:object``."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any, TypeVar

from laser_fl.errors import ConfigError, packages_for, quoted
from laser_fl.registry import outside
from laser_fl.registry.options import check_defaults, options_of, take_options

P = TypeVar("P")


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    target: ``module:object``, imported when first asked for.
    summary: a description in one line, for ``laser-fl list``.
    models: names of the networks that a task takes.
    words: other names that the field has for it, by which ``laser-fl list`` finds it.
    extra: the extra of this project that installs what it imports; "": no extra is needed.
    """

    target: str
    summary: str
    models: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    extra: str = ""


class Table(Mapping[str, Entry]):
    """Named parts of one kind, in reading order. The built-in ones are imported on first use.

    key: the key of the run config that names a part of this kind. several: True where it may name several.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        key: str = "",
        base: str = "",
        takes: tuple[str, ...] | None = None,
        made_of_options: bool = True,
        several: bool = False,
        libraries: Mapping[str, str] | None = None,
    ) -> None:
        """Start with the built-in parts.

        Args:
            entries: by name.
            key: the key of the run config that names a part of this kind.
            base: ``module:class``, of which parts of this kind are subclasses.
            takes: the arguments with which a part of this kind is called, where it is a function.
            made_of_options: True where a class of this kind is made of its options alone.
            several: True where the key names any number of parts, with commas between.
            libraries: ``module:function`` by prefix; it makes the part of the rest of a name ``prefix:rest``.
        """
        self.key = key
        self.several = several
        self._base, self._takes, self._made_of_options = base, takes, made_of_options
        self._libraries = dict(libraries or {})
        self._entries = dict(entries)
        self._outside: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_base(self) -> bool:
        """True where parts of this kind are subclasses of one class; else they are functions."""
        return bool(self._base)

    @property
    def outside(self) -> Mapping[str, Any]:
        """The parts from outside the package, by the names under which they were registered or loaded."""
        return self._outside

    def names_in(self, value: str) -> list[str]:
        """Return the names of parts in a value of the key."""
        return [name.strip() for name in value.split(",")] if self.several else [value]

    def load(self, name: str) -> Any:
        """Import and return the part behind a name.

        Raises:
            KeyError: it is not in the table.
            ConfigError: it is built in, and imports a package that is not installed.
        """
        if name in self._outside:
            return self._outside[name]
        entry = self[name]
        with packages_for(f"{self.key}={name}" if self.key else name, entry.extra and f"laser-fl[{entry.extra}]"):
            return resolve_name(entry.target)

    def build(self, name: str, config: object) -> Any:
        """Return the part behind a name with its options, which are attributes of `config`.

        A class becomes an instance; a function stays one, its options bound. Raises KeyError and ConfigError as `load`.
        """
        part = self.load(name)
        options = take_options(part, config)
        if isinstance(part, type):
            return part(**options)
        return partial(part, **options) if options else part

    def choice(self, part: object) -> dict[str, Any]:
        """Return the keys of the run config that choose a part, given by its name, or as an object with its options."""
        if isinstance(part, str):
            return {self.key: part}
        cls: Any = type(part)
        base: Any = resolve_name(self._base) if self._base else object
        if not isinstance(part, base):
            hint = f": write {part.__name__}()" if isinstance(part, type) else ""
            raise ConfigError(
                f"{self.key}: must be a name or an object of {base.__qualname__}, got {quoted(part)}{hint}"
            )
        options = {name.replace("_", "-"): getattr(part, name) for name in options_of(cls)}
        return {self.key: self.name_of(part), **options}

    def register(self, name: str) -> Callable[[P], P]:
        """Return a decorator that adds a part under `name`.

        A part that is defined anew under its name takes the place of the former one.

        Raises:
            ConfigError: the name is a built-in part's, or another part's; or the part is not of this kind.

        Example:
            >>> table = Table({}, key="power-policy", takes=("power", "step", "steps"))
            >>> @table.register("halved")
            ... def halved(power, step, steps): return power / 2
            >>> table.load("halved")(1.0, 0, 10)
            0.5
        """

        def add(part: P) -> P:
            self._refuse_taken(name, part)
            self._add(name, part)
            return part

        if callable(name) or ":" in name or not name:
            raise ConfigError(f"{self.key}: must be registered under a text without a colon, got {quoted(name)}")
        return add

    def find(self, name: str) -> bool:
        """Return True where the table has a part of this name, after looking for it outside of the package.

        Raises:
            ConfigError: the part exists, but cannot be loaded, or is not of this kind.
        """
        if name not in self and name not in self._outside:
            library, colon, rest = name.partition(":")
            if library in self._libraries and colon:
                self._add(name, resolve_name(self._libraries[library])(rest))
            elif colon:
                self._add(name, outside.imported(name, self.key))
            else:
                outside.load_plugins()
        return name in self or name in self._outside

    def name_of(self, part: object) -> str:
        """Return the name of a part: that of its class, or of the nearest class above it in the table.

        A class from outside that has no name yet gets that of its place, ``module:class``.
        """
        cls = type(part)
        for name, known in self._outside.items():
            if cls is known:
                return name
        names = {entry.target: name for name, entry in self.items()}
        targets = [f"{one.__module__}:{one.__qualname__}" for one in cls.__mro__]
        if targets[0].partition(".")[0] != __name__.partition(".")[0]:
            self._add(targets[0], cls)
            return targets[0]
        return next(names[target] for target in targets if target in names)

    def _add(self, name: str, part: Any) -> None:
        outside.refuse_misfit(part, f"{self.key}: {name}", self._base, self._takes)
        check_defaults(part)
        if self._base and self._made_of_options:
            outside.refuse_other_arguments(part, f"{self.key}: {name}", options_of(part))
        self._outside[name] = part

    def _refuse_taken(self, name: str, part: Any) -> None:
        former = self._outside.get(name)
        place = outside.place_of(part)
        if name in self or (former is not None and outside.place_of(former) != place):
            holder = self[name].target if name in self else outside.place_of(former)
            raise ConfigError(f"{self.key}: must be registered under a new name, got {name!r}, which is {holder}")
