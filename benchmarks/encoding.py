"""Compare ways to run the encoder's network, on one thread: `python -m benchmarks.encoding`.

The encoder `mnist` has convolutions in 8 bits, whose ranges were measured before. All candidates but the first two run
a network of the same architecture with random weights, because the weights do not change the speed. The candidates take
turns, so that other load on the machine slows all equally.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Table, machine, versions
from benchmarks.timing import seconds
from encoder_service.encoder import load_encoder

Inputs = NDArray[np.float32]
# Encodes inputs, (n, 28, 28, 1), into codes.
Encode = Callable[[Inputs], Any]

_BATCH = 64
# Number of rounds, and of encodings of one image in a round.
_ROUNDS, _SINGLE = 30, 20


def compare(rounds: int = _ROUNDS) -> Table:
    """Time each way with one image and with a batch, and return one row for each."""
    inputs = np.random.default_rng(1).random((_BATCH, 28, 28, 1), np.float32)
    ways: dict[str, Encode] = {f"encoder `{name}`": load_encoder(name).encode for name in ("mnist", "seed")}
    ways.update(_networks())
    single: dict[str, list[float]] = {name: [] for name in ways}
    batch: dict[str, list[float]] = {name: [] for name in ways}
    for encode in ways.values():
        encode(inputs[:1])
        encode(inputs)
    for _ in range(rounds):
        for name, encode in ways.items():
            single[name] += [seconds(partial(encode, inputs[:1])) for _ in range(_SINGLE)]
            batch[name].append(seconds(partial(encode, inputs)))
    rows = [(name, f"{median(single[name]) * 1e3:.3f}", f"{_BATCH / median(batch[name]):,.0f}") for name in ways]
    packages = versions(["ai-edge-litert", "tensorflow-cpu", "keras", "onnxruntime", "ai-edge-quantizer"])
    note = f"{(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n{packages}."
    return Table("Encoding", ("way", "one image, ms", f"in batches of {_BATCH}, images a second"), rows, note)


def _networks() -> Iterator[tuple[str, Encode]]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from training.model import contrastive

    network = contrastive((28, 28, 1)).encoder
    content = _quiet(tf.lite.TFLiteConverter.from_keras_model(network).convert)
    yield "LiteRT, 32-bit floats", _litert(content)
    yield "LiteRT, all layers in 8 bits, ranges measured at run time", _litert(_quantised(content))
    yield "ONNX Runtime", _onnx(network)
    yield "TensorFlow, `tf.function`", tf.function(partial(network, training=False))
    yield "Keras, `predict`", partial(network.predict, batch_size=_BATCH, verbose=0)


def _litert(content: bytes) -> Encode:
    from ai_edge_litert.interpreter import Interpreter

    def runner(count: int) -> Encode:
        interpreter = Interpreter(model_content=content, num_threads=1)
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], (count, 28, 28, 1))
        interpreter.allocate_tensors()

        def run(inputs: Inputs) -> Any:
            interpreter.set_tensor(given["index"], inputs)
            interpreter.invoke()
            return interpreter.get_tensor(made["index"])

        return run

    runners = {count: runner(count) for count in (1, _BATCH)}
    return lambda inputs: runners[len(inputs)](inputs)


def _quantised(content: bytes) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    quantise = quantizer.Quantizer(content, recipe.dynamic_wi8_afp32()).quantize
    return bytes(_quiet(quantise).quantized_model)


def _onnx(network: Any) -> Encode:
    import onnxruntime
    import tf2onnx

    model, _ = _quiet(partial(tf2onnx.convert.from_keras, network))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})


def _quiet(convert: Callable[[], Any]) -> Any:
    """Convert a model without the report that the converters print."""
    with contextlib.redirect_stdout(io.StringIO()):
        return convert()


if __name__ == "__main__":
    print(machine())
    print(compare())
