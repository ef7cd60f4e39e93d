// _cuda: kernels on the caller's stream. Starting them takes microseconds, for which Python's lock is kept.
#include <cstdint>
#include <optional>

#include "../check.hpp"
#include "backend.hpp"
#include "lock.hpp"

namespace fusedcam::bind::backend {
namespace {

// The legacy default stream, with which every blocking stream of the device is in order: for frameworks that do not
// say which stream is theirs.
void* const legacy_stream = reinterpret_cast<void*>(uintptr_t{1});

// The stream on which the array's framework expects work now.
void* stream_of(const Borrowed& like) {
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
    void* stream = number == Py_None ? legacy_stream : PyLong_AsVoidPtr(number);
    Py_DECREF(number);
    if (!stream && PyErr_Occurred()) throw PythonError{};
    return stream;
}

template <class Call>
void start(const Call& call, const Borrowed& like, void (*op)(const Call&, const cuda::Queue&), bool waits) {
    const int device = call.out.device.index;
    cuda::Queue queue = queue_of(like);
    const int64_t bytes = cuda::workspace(call, device);
    std::optional<Result> workspace;  // given back in the stream's order
    if (bytes > 0) {
        Shape shape;
        shape.append(bytes);
        workspace.emplace(like, shape, DType::uint8);
        queue.workspace = workspace->view().data;
    }
    const WithoutLock lock(waits);
    op(call, queue);
}

}  // namespace

cuda::Queue queue_of(const Borrowed& like) { return {like.view().device.index, stream_of(like), nullptr}; }

// Arrays on the CPU come this far beside others on CUDA, which the ops' checks refuse in words.
bool serves(Device device) { return device == Device{} || device.type == 2; }
const bool raise_keeps_out = false;

void run(const CamCall& call, const Borrowed& like) {
    start(call, like, cuda::cam, call.options.nan == NanPolicy::raise);
}
void run(const ResizeCall& call, const Borrowed& like) { start(call, like, cuda::resize, false); }
void run(const ColorizeCall& call, const Borrowed& like) { start(call, like, cuda::colorize, false); }
void run(const OverlayCall& call, const Borrowed& like) { start(call, like, cuda::overlay, false); }

PyObject* dlpack_stream(const Borrowed& borrowed) { return PyLong_FromVoidPtr(stream_of(borrowed)); }
int device_of_memory(const void* pointer) { return cuda::device_of(pointer); }

}  // namespace fusedcam::bind::backend
