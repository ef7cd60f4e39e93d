// Arguments of the fast entry points: keywords matched to a signature, then read as C++ values. Passing keywords
// through pybind11 would cost more than a small call itself.
#pragma once

#include <Python.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "../check.hpp"
#include "../ops.hpp"
#include "framework.hpp"

namespace fusedcam::bind {

constexpr size_t most_arguments = 16;

struct Signature {
    const char* op;
    int positional;  // how many arguments may be given without their names
    int required;    // how many must be given
    std::array<const char*, most_arguments> names{};
    int count = 0;
    std::array<PyObject*, most_arguments> interned{};

    Signature(const char* op, int positional, int required, std::initializer_list<const char*> list);
    int find(PyObject* keyword) const;
};

class Arguments {
  public:
    Arguments(const Signature& signature, PyObject* const* values, Py_ssize_t positional, PyObject* keywords);

    // Null when not given or None.
    PyObject* get(int index) const {
        PyObject* value = raw(index);
        return value == Py_None ? nullptr : value;
    }

    bool given(int index) const { return raw(index) != nullptr; }

    // Of an argument that the signature says must be given.
    PyObject* required(int index) const { return raw(index); }

    bool boolean(int index, bool fallback) const { return raw(index) ? read_boolean(index) : fallback; }
    int64_t integer(int index, int64_t fallback) const { return raw(index) ? read_integer(index) : fallback; }
    double number(int index) const;
    double number(int index, double fallback) const { return raw(index) ? number(index) : fallback; }
    std::string_view string(int index, std::string_view fallback) const {
        return raw(index) ? read_string(index) : fallback;
    }
    // One to three extents, or one int for all.
    std::optional<Extents> extents(int index, const char* accepted) const;
    std::optional<Size> size(int index, int64_t spatial = 2) const;

    // The position of a string among the accepted ones.
    template <size_t n>
    size_t choice(int index, size_t fallback, const std::array<std::string_view, n>& accepted) const {
        if (!raw(index)) return fallback;
        return choice(index, accepted.data(), n);
    }

    // Normalize::minmax, max, or none for None; `fallback` when not given.
    Normalize normalize(int index, Normalize fallback) const { return raw(index) ? read_normalize(index) : fallback; }

    std::string refusal(int index, const char* accepted) const;
    [[noreturn, gnu::cold]] void refuse(int index, const char* accepted, bool type) const;

  private:
    PyObject* raw(int index) const { return values_[static_cast<size_t>(index)]; }
    bool read_boolean(int index) const;
    int64_t read_integer(int index) const;
    std::string_view read_string(int index) const;
    Normalize read_normalize(int index) const;
    size_t choice(int index, const std::string_view* accepted, size_t count) const;
    int64_t extent(int index, PyObject* value) const;

    const Signature& signature_;
    std::array<PyObject*, most_arguments> values_{};
};

}  // namespace fusedcam::bind
