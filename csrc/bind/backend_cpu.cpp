// _cpu: kernels on the CPU, Python's lock given back for the long ones.
#include "backend.hpp"
#include "lock.hpp"

namespace fusedcam::bind::backend {
namespace {

template <class Call>
void compute(const Call& call, void (*kernel)(const Call&), double work) {
    const WithoutLock lock(work >= serial_below);
    kernel(call);
}

}  // namespace

bool serves(Device device) { return device == Device{}; }
const bool raise_keeps_out = true;

void run(const CamCall& call, const Borrowed&) { compute(call, cpu::cam, call.work); }
void run(const ResizeCall& call, const Borrowed&) { compute(call, cpu::resize, call.work); }
void run(const FuseCall& call, const Borrowed&) { compute(call, cpu::fuse, call.work); }
void run(const ColorizeCall& call, const Borrowed&) { compute(call, cpu::colorize, call.work); }
void run(const OverlayCall& call, const Borrowed&) { compute(call, cpu::overlay, call.work); }
void run(const MaskCall& call, const Borrowed&) { compute(call, cpu::mask, call.work); }
void run(const CamBackwardCall& call, const Borrowed&) { compute(call, cpu::cam_backward, call.forward.work); }
void run(const ResizeBackwardCall& call, const Borrowed&) { compute(call, cpu::resize_backward, call.forward.work); }

PyObject* dlpack_stream(const Borrowed&) { return nullptr; }
void follow(const Borrowed&, void*) {}
int device_of_memory(const void*) { return 0; }

}  // namespace fusedcam::bind::backend
