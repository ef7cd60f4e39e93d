// NumPy arrays in and out, through the array struct itself: a few nanoseconds against hundreds by any protocol.
#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#include "numpy.hpp"

#include <numpy/arrayobject.h>

#include <string>

#include "../check.hpp"

namespace fusedcam::bind {
namespace {

int load_api() {
    import_array1(-1);
    return 0;
}

std::string dtype_name(PyArray_Descr* descr) {
    PyObject* words = PyObject_Str(reinterpret_cast<PyObject*>(descr));
    const char* characters = words ? PyUnicode_AsUTF8(words) : nullptr;
    std::string result = characters ? characters : "unknown";
    Py_XDECREF(words);
    PyErr_Clear();
    return result;
}

DType dtype_of(const char* op, const char* argument, PyArray_Descr* descr) {
    switch (descr->type_num) {
        case NPY_FLOAT: return DType::float32;
        case NPY_DOUBLE: return DType::float64;
        case NPY_HALF: return DType::float16;
        case NPY_UBYTE: return DType::uint8;
        default: break;
    }
    // ml_dtypes' bfloat16 gets its number when it is registered, so its name decides.
    const std::string name = dtype_name(descr);
    if (name == "bfloat16") return DType::bfloat16;
    refuse_dtype(op, argument, name);
}

int numpy_type(DType dtype) {
    switch (dtype) {
        case DType::float64: return NPY_DOUBLE;
        case DType::uint8: return NPY_UBYTE;
        case DType::float16: return NPY_HALF;
        case DType::bfloat16: return NPY_UINT16;
        default: return NPY_FLOAT;
    }
}

}  // namespace

bool import_numpy() { return load_api() == 0; }

bool is_numpy(PyTypeObject* type) { return PyType_IsSubtype(type, &PyArray_Type); }

void borrow_numpy(const char* op, const char* argument, PyObject* object, ArrayView& view) {
    auto* array = reinterpret_cast<PyArrayObject*>(object);
    PyArray_Descr* descr = PyArray_DESCR(array);
    view.dtype = dtype_of(op, argument, descr);
    if (!PyArray_ISNOTSWAPPED(array))
        refuse_value(op, ": ", argument,
                     " is not in native byte order; convert it with "
                     "array.astype(array.dtype.newbyteorder('='))");
    if (PyArray_NDIM(array) > max_rank)
        refuse_value(op, ": ", argument, " has ", PyArray_NDIM(array), " dimensions; accepted are at most ", max_rank);
    view.data = reinterpret_cast<std::byte*>(PyArray_BYTES(array));
    view.readonly = !PyArray_ISWRITEABLE(array);
    if (!set_axes(view, PyArray_NDIM(array), PyArray_DIMS(array), PyArray_STRIDES(array)))
        refuse_value(op, ": ", argument, " is not aligned to its item size; pass numpy.ascontiguousarray(array)");
}

PyObject* new_numpy(const Shape& shape, DType dtype, PyObject* like, void** data) {
    npy_intp extents[max_rank];
    for (int axis = 0; axis < shape.rank; ++axis) extents[axis] = shape.extent[axis];
    PyObject* array = nullptr;
    if (dtype == DType::bfloat16) {
        PyArray_Descr* descr = PyArray_DESCR(reinterpret_cast<PyArrayObject*>(like));
        Py_INCREF(descr);  // which the call steals
        array = PyArray_NewFromDescr(&PyArray_Type, descr, shape.rank, extents, nullptr, nullptr, 0, nullptr);
    } else {
        array = PyArray_SimpleNew(shape.rank, extents, numpy_type(dtype));
    }
    if (array) *data = PyArray_DATA(reinterpret_cast<PyArrayObject*>(array));
    return array;
}

PyObject* wrap_numpy(const ArrayView& view, PyObject* owner) {
    npy_intp extents[max_rank];
    for (int axis = 0; axis < view.shape.rank; ++axis) extents[axis] = view.shape.extent[axis];
    PyObject* array = PyArray_SimpleNewFromData(view.shape.rank, extents, numpy_type(view.dtype), view.data);
    if (!array) {
        Py_DECREF(owner);
        return nullptr;
    }
    if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), owner) < 0) {  // steals owner
        Py_DECREF(array);
        return nullptr;
    }
    return array;
}

}  // namespace fusedcam::bind
