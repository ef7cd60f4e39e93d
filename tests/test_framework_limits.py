"""Where frameworks have no values or no one place for them, and types beyond those that are remembered."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fusedcam
from frameworks import opened


@pytest.fixture
def a(rng):
    return rng.normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.fixture
def g(rng):
    return rng.normal(size=(2, 3, 4, 5)).astype(np.float32)


TRANSFORMS = {
    "jit": lambda f, x: jax.jit(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "grad": lambda f, x: jax.grad(lambda y: f(y).sum())(x),
    "scan": lambda f, x: jax.lax.scan(lambda carry, y: (carry, f(y)), 0, x),
    "eval_shape": jax.eval_shape,
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_tracers_are_refused(transform, rng):
    reason = (
        " is a JAX tracer, which has no values yet; call outside of jit, vmap and grad, or through jax.pure_callback"
    )
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5)).astype(np.float32))
    calls = {
        "cam: activations": lambda a: fusedcam.cam(a, a),
        "cam: gradients": lambda a: fusedcam.cam(x, a),
        "resize: heatmap": lambda a: fusedcam.resize(a, 9),
        "overlay: heatmap": lambda a: fusedcam.overlay(Image.new("RGB", (9, 8)), a),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError) as error:
            transform(call, x)
        assert str(error.value) == name + reason


def test_inside_jit_by_callback(a, g):
    """As the refusal advises."""
    shape = jax.ShapeDtypeStruct((2, 4, 5), np.float32)
    called = jax.jit(lambda a, g: jax.pure_callback(fusedcam.cam, shape, a, g))
    assert np.asarray(called(a, g)).tobytes() == fusedcam.cam(a, g).tobytes()


def test_deleted_arrays_are_refused():
    gone = jnp.ones((2, 3, 4, 5))
    gone.delete()
    with pytest.raises(
        TypeError, match=r"^cam: cannot read the memory of activations, a jaxlib\S+ \(.*is null\); pass"
    ):
        fusedcam.cam(gone, gone)


def alone(program, **environment):
    """Runs a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_jax_on_several_devices():
    """Results are on their input's device; an array over several devices is refused.

    It ends at once: on a busy machine XLA's own threads have aborted the process while Python was finishing.
    """
    alone(
        """
import os
import jax, numpy as np, fusedcam
from jax.sharding import Mesh, NamedSharding, PartitionSpec

a = np.random.default_rng().normal(size=(2, 3, 4, 5)).astype(np.float32)
for dtype in ("float32", "bfloat16"):
    for device in jax.devices():
        x = jax.device_put(jax.numpy.asarray(a, dtype), device)
        heat = fusedcam.cam(x, x)
        assert heat.device == device, (heat.device, device)
        assert np.asarray(heat).tobytes() == fusedcam.cam(np.asarray(x), np.asarray(x)).tobytes()
mesh = Mesh(np.array(jax.devices()), ("i",))
for spec in (PartitionSpec("i"), PartitionSpec()):
    x = jax.device_put(a, NamedSharding(mesh, spec))
    try:
        fusedcam.cam(x, x)
    except TypeError as error:
        assert "cannot read the memory of activations" in str(error) and "single shard" in str(error), error
    else:
        raise AssertionError("not refused")
os._exit(0)
""",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )


def test_more_types_than_are_remembered():
    """What is known of a type is kept for some of them; the others are looked at in each call."""
    alone("""
import numpy as np, fusedcam

def kind(i):
    class Kind:
        def __init__(self, array): self.array = array
        def __dlpack_device__(self): return (1, 0)
    def legacy(self): return self.array.__dlpack__()
    def versioned(self, max_version): return self.array.__dlpack__(max_version=max_version)
    Kind.__dlpack__ = versioned if i % 2 else legacy
    return Kind

rng = np.random.default_rng()
a, g = rng.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
image = rng.random(size=(2, 9, 8)).astype(np.float32)
heat, picture = fusedcam.cam(a, g), fusedcam.overlay(image, a[:, 0])
for i in range(100):
    one, two, three = kind(i), kind(i + 1), kind(1)
    assert fusedcam.cam(one(a), two(g)).tobytes() == heat.tobytes()
    out = three(np.zeros_like(picture))
    assert fusedcam.overlay(one(image), two(a[:, 0]), out=out) is out
    assert out.array.tobytes() == picture.tobytes()
    for wrong in (one(a.astype(int)), [], one):
        try:
            fusedcam.cam(wrong, two(g))
        except TypeError:
            continue
        raise AssertionError("not refused")
""")


@pytest.mark.slow
def test_tensorflow_elements_that_are_no_numbers():
    """TensorFlow's own __dlpack__ would end the process for some of them."""
    with opened("tensorflow"):
        import tensorflow as tf

    kinds = {
        "string": tf.constant(["a"]),
        "resource": tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2]),
        "variant": tf.raw_ops.EmptyTensorList(element_shape=[2], max_num_elements=2, element_dtype=tf.float32),
        "int32": tf.constant([1]),
        "bool": tf.constant([True]),
        "complex128": tf.constant([1j]),
    }
    for name, tensor in kinds.items():
        with pytest.raises(TypeError, match=f"^cam: dtype of activations is {name}; accepted are float32"):
            fusedcam.cam(tensor, tensor)


@pytest.mark.slow
def test_tensorflow_without_values(a, g):
    """Symbolic tensors and variables are refused by name; the ways to call all the same."""
    with opened("tensorflow") as kit:
        import tensorflow as tf

    expected = fusedcam.cam(a, g)
    variable = tf.Variable(a)
    with pytest.raises(TypeError, match=r"activations must be an array .* not ResourceVariable"):
        fusedcam.cam(variable, tf.constant(g))
    assert kit.back(fusedcam.cam(variable.value(), tf.constant(g))).tobytes() == expected.tobytes()
    with pytest.raises(TypeError, match=r"activations must be an array .* not SymbolicTensor"):
        tf.function(fusedcam.cam, autograph=False)(tf.constant(a), tf.constant(g))
    called = tf.function(lambda a, g: tf.numpy_function(fusedcam.cam, [a, g], tf.float32))
    assert kit.back(called(a, g)).tobytes() == expected.tobytes()
