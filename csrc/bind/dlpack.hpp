// DLPack 1.3's structs, written from its specification: what frameworks hand over, and the table of C functions
// ("exchange API") through which they do so without Python calls.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../dtype.hpp"

namespace fusedcam::dlpack {

struct Device {
    int32_t type;
    int32_t index;
};

namespace devices {
constexpr int32_t cpu_device = 1, cuda_device = 2, pinned_device = 3, managed_device = 13;
}

struct DataType {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

enum Code : uint8_t { code_int = 0, code_uint = 1, code_float = 2, code_bfloat = 4, code_complex = 5, code_bool = 6 };

struct Tensor {
    void* data;
    Device device;
    int32_t rank;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; may be null for a dense array
    uint64_t byte_offset;
};

// The capsule "dltensor".
struct Managed {
    Tensor tensor;
    void* context;
    void (*deleter)(Managed*);
};

struct Version {
    uint32_t major, minor;
};

constexpr uint64_t flag_read_only = 1;

// The capsule "dltensor_versioned".
struct ManagedVersioned {
    Version version;
    void* context;
    void (*deleter)(ManagedVersioned*);
    uint64_t flags;
    Tensor tensor;
};

// The capsule "dlpack_exchange_api", on a type. Functions return 0, or -1 with a Python error set.
struct ExchangeApi {
    Version version;
    ExchangeApi* previous;
    int (*allocate)(Tensor* prototype, ManagedVersioned** out, void* error_context,
                    void (*set_error)(void* error_context, const char* kind, const char* message));
    int (*managed_from_object)(void* object, ManagedVersioned** out);
    int (*managed_to_object)(ManagedVersioned* tensor, void** out);
    int (*tensor_from_object)(void* object, Tensor* out);
    int (*current_work_stream)(int32_t device_type, int32_t device_index, void** out);
};

// Of the results' element types.
constexpr DataType dtype_of(DType dtype) {
    if (dtype == DType::uint8) return {code_uint, 8, 1};
    if (dtype == DType::bfloat16) return {code_bfloat, 16, 1};
    return {code_float, static_cast<uint8_t>(8 * item_size(dtype)), 1};
}

static_assert(sizeof(void*) == 8);
static_assert(sizeof(Tensor) == 48 && offsetof(Tensor, device) == 8 && offsetof(Tensor, rank) == 16);
static_assert(offsetof(Tensor, dtype) == 20 && offsetof(Tensor, shape) == 24 && offsetof(Tensor, strides) == 32);
static_assert(offsetof(Tensor, byte_offset) == 40);
static_assert(sizeof(Managed) == 64 && offsetof(Managed, context) == 48 && offsetof(Managed, deleter) == 56);
static_assert(sizeof(ManagedVersioned) == 80 && offsetof(ManagedVersioned, context) == 8);
static_assert(offsetof(ManagedVersioned, deleter) == 16 && offsetof(ManagedVersioned, flags) == 24);
static_assert(offsetof(ManagedVersioned, tensor) == 32);
static_assert(sizeof(ExchangeApi) == 56 && offsetof(ExchangeApi, previous) == 8 &&
              offsetof(ExchangeApi, allocate) == 16);
static_assert(offsetof(ExchangeApi, managed_to_object) == 32 && offsetof(ExchangeApi, tensor_from_object) == 40);

}  // namespace fusedcam::dlpack
