// _cpu: kernels on the CPU, Python's lock given back for the long ones.
#include "backend.hpp"
#include "lock.hpp"

namespace fusedcam::bind::backend {
namespace {

template <class Call>
void compute(const Call& call, void (*kernel)(const Call&)) {
    const WithoutLock lock(call.work >= serial_below);
    kernel(call);
}

}  // namespace

bool serves(Device device) { return device == Device{}; }
const bool raise_keeps_out = true;

void run(const CamCall& call, const Borrowed&) { compute(call, cpu::cam); }
void run(const ResizeCall& call, const Borrowed&) { compute(call, cpu::resize); }
void run(const FuseCall& call, const Borrowed&) { compute(call, cpu::fuse); }
void run(const ColorizeCall& call, const Borrowed&) { compute(call, cpu::colorize); }
void run(const OverlayCall& call, const Borrowed&) { compute(call, cpu::overlay); }
void run(const MaskCall& call, const Borrowed&) { compute(call, cpu::mask); }

PyObject* dlpack_stream(const Borrowed&) { return nullptr; }
void follow(const Borrowed&, void*) {}
int device_of_memory(const void*) { return 0; }

}  // namespace fusedcam::bind::backend
