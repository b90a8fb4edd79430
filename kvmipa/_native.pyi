from typing import Any, Protocol

class _Fact(Protocol):
    name: Any
    value: int

class _Lib(Protocol):
    kvmipa_facts: list[_Fact]
    kvmipa_checked_against_kernel_headers: int

    def kvmipa_ioctl(self, fd: int, request: int, argument: int, /) -> int: ...
    def kvmipa_ioctl_buffer(self, fd: int, request: int, argument: Any, /) -> int: ...
    def kvmipa_sweep_machine_types(self, fd: int, types: Any, count: int, results: Any, budget_ns: int, /) -> int: ...

ffi: Any
lib: _Lib
