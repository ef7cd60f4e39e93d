// Arrays out, on the CPU: memory of our own that the framework adopts, or NumPy's.
#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <utility>

#include "exchange.hpp"
#include "numpy.hpp"

namespace fusedcam::bind {
namespace {

void free_block(dlpack::ManagedVersioned* block) { std::free(block); }

// Memory for `bytes`. From some megabytes on, the first touch of every small page costs as much as many writes to it,
// so that the system is asked for large ones. Not aligned to them: memory that malloc has at hand was touched before.
void* allocate(size_t bytes) {
    void* memory = std::malloc(bytes);
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t large_page = 2 << 20, from = 4 << 20;
    if (memory && bytes >= from) {
        const uintptr_t start = reinterpret_cast<uintptr_t>(memory),
                        begin = (start + large_page - 1) & ~(large_page - 1), end = (start + bytes) & ~(large_page - 1);
        madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // refused, it stays as it is
    }
#endif
    return memory;
}

// One allocation holds the struct, shape and strides, and the elements, aligned as every framework likes them.
dlpack::ManagedVersioned* new_block(const Shape& shape, DType dtype) {
    constexpr uintptr_t alignment = 64;
    const size_t head = sizeof(dlpack::ManagedVersioned) + 2 * sizeof(int64_t) * static_cast<size_t>(shape.rank);
    const size_t body = static_cast<size_t>(shape.count()) * static_cast<size_t>(item_size(dtype));
    void* memory = allocate(head + body + alignment);  // aligned by hand: aligned_alloc takes three times as long
    if (!memory) throw std::bad_alloc();
    auto* block = new (memory) dlpack::ManagedVersioned;
    auto* extents = reinterpret_cast<int64_t*>(block + 1);
    const uintptr_t end = reinterpret_cast<uintptr_t>(memory) + head;
    const ArrayView view =
        dense_view(reinterpret_cast<void*>((end + alignment - 1) / alignment * alignment), shape, dtype);
    for (int axis = 0; axis < shape.rank; ++axis) {
        extents[axis] = shape.extent[axis];
        extents[shape.rank + axis] = view.strides[axis];
    }
    *block = {{1, 0},
              nullptr,
              free_block,
              0,
              {view.data, {1, 0}, shape.rank, dlpack::dtype_of(dtype), extents, extents + shape.rank, 0}};
    return block;
}

void free_owned(PyObject* capsule) { std::free(PyCapsule_GetPointer(capsule, nullptr)); }

}  // namespace

Result::Result(const Borrowed& like, const Shape& shape, DType dtype) : like_(like) {
    if (like.framework().numpy) {
        void* data = nullptr;
        array_ = new_numpy(shape, dtype, like.object(), &data);
        if (!array_) throw PythonError{};
        view_ = dense_view(data, shape, dtype);
    } else {
        block_ = new_block(shape, dtype);
        view_ = dense_view(block_->tensor.data, shape, dtype);
    }
}

Result::~Result() {
    Py_XDECREF(array_);
    if (block_) block_->deleter(block_);
}

PyObject* Result::release() {
    if (array_) return std::exchange(array_, nullptr);
    if (like_.framework().api) {
        void* object = nullptr;
        if (like_.framework().api->managed_to_object(block_, &object)) return nullptr;
        block_ = nullptr;  // the framework's now
        return static_cast<PyObject*>(object);
    }
    PyObject* owner = PyCapsule_New(block_, nullptr, free_owned);
    if (!owner) return nullptr;
    block_ = nullptr;
    PyObject* array = wrap_numpy(view_, owner);
    if (!array) return nullptr;
    PyObject* arguments[] = {array, like_.object()};
    PyObject* converted = ask_frameworks("from_numpy", arguments, 2);
    Py_DECREF(array);
    return converted;
}

}  // namespace fusedcam::bind
