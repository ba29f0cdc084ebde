"""A module that stands for standard TensorRT: it takes what its Python bindings declare, and TensorRT-RTX does it.

Its classes are those of tensorrt_rtx, changed for the rest of the process. What a version of standard TensorRT does not
declare is removed. Calls and assignments are compared with the declared signatures first. What TensorRT-RTX lacks
raises NotImplementedError, except for plugin layers, which are seeded (see plugin_layers.py). Engines are not built.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from signatures import Signatures

from bridge.tensorrt.plugins.plugin_layers import DirectPlugins, SeededPlugins


class RecordingTensorRT(ModuleType):
    """The module, for a version's declarations. calls: how often each function, method and setter was called."""

    def __init__(self, declared: Mapping[str, Any], rtx: ModuleType) -> None:
        super().__init__("tensorrt")
        self.__version__, self.__path__, self.__file__ = declared["version"], [], rtx.__file__
        self.calls: Counter[str] = Counter()
        self._declared, self.tensorrt = declared, self
        self._signatures = Signatures(vars(self))
        for name, value in declared["classes"].items():
            cls = getattr(rtx, name, None) or _absent(name, value)
            setattr(self, name, cls)
            self._restrict(cls, value)
        for name in declared["functions"].keys() | set(declared["constants"]):
            overloads = declared["functions"].get(name)
            value = getattr(rtx, name, None)
            setattr(self, name, self._checked(name, overloads, value) if overloads else value)
        self.Severity = self.ILogger.Severity
        self._carry_out_plugins()
        not_built = self._checked_method("Builder", "build_serialized_network", lambda *_: b"not built")
        self.Builder.build_serialized_network = not_built

    def _restrict(self, cls: type, declared: Mapping[str, Any]) -> None:
        """Removes what is not declared; of the rest checks every use."""
        methods, properties = declared["methods"], declared["properties"]
        # pybind11 would take changed methods of a class that Python derives from for Python's own.
        is_interface = cls.__name__.startswith("I") and bool(declared["init"])
        members = {*methods, *properties, *declared["classes"], *declared["values"]}
        for name, value in list(vars(cls).items()):
            label = f"{cls.__name__}.{name}"
            if name == "__init__" and declared["init"] and not declared["values"]:
                cls.__init__ = self._checked(cls.__name__, declared["init"], value)
            elif name.startswith("_"):
                continue
            elif name not in members:
                delattr(cls, name)
            elif name in properties and type(value) is property:
                setattr(cls, name, self._checked_property(label, properties[name]["set"], value))
            elif not is_interface and methods.get(name) and methods[name][0]["parameters"][0][0] == "self":
                setattr(cls, name, self._checked(label, methods[name], value))
        for name in methods.keys() - set(dir(cls)):
            label = f"{cls.__name__}.{name}"
            setattr(cls, name, self._checked(label, methods[name], _refusal(label)))
        for name in properties.keys() - set(dir(cls)):
            setattr(cls, name, property(_refusal(f"{cls.__name__}.{name}")))

    def _checked_method(self, owner: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._checked(f"{owner}.{name}", self._declared["classes"][owner]["methods"][name], function)

    def _checked(self, label: str, overloads: list[Mapping], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                args, kwargs = self._signatures.bind(overloads, args, kwargs)
            except TypeError as error:
                raise TypeError(f"{label} of TensorRT {self.__version__}: {error}") from None
            self.calls[label] += 1
            return function(*args, **kwargs)

        return call

    def _checked_property(self, label: str, kind: str | None, original: property) -> property:
        def assign(owner: Any, value: Any) -> None:
            if not self._signatures.accepts(kind, value):
                raise TypeError(f"{label} of TensorRT {self.__version__} is a {kind}, not {value!r}")
            self.calls[label] += 1
            if original.fset is not None:
                original.fset(owner, value)
            elif original.fget(owner) != value:
                raise NotImplementedError(f"{label} cannot be set to {value} here")

        return property(original.fget, None if kind is None else assign)

    def _carry_out_plugins(self) -> None:
        """Makes add_plugin_v3 give the layer that was seeded for the node that the plugin was created for."""
        seeds: dict[int, SeededPlugins] = {}  # by id of the network
        created: dict[int, tuple[str, Any]] = {}  # the node and the plugin, by the plugin's id
        prepare = DirectPlugins.__init__
        create = self._checked_method("IPluginCreatorV3One", "create_plugin", self.IPluginCreatorV3One.create_plugin)

        def prepare_seeds(plugins: Any, flavour: Any, network: Any, calls: Any = ()) -> None:
            prepare(plugins, flavour, network, calls)
            seeds[id(network)] = SeededPlugins(flavour, network, calls)

        def create_plugin(creator: Any, name: str, *args: Any, **kwargs: Any) -> Any:
            plugin = create(creator, name, *args, **kwargs)
            created[id(plugin)] = name, plugin
            return plugin

        def take_seed(network: Any, inputs: Any, shape_inputs: Any, plugin: Any) -> Any:
            return seeds[id(network)].layer(created[id(plugin)][0], None, inputs, {})

        DirectPlugins.__init__ = prepare_seeds
        self.IPluginCreatorV3One.create_plugin = create_plugin
        self.INetworkDefinition.add_plugin_v3 = self._checked_method("INetworkDefinition", "add_plugin_v3", take_seed)


def _absent(name: str, declared: Mapping[str, Any]) -> type:
    """A class that TensorRT-RTX lacks, with its enum's members if it is one."""
    return type(name, (), {member: f"{name}.{member}" for member in declared["values"]})


def _refusal(label: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{label} is not in TensorRT-RTX, and cannot be carried out here")

    return refuse
