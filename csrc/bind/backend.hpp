// What the two native modules differ in: backend_cpu.cpp is _cpu's, backend_cuda.cpp is _cuda's.
#pragma once

#include "../ops.hpp"
#include "exchange.hpp"

namespace fusedcam::bind::backend {

// Whether this module computes on that device. Calls with arrays elsewhere are handed to the other module.
bool serves(Device device);

// nan="raise" knows only at the end whether to refuse, and a refused call on the CPU leaves `out` as it was; on CUDA,
// where a copy would take memory and a launch, it may have been written.
extern const bool raise_keeps_out;

// Runs a planned call, on the device and stream that the framework of `like` has chosen.
void run(const CamCall& call, const Borrowed& like);
void run(const ResizeCall& call, const Borrowed& like);
void run(const FuseCall& call, const Borrowed& like);
void run(const ColorizeCall& call, const Borrowed& like);
void run(const OverlayCall& call, const Borrowed& like);
void run(const MaskCall& call, const Borrowed& like);
void run(const CamBackwardCall& call, const Borrowed& like);
void run(const ResizeBackwardCall& call, const Borrowed& like);

// The device and stream of calls on `like`, without a workspace; _cuda's alone.
cuda::Queue queue_of(const Borrowed& like);

// The stream that an array is read on, for `__dlpack__(stream=...)`; null without an error where there are no streams.
PyObject* dlpack_stream(const Borrowed& borrowed);
// What is read on that stream from now on waits for all that was started on the producer's.
void follow(const Borrowed& borrowed, void* producer);
// The index of the device that memory lies on, for __cuda_array_interface__, which does not say.
int device_of_memory(const void* pointer);

}  // namespace fusedcam::bind::backend
