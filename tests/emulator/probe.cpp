// What Python tests may ask the emulated module, by ctypes: whether it waited, and for whom.
#include "emulator.hpp"

using fusedcam::cuda::emulator::fake;

extern "C" [[gnu::visibility("default")]] int emulated_synchronizations() { return fake.counts.synchronizations; }
extern "C" [[gnu::visibility("default")]] int emulated_followed() { return static_cast<int>(fake.followed.size()); }
extern "C" [[gnu::visibility("default")]] int emulated_unfreed() { return static_cast<int>(fake.memory.size()); }
