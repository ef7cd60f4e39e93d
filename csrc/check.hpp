// Refusals: what is thrown for bad input, and the checks several ops share. The binding turns TypeMismatch into a
// TypeError and std::invalid_argument into a ValueError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "array_view.hpp"

namespace fusedcam {

struct TypeMismatch : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream stream;
    (stream << ... << parts);
    return stream.str();
}

// At most `bytes` of UTF-8 that do not end inside a character: Python refuses a message cut there.
inline size_t whole_characters(std::string_view words, size_t bytes) {
    if (bytes >= words.size()) return words.size();
    while (bytes > 0 && (words[bytes] & 0xc0) == 0x80) --bytes;
    return bytes;
}

// A caller's string as a message shows it: what cannot be printed as '?', at most 80 bytes of it.
std::string quoted(std::string_view words);

// Kept out of line, so that the paths that refuse nothing stay short.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void refuse_value(const Parts&... parts) {
    throw std::invalid_argument(text(parts...));
}

template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void refuse_type(const Parts&... parts) {
    throw TypeMismatch(text(parts...));
}

// "(2, 64, 7, 7)", as Python writes it.
std::string show(const Shape& shape);
// "the CPU", "cuda:0", ...
std::string show(Device device);

// One named argument, for messages.
struct Named {
    const char* name;
    const ArrayView& view;
};

// An element type that is not taken; what is depends on the argument.
[[noreturn, gnu::cold]] void refuse_dtype(const char* op, std::string_view argument, const std::string& found);
void check_floating(const char* op, Named array);
// The device of `other` must be that of `first`.
void check_place(const char* op, Named first, Named other);
// Beyond this the sampling coordinates would leave 64-bit integers.
constexpr int64_t max_extent = int64_t{1} << 31;
// Beyond this counts of bytes would.
constexpr double max_elements = static_cast<double>(int64_t{1} << 56);

void check_eps(const char* op, const char* name, double eps);
// The dtype and device of `other` must be those of `first`.
void check_alike(const char* op, Named first, Named other);
// A result of this shape must be addressable and, on the CPU, fit into the machine's memory, beside `working` bytes
// that computing it takes; other devices' allocators say what they have. Returns its own size in bytes.
double check_fits(const char* op, const Shape& shape, DType dtype, double working, Device device);
// `out` must have the shape, dtype and device of the result, be writable, not overlap itself nor any input.
void check_out(const char* op, const ArrayView& out, const Shape& shape, DType dtype,
               std::initializer_list<const ArrayView*> inputs);

}  // namespace fusedcam
