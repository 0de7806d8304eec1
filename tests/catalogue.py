"""What the packages hold, found as the suite finds it: a file dropped into a folder is under test at once."""

import pkgutil
from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any

SMALL = {"rank": 2, "hidden": 4, "embedding": 5, "interval": 3, "depth": 3}


def members(package: ModuleType, base: type) -> dict[str, list[type]]:
    """Subclasses of `base` defined in each public module of `package`, by the module's name."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    modules = {name: import_module(f"{package.__name__}.{name}") for name in names}
    return {
        name: [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        ]
        for name, module in modules.items()
    }


def small(cls: type, **options: Any) -> Any:
    """An instance of the dataclass with small sizes wherever it has the field."""
    return cls(**{name: value for name, value in (SMALL | options).items() if name in {field.name for field in fields(cls)}})
