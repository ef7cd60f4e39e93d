// Arrays out, on CUDA: of the framework's own allocator where it can be asked (torch, CuPy), so that its statistics and
// record_stream stay right; else stream-ordered memory that goes over by DLPack and is freed on the stream it was made
// on.
#include <new>
#include <utility>

#include "../check.hpp"
#include "backend.hpp"

namespace fusedcam::bind {
namespace {

struct Block {
    dlpack::ManagedVersioned managed;
    dlpack::Managed legacy;  // the same for those that know no other
    int64_t axes[2 * max_rank];
};

void free_block(dlpack::ManagedVersioned* managed) {
    auto* block = static_cast<Block*>(managed->context);
    cuda::release(managed->tensor.data, managed->tensor.device.index);
    delete block;
}

void free_legacy(dlpack::Managed* managed) { free_block(&static_cast<Block*>(managed->context)->managed); }

// A consumer that takes the memory over renames the capsule.
void free_legacy_capsule(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;
    free_legacy(static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, "dltensor")));
}
void free_capsule(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor_versioned")) return;
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    managed->deleter(managed);
}

// The capsule "dltensor" in place of the versioned one that it is given.
PyObject* legacy_capsule(PyObject*, PyObject* versioned) {
    if (!PyCapsule_IsValid(versioned, "dltensor_versioned")) {
        PyErr_SetString(PyExc_TypeError, "legacy_capsule takes a live capsule of fusedcam's");
        return nullptr;
    }
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(versioned, "dltensor_versioned"));
    PyObject* capsule = PyCapsule_New(&static_cast<Block*>(managed->context)->legacy, "dltensor", free_legacy_capsule);
    if (capsule) PyCapsule_SetName(versioned, "used_dltensor_versioned");
    return capsule;
}
PyMethodDef legacy_method = {"legacy_capsule", legacy_capsule, METH_O, nullptr};

PyObject* shape_tuple(const Shape& shape) {
    PyObject* tuple = PyTuple_New(shape.rank);
    for (int axis = 0; tuple && axis < shape.rank; ++axis)
        PyTuple_SET_ITEM(tuple, axis, PyLong_FromLongLong(shape.extent[axis]));
    if (!tuple || PyErr_Occurred()) throw PythonError{};
    return tuple;
}

}  // namespace

Result::Result(const Borrowed& like, const Shape& shape, DType dtype) : like_(like) {
    PyObject* extents = shape_tuple(shape);
    PyObject* type = PyUnicode_FromString(name(dtype));
    PyObject* arguments[] = {like.object(), extents, type};
    PyObject* array = type ? ask_frameworks("empty", arguments, 3) : nullptr;
    Py_DECREF(extents);
    Py_XDECREF(type);
    if (!array) throw PythonError{};
    if (array != Py_None) {
        array_ = array;
        try {
            const Borrowed made("fusedcam", "the result", array);
            view_ = made.view();
        } catch (...) {
            Py_CLEAR(array_);
            throw;
        }
        return;
    }
    Py_DECREF(array);
    const Device device = like.view().device;
    const cuda::Queue queue = backend::queue_of(like);
    void* memory = cuda::reserve(shape.count() * item_size(dtype), queue);
    view_ = dense_view(memory, shape, dtype, device);
    auto* block = new Block{};
    for (int axis = 0; axis < shape.rank; ++axis) {
        block->axes[axis] = shape.extent[axis];
        block->axes[max_rank + axis] = view_.strides[axis];
    }
    block->managed = {{1, 0},
                      block,
                      free_block,
                      0,
                      {memory,
                       {device.type, device.index},
                       shape.rank,
                       dlpack::dtype_of(dtype),
                       block->axes,
                       block->axes + max_rank,
                       0}};
    block->legacy = {block->managed.tensor, block, free_legacy};
    block_ = &block->managed;
}

Result::~Result() {
    Py_XDECREF(array_);
    if (block_) block_->deleter(block_);
}

PyObject* Result::release() {
    if (array_) return std::exchange(array_, nullptr);
    PyObject* capsule = PyCapsule_New(block_, "dltensor_versioned", free_capsule);
    if (!capsule) return nullptr;
    block_ = nullptr;  // the capsule's now
    PyObject* legacy = PyCFunction_New(&legacy_method, nullptr);
    PyObject* device = legacy ? Py_BuildValue("(ii)", view_.device.type, view_.device.index) : nullptr;
    PyObject* arguments[] = {capsule, legacy, device, like_.object()};
    PyObject* converted = device ? ask_frameworks("from_capsule", arguments, 4) : nullptr;
    Py_XDECREF(device);
    Py_XDECREF(legacy);
    Py_DECREF(capsule);
    return converted;
}

}  // namespace fusedcam::bind
