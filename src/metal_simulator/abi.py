"""The structures of `runtime/abi.h` for ctypes."""

import ctypes

Uint3 = ctypes.c_uint32 * 3


class BufferStruct(ctypes.Structure):
    """`sim_buffer`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("element_bytes", ctypes.c_uint32),
        ("writable", ctypes.c_uint8),
        ("initialized", ctypes.c_uint8),
        ("name", ctypes.c_char_p),
    )


class PlaceStruct(ctypes.Structure):
    """`sim_place`."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("line", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
    )


class WhoStruct(ctypes.Structure):
    """`sim_who`."""

    _fields_ = (
        ("known", ctypes.c_uint8),
        ("thread", Uint3),
        ("threadgroup", Uint3),
        ("simdgroup", ctypes.c_uint32),
        ("lane", ctypes.c_uint32),
    )


class FindingStruct(ctypes.Structure):
    """`sim_finding`."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("write", ctypes.c_uint8),
        ("other_write", ctypes.c_uint8),
        ("place", PlaceStruct),
        ("other_place", PlaceStruct),
        ("who", WhoStruct),
        ("other_who", WhoStruct),
        ("variable", ctypes.c_char * 64),
        ("element", ctypes.c_int64),
        ("elements", ctypes.c_uint64),
        ("bytes", ctypes.c_uint32),
        ("lanes", ctypes.c_uint32),
        ("value", ctypes.c_int64),
        ("detail", ctypes.c_char * 160),
        ("count", ctypes.c_uint64),
    )


class LaunchStruct(ctypes.Structure):
    """`sim_launch`."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(BufferStruct)),
        ("buffer_count", ctypes.c_uint32),
        ("grid", Uint3),
        ("threadgroup", Uint3),
        ("threadgroups", Uint3),
        ("workers", ctypes.c_uint32),
        ("check", ctypes.c_uint32),
        ("order", ctypes.c_uint64),
        ("timeout", ctypes.c_double),
        ("stop", ctypes.c_uint32),
        ("findings", ctypes.POINTER(FindingStruct)),
        ("finding_capacity", ctypes.c_uint32),
        ("finding_count", ctypes.c_uint32),
        ("seconds", ctypes.c_double),
        ("switches", ctypes.c_uint64),
        ("accesses", ctypes.c_uint64),
        ("simd_operations", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64),
        ("threadgroup_bytes", ctypes.c_uint32),
    )
