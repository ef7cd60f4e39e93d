// Compiles only if our DLPack structs lie in memory as those of DLPack's own header do.
#include DLPACK_HEADER

#include "bind/dlpack.hpp"

namespace ours = fusedcam::dlpack;

#define SAME_PLACE(type, member, their_type, their_member) \
    static_assert(offsetof(ours::type, member) == offsetof(their_type, their_member))

static_assert(sizeof(ours::Tensor) == sizeof(DLTensor));
SAME_PLACE(Tensor, data, DLTensor, data);
SAME_PLACE(Tensor, device, DLTensor, device);
SAME_PLACE(Tensor, rank, DLTensor, ndim);
SAME_PLACE(Tensor, dtype, DLTensor, dtype);
SAME_PLACE(Tensor, shape, DLTensor, shape);
SAME_PLACE(Tensor, strides, DLTensor, strides);
SAME_PLACE(Tensor, byte_offset, DLTensor, byte_offset);

static_assert(sizeof(ours::Managed) == sizeof(DLManagedTensor));
SAME_PLACE(Managed, context, DLManagedTensor, manager_ctx);
SAME_PLACE(Managed, deleter, DLManagedTensor, deleter);

static_assert(sizeof(ours::ManagedVersioned) == sizeof(DLManagedTensorVersioned));
SAME_PLACE(ManagedVersioned, version, DLManagedTensorVersioned, version);
SAME_PLACE(ManagedVersioned, context, DLManagedTensorVersioned, manager_ctx);
SAME_PLACE(ManagedVersioned, deleter, DLManagedTensorVersioned, deleter);
SAME_PLACE(ManagedVersioned, flags, DLManagedTensorVersioned, flags);
SAME_PLACE(ManagedVersioned, tensor, DLManagedTensorVersioned, dl_tensor);

static_assert(sizeof(ours::ExchangeApi) == sizeof(DLPackExchangeAPI));
SAME_PLACE(ExchangeApi, allocate, DLPackExchangeAPI, managed_tensor_allocator);
SAME_PLACE(ExchangeApi, managed_from_object, DLPackExchangeAPI, managed_tensor_from_py_object_no_sync);
SAME_PLACE(ExchangeApi, managed_to_object, DLPackExchangeAPI, managed_tensor_to_py_object_no_sync);
SAME_PLACE(ExchangeApi, tensor_from_object, DLPackExchangeAPI, dltensor_from_py_object_no_sync);
SAME_PLACE(ExchangeApi, current_work_stream, DLPackExchangeAPI, current_work_stream);

static_assert(static_cast<int>(ours::code_int) == kDLInt && static_cast<int>(ours::code_uint) == kDLUInt);
static_assert(static_cast<int>(ours::code_float) == kDLFloat && static_cast<int>(ours::code_bfloat) == kDLBfloat);
static_assert(static_cast<int>(ours::code_complex) == kDLComplex && static_cast<int>(ours::code_bool) == kDLBool);
static_assert(ours::flag_read_only == DLPACK_FLAG_BITMASK_READ_ONLY);
