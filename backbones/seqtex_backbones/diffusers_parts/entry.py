"""What the entries of backbones have in common whose weights are a diffusers transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import nn

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError

from ..diffusers_class import diffusers_class


@dataclass(frozen=True, kw_only=True)
class DiffusersSizes:
    """Sizes of a model: the arguments of its diffusers class, and those of its backbone.

    Attributes:
        of_backbone: the fields that diffusers does not know; arguments of the backbone.
        choices: what some fields may be.

    Raises:
        UsageError: a size that is not a positive whole number, or a value that is no choice.
    """

    of_backbone: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if field.type == "int" and not (isinstance(size, int) and size > 0):
                raise UsageError(field.name, expected="a positive whole number", got=repr(size))
        for name, allowed in self.choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(name, expected=f"one of {allowed}", got=repr(value))

    def to_diffusers(self) -> dict[str, Any]:
        """Arguments of the diffusers class."""
        values = asdict(self)
        for name in self.of_backbone:
            del values[name]
        return values | self.implied()

    def implied(self) -> dict[str, Any]:
        """Further ones, which follow from the sizes or are the same in all models."""
        return {}

    def to_backbone(self) -> dict[str, Any]:
        """Arguments of the backbone."""
        return {name: getattr(self, name) for name in self.of_backbone}


Sizes = TypeVar("Sizes", bound=DiffusersSizes)


@dataclass(frozen=True, kw_only=True)
class DiffusersEntry(ABC, Generic[Sizes]):
    """A named model; see ``registry.BackboneEntry``.

    Subclasses say what is built, and set the class variables.

    Args:
        name: registry name.
        summary: one line for listings.
        config: its sizes.
        keep_in_fp32: parts of key names whose weights diffusers keeps in float32.
    """

    family: ClassVar[str]
    """What the models are called in messages."""
    diffusers_class: ClassVar[str]
    sizes: ClassVar[type[Any]]
    """The dataclass of ``config``."""
    name: str
    summary: str
    config: Sizes
    keep_in_fp32: tuple[str, ...] = ()

    @abstractmethod
    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device."""

    def new_transformer(self) -> nn.Module:
        """The same as diffusers knows it."""
        made: nn.Module = diffusers_class(self.diffusers_class)(**self.config.to_diffusers())
        return made

    @classmethod
    def of_sizes(cls, name: str, sizes: Mapping[str, Any]) -> Self:
        """An entry of one's own from plain data.

        Raises:
            UsageError: sizes that such a transformer does not have.
        """
        values = {key: _hashable(value) for key, value in sizes.items()}
        try:
            config = cls.sizes(**values)
        except TypeError as error:
            raise UsageError(
                f"{cls.family} sizes", expected=f"fields of {cls.sizes.__name__}", got=str(error)
            ) from error
        return cls(name=name, summary=f"a model of the {cls.family} kind, {name}", config=config)

    def native_names(self, keys: Iterable[str]) -> dict[str, str]:
        """Keys of a diffusers file, which are the names themselves."""
        return {key: key for key in keys}

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """What a diffusers ``config.json`` says otherwise than this entry, one phrase per field.

        Raises:
            UsageError: a config of another architecture.
        """
        kind = str(config.get("_class_name", self.diffusers_class))
        if kind != self.diffusers_class:
            raise UsageError(
                "config.json", expected=f"_class_name {self.diffusers_class!r}", got=repr(kind)
            )
        ours, defaults = self.config.to_diffusers(), self.sizes().to_diffusers()
        theirs = {name: _hashable(config.get(name, defaults[name])) for name in ours}
        return differing(ours, self.as_built(theirs), ignored=self.without_effect())

    def as_built(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """Arguments from a file, where different words mean the same model."""
        return theirs

    def without_effect(self) -> Iterable[str]:
        """Arguments that change nothing in a model of these sizes."""
        return ()


def differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, ignored: Iterable[str] = ()
) -> list[str]:
    """One phrase for every value of ``ours`` that is another in ``theirs``."""
    skipped = set(ignored)
    return [
        f"{name} is {theirs[name]}, not {value}"
        for name, value in ours.items()
        if name not in skipped and theirs[name] != value
    ]


def _hashable(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(value) if isinstance(value, list) else value
