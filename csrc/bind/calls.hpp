// What the calls of all ops share: refusals as Python's exceptions, and where results go.
#pragma once

#include <new>
#include <optional>

#include "arguments.hpp"
#include "backend.hpp"
#include "exchange.hpp"

namespace fusedcam::bind {

// The same call by the other module's op of that name: a new reference, or null with a Python error set. When there is
// no such module, the error says why beside what this one refuses.
PyObject* hand_over(const Elsewhere& elsewhere, const char* op, PyObject* const* values, Py_ssize_t positional,
                    PyObject* keywords);
// The same by what fusedcam.torch.op has for that op; the exception's words where it has nothing.
PyObject* hand_over(const Traced& traced, const char* op, PyObject* const* values, Py_ssize_t positional,
                    PyObject* keywords);

// C++'s refusals as Python's exceptions.
template <class Body>
PyObject* guarded(const char* op, PyObject* const* values, Py_ssize_t positional, PyObject* keywords, Body&& body) {
    try {
        return body();
    } catch (const PythonError&) {
    } catch (const Elsewhere& error) {
        return hand_over(error, op, values, positional, keywords);
    } catch (const Traced& traced) {
        return hand_over(traced, op, values, positional, keywords);
    } catch (const TypeMismatch& error) {
        PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_SetString(PyExc_MemoryError, "fusedcam: no memory for the result and what computing it takes");
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

// Where a result goes: into `out` when it is given, else into new memory of the framework of `like`.
class Destination {
  public:
    Destination(const char* op, PyObject* out, const Borrowed& like, const Shape& shape, DType dtype,
                std::initializer_list<const ArrayView*> inputs) {
        if (!out) {
            fresh_.emplace(like, shape, dtype);
            return;
        }
        given_.emplace(op, "out", out);
        given_->must_match(op, "out", like, "the input");
        check_out(op, given_->view(), shape, dtype, inputs);
    }

    const ArrayView& view() const { return given_ ? given_->view() : fresh_->view(); }
    bool given() const { return given_.has_value(); }
    // A new reference, or null with a Python error set.
    PyObject* release() {
        if (!given_) return fresh_->release();
        if (given_->framework().torch) torch_note_write(given_->object());
        return Py_NewRef(given_->object());
    }

  private:
    std::optional<Borrowed> given_;
    std::optional<Result> fresh_;
};

}  // namespace fusedcam::bind
