// Probing types: MRO and attributes are looked at once, then a short table is searched by the type's address.
#include "framework.hpp"

#include <cstring>

#include "numpy.hpp"

namespace fusedcam::bind {
namespace {

constexpr int table_size = 32;
Framework* table[table_size];
int table_count = 0;

PyObject* requires_grad_getter = nullptr;  // torch.Tensor.requires_grad, a getset descriptor
PyObject* is_negative_method = nullptr;    // torch.Tensor.is_neg, a method descriptor
PyObject* grad_enabled_function = nullptr;

// A new reference or null, without an error.
PyObject* attribute(PyObject* object, const char* name) {
    PyObject* value = PyObject_GetAttrString(object, name);
    if (!value) PyErr_Clear();
    return value;
}

std::string module_of(PyTypeObject* type) {
    PyObject* name = attribute(reinterpret_cast<PyObject*>(type), "__module__");
    const char* characters = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : nullptr;
    std::string result = characters ? characters : "";
    Py_XDECREF(name);
    return result;
}

std::string package_of(PyTypeObject* type) {
    const std::string module = module_of(type);
    return module.substr(0, module.find('.'));
}

const char* short_name(PyTypeObject* type) {
    const char* dot = std::strrchr(type->tp_name, '.');
    return dot ? dot + 1 : type->tp_name;
}

bool has_base(PyTypeObject* type, const char* package, const char* name) {
    PyObject* mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro && i < PyTuple_GET_SIZE(mro); ++i) {
        auto* base = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i));
        if (!std::strcmp(short_name(base), name) && package_of(base) == package) return true;
    }
    return false;
}

const dlpack::ExchangeApi* exchange_api(PyObject* type) {
    PyObject* capsule = attribute(type, "__dlpack_c_exchange_api__");
    if (!capsule) capsule = attribute(type, "__c_dlpack_exchange_api__");  // the name before DLPack 1.3
    const dlpack::ExchangeApi* api = nullptr;
    if (capsule && PyCapsule_IsValid(capsule, "dlpack_exchange_api"))
        api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_XDECREF(capsule);
    while (api && api->version.major > 1) api = api->previous;
    const bool usable = api && api->version.major == 1 && api->tensor_from_object && api->managed_to_object;
    return usable ? api : nullptr;
}

// A subclass with a dispatch of its own may mean something else by its memory.
bool redefines_dispatch(PyObject* type) {
    PyObject* dispatch = attribute(type, "__torch_dispatch__");
    PyObject* c = dispatch ? PyImport_ImportModule("torch._C") : nullptr;
    PyObject* disabled = c ? attribute(c, "_disabled_torch_dispatch_impl") : nullptr;
    PyErr_Clear();
    const bool own = dispatch && dispatch != disabled && !PyCFunction_Check(dispatch);
    Py_XDECREF(disabled);
    Py_XDECREF(c);
    Py_XDECREF(dispatch);
    return own;
}

void probe_torch(Framework& framework) {
    const std::string module = module_of(framework.type);
    const char* name = short_name(framework.type);
    framework.plain_torch = (module == "torch" && !std::strcmp(name, "Tensor")) ||
                            (module == "torch.nn.parameter" && !std::strcmp(name, "Parameter"));
    framework.package = "torch";
    if (!framework.plain_torch && redefines_dispatch(reinterpret_cast<PyObject*>(framework.type)))
        framework.refusal = "a tensor subclass with a dispatch of its own; pass the plain tensor it stands for";
    if (grad_enabled_function) return;
    PyObject* torch = PyImport_ImportModule("torch");
    PyObject* tensor = torch ? PyObject_GetAttrString(torch, "Tensor") : nullptr;
    requires_grad_getter = tensor ? PyObject_GetAttrString(tensor, "requires_grad") : nullptr;
    is_negative_method = requires_grad_getter ? PyObject_GetAttrString(tensor, "is_neg") : nullptr;
    PyObject* enabled = is_negative_method ? PyObject_GetAttrString(torch, "is_grad_enabled") : nullptr;
    Py_XDECREF(tensor);
    Py_XDECREF(torch);
    if (!enabled) throw PythonError{};
    grad_enabled_function = enabled;
}

Framework probe(PyTypeObject* type) {
    Framework framework;
    framework.type = type;
    PyObject* object = reinterpret_cast<PyObject*>(type);
    framework.package = package_of(type);
    framework.torch = has_base(type, "torch", "Tensor") || has_base(type, "torch", "TensorBase");
    framework.immutable =
        framework.package == "jaxlib" || framework.package == "jax" || framework.package == "tensorflow";
    const bool buffer = type->tp_as_buffer && type->tp_as_buffer->bf_getbuffer;
    if (is_numpy(type)) {
        framework.protocol = Protocol::numpy;
        framework.package = "numpy";
        if (has_base(type, "numpy", "MaskedArray"))
            framework.refusal = "a masked array, whose mask would be lost; pass array.filled(value)";
    } else if ((framework.api = exchange_api(object))) {
        framework.protocol = Protocol::exchange;
    } else if (PyObject_HasAttrString(object, "__dlpack__")) {
        framework.protocol = buffer ? Protocol::buffer : Protocol::dlpack;
    } else if (PyObject_HasAttrString(object, "__cuda_array_interface__")) {
        framework.protocol = Protocol::cuda_interface;
    } else if (buffer) {
        framework.protocol = Protocol::buffer;
        framework.package = "numpy";  // what comes out for a plain buffer
    }
    framework.numpy = framework.package == "numpy";
    if (framework.torch) probe_torch(framework);
    if (has_base(type, "jax", "Tracer"))
        framework.refusal =
            "a JAX tracer, which has no values yet; call outside of jit, vmap and grad, or through jax.pure_callback";
    return framework;
}

bool truth(PyObject* value) {
    if (!value) throw PythonError{};
    const bool result = value == Py_True;
    Py_DECREF(value);
    return result;
}

}  // namespace

Framework& framework_of(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    for (int i = 0; i < table_count; ++i)
        if (table[i]->type == type) return *table[i];
    Framework found = probe(type);
    if (table_count == table_size || found.protocol == Protocol::none) {
        static thread_local Framework latest[4];  // one for each array argument of a call
        static thread_local int turn = 0;
        return latest[turn++ % 4] = std::move(found);
    }
    Py_INCREF(type);  // its address must not be used again for another type
    table[table_count] = new Framework(std::move(found));
    return *table[table_count++];
}

bool same_framework(const Framework& first, const Framework& second) {
    return first.type == second.type || first.package == second.package;
}

bool torch_requires_grad(const Framework& framework, PyObject* tensor) {
    if (framework.plain_torch && Py_IS_TYPE(requires_grad_getter, &PyGetSetDescr_Type)) {
        const PyGetSetDef* getter = reinterpret_cast<PyGetSetDescrObject*>(requires_grad_getter)->d_getset;
        return truth(getter->get(tensor, getter->closure));
    }
    return truth(PyObject_GetAttrString(tensor, "requires_grad"));
}

bool torch_grad_enabled() { return truth(PyObject_CallNoArgs(grad_enabled_function)); }

void torch_note_write(PyObject* tensor) {
    PyObject* graph = PyImport_ImportModule("torch.autograd.graph");
    PyObject* counted = graph ? PyObject_CallMethod(graph, "increment_version", "O", tensor) : nullptr;
    PyErr_Clear();  // tensors made in inference mode have no version, and no graph saves them
    Py_XDECREF(counted);
    Py_XDECREF(graph);
}

bool torch_negative(const Framework& framework, PyObject* tensor) {
    if (framework.plain_torch && Py_IS_TYPE(is_negative_method, &PyMethodDescr_Type)) {
        const PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(is_negative_method)->d_method;
        if (method->ml_flags == METH_NOARGS) return truth(method->ml_meth(tensor, nullptr));
    }
    return truth(PyObject_Vectorcall(is_negative_method, &tensor, 1, nullptr));
}

}  // namespace fusedcam::bind
