// _cuda: kernels on the caller's stream. Python's lock is given back: a launch waits where the device's queue is full,
// perhaps for work that needs the lock.
#include <cstdint>
#include <optional>

#include "../check.hpp"
#include "backend.hpp"
#include "lock.hpp"

namespace fusedcam::bind::backend {
namespace {

// The legacy default stream: for frameworks that do not say which stream is theirs (JAX, TensorFlow, Numba).
void* const legacy_stream = reinterpret_cast<void*>(uintptr_t{1});

// The stream on which the array's framework expects work now; null (with no error) if it does not say.
std::optional<void*> stream_of(const Borrowed& like) {
    const Device device = like.view().device;
    const Framework& framework = like.framework();
    if (framework.api && framework.api->current_work_stream) {
        void* stream = nullptr;
        if (framework.api->current_work_stream(device.type, device.index, &stream)) throw PythonError{};
        return stream;
    }
    PyObject* object = like.object();
    PyObject* number = ask_frameworks("stream", &object, 1);
    if (!number) throw PythonError{};
    std::optional<void*> stream;
    if (number != Py_None) stream = PyLong_AsVoidPtr(number);
    Py_DECREF(number);
    if (PyErr_Occurred()) throw PythonError{};
    return stream;
}

template <class Call>
void start(const Call& call, const Borrowed& like, void (*op)(const Call&, const cuda::Queue&)) {
    const int device = like.view().device.index;
    const std::optional<void*> stream = stream_of(like);
    cuda::Queue queue{device, stream.value_or(legacy_stream), nullptr};
    const int64_t bytes = cuda::workspace(call, device);
    std::optional<Result> workspace;  // given back in the stream's order
    if (bytes > 0) {
        Shape shape;
        shape.append(bytes);
        workspace.emplace(like, shape, DType::uint8);
        queue.workspace = workspace->view().data;
    }
    const WithoutLock lock(true);
    op(call, queue);
    // A framework whose streams are unknown may read the result, or use the inputs' memory again, at once and anywhere.
    if (!stream) cuda::wait(queue);
}

}  // namespace

cuda::Queue queue_of(const Borrowed& like) {
    return {like.view().device.index, stream_of(like).value_or(legacy_stream), nullptr};
}

// Arrays on the CPU come this far beside others on CUDA, which the ops' checks refuse in words.
bool serves(Device device) { return device == Device{} || device.type == 2; }
const bool raise_keeps_out = false;

void run(const CamCall& call, const Borrowed& like) { start(call, like, cuda::cam); }
void run(const ResizeCall& call, const Borrowed& like) { start(call, like, cuda::resize); }
void run(const FuseCall& call, const Borrowed& like) { start(call, like, cuda::fuse); }
void run(const ColorizeCall& call, const Borrowed& like) { start(call, like, cuda::colorize); }
void run(const OverlayCall& call, const Borrowed& like) { start(call, like, cuda::overlay); }
void run(const MaskCall& call, const Borrowed& like) { start(call, like, cuda::mask); }
void run(const CamBackwardCall& call, const Borrowed& like) { start(call, like, cuda::cam_backward); }
void run(const ResizeBackwardCall& call, const Borrowed& like) { start(call, like, cuda::resize_backward); }

PyObject* dlpack_stream(const Borrowed& borrowed) {
    // TensorFlow takes no stream: it waits for its own before it hands memory over.
    if (borrowed.framework().package == "tensorflow") return nullptr;
    return PyLong_FromVoidPtr(stream_of(borrowed).value_or(legacy_stream));
}
void follow(const Borrowed& borrowed, void* producer) { cuda::follow(queue_of(borrowed), producer); }
int device_of_memory(const void* pointer) { return cuda::device_of(pointer); }

}  // namespace fusedcam::bind::backend
