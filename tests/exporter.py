"""DLPack capsules written field by field, which count how often they are given back."""

import ctypes

VERSIONED, LEGACY = b"dltensor_versioned", b"dltensor"


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR)(
    ("PyCapsule_New", ctypes.pythonapi)
)
# By address: a capsule in its destructor must not get a new reference.
is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))


class Exporter:
    """Capsules written by hand over an array's memory, and how many were made and given back."""

    def __init__(self, source, name=VERSIONED, major=1, flags=0, data=None, **fields):
        self.source, self.name = source, name
        self.made = self.freed = 0
        axes = ctypes.c_int64 * source.ndim
        self.axes = axes(*source.shape), axes(*(step // source.itemsize for step in source.strides))
        tensor = {
            "data": source.ctypes.data if data is None else data,
            "device_type": 1,
            "rank": source.ndim,
            "code": 2 if source.dtype.kind == "f" else 1,
            "bits": 8 * source.itemsize,
            "lanes": 1,
            "shape": self.axes[0],
            "strides": self.axes[1],
            **fields,
        }
        legacy = name.endswith(LEGACY)
        options = {} if legacy else {"major": major, "minor": 9, "flags": flags}
        self.managed = (Managed if legacy else ManagedVersioned)(tensor=Tensor(**tensor), **options)
        self.destructor = DESTRUCTOR(self.destroy)

    def destroy(self, capsule):
        self.freed += is_valid(capsule, self.name)

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, max_version=None):
        self.made += 1
        return new_capsule(ctypes.addressof(self.managed), self.name, self.destructor)
