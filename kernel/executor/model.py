"""Any causal language model that transformers knows, with our attention in it.

Nothing here is about one architecture: which layers there are, their heads and dimensions, is
found by running the model once with an attention function that takes notes. What cannot run over
pages is refused with the reason.
"""

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from llmos.syscalls.errors import E_MODEL

from ..modelfiles import BATCH_BOUND_ROPE
from .attention import ATTENTION_NAME, LayerShape, attend, probing
from .checkpoint import compute_fingerprint, find_checkpoint
from .device import pick_device, pick_dtype
from .gpu.support import runs_ops
from .native.library import compute_digest, has_native_kernels, list_instructions
from .native.modules import replace_modules
from .native.pool import fits
from .native.rotary import replace_rotation
from .protocol import Load
from .startup import without_compiler

_KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
_SMALL_MODEL_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class Model:
    """A loaded model; `layers` are the shapes of its attention layers, by layer index."""

    network: Any
    tokenizer: Any
    layers: tuple[LayerShape, ...]
    device: torch.device
    dtype: torch.dtype  # of all that is computed, and of the pages
    weight_dtype: torch.dtype  # the same, or int8
    is_native: bool  # whether the compiled kernels run it
    is_triton: bool  # whether Triton's ops compute its attention
    architecture: str
    num_parameters: int
    max_model_len: int
    fingerprint: str

    def compute_logits(
        self, tokens: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Logits [len(rows), vocabulary] of these rows of one packed row of tokens."""
        output = self.network(
            input_ids=tokens.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=rows,
        )
        return output.logits[0]  # type: ignore[no-any-return]


def load_model(spec: Load) -> Model:
    """Load from a folder or the hub. Raises E_MODEL with the reason and, if any, the fix."""
    folder = find_checkpoint(spec.model)
    device = pick_device(spec.device)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # ops, streams and graphs are the current device's
    weight_dtype = pick_dtype(spec.dtype, device)
    is_int8 = weight_dtype == torch.int8
    dtype = torch.bfloat16 if is_int8 else weight_dtype
    set_verbosity_error()
    disable_progress_bar()
    config = _load_config(folder)
    network, layers = _load_layers(folder, config, device, dtype)
    is_half = device.type == "cpu" and dtype == torch.bfloat16
    if is_half and spec.dtype == "auto" and not fits(layers):
        dtype = weight_dtype = torch.float32  # torch's own bfloat16 is slower than that
        network, layers = _load_layers(folder, config, device, dtype)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    _set_threads(device, num_parameters)
    is_native = is_half and _pack(network, config, layers, is_int8=is_int8)
    if is_int8 and not is_native:
        reason = f"{folder}: the compiled kernels, which int8 needs, do not take its attention"
        raise E_MODEL(f"{reason}; fix: dtype = auto or bfloat16", field="dtype")
    kernels = compute_digest(list_instructions()[0]) if is_native else ""
    return Model(
        network=network,
        tokenizer=_load_tokenizer(folder),
        layers=layers,
        device=device,
        dtype=dtype,
        weight_dtype=weight_dtype,
        is_native=is_native,
        is_triton=runs_ops(device),
        architecture=type(network).__name__,
        num_parameters=num_parameters,
        max_model_len=_find_window(config, spec.max_model_len),
        fingerprint=compute_fingerprint(
            folder, device.type, str(weight_dtype), torch.__version__, kernels
        ),
    )


def _set_threads(device: torch.device, num_parameters: int) -> None:
    """A small model's products are over before a second thread has woken up."""
    if device.type == "cpu" and num_parameters < _SMALL_MODEL_PARAMETERS:
        torch.set_num_threads(1)


def _pack(network: Any, config: Any, layers: tuple[LayerShape, ...], *, is_int8: bool) -> bool:
    """Put the network on the compiled kernels, if this machine has them and its layers fit.

    Running it once more shows that it takes the parts that it was given.
    """
    if not fits(layers) or not has_native_kernels():
        return False
    replace_modules(network, is_int8=is_int8)
    replace_rotation(network, layers[0].key_dim)
    return _find_layers(network, config, torch.device("cpu")) == layers


def _load_config(folder: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        fix = "fix: copy or download the folder's files again"
        raise E_MODEL(f"{folder}/config.json cannot be used: {reason}; {fix}") from None
    if config.is_encoder_decoder:
        raise E_MODEL(f"{config.model_type} is an encoder-decoder; only causal models run")
    text = config.get_text_config()
    unknown = set(getattr(text, "layer_types", None) or ()) - _KNOWN_LAYER_TYPES
    if unknown:
        raise E_MODEL(
            f"{config.model_type} has {min(unknown)} layers (state-space or another kind);"
            " only full and sliding-window attention run over pages"
        )
    return text


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _load_layers(
    folder: Path, config: Any, device: torch.device, dtype: torch.dtype
) -> tuple[Any, tuple[LayerShape, ...]]:
    """The network and its layers' shapes, without the compiler unless the code cannot do so."""

    def load() -> tuple[Any, tuple[LayerShape, ...]]:
        network = _load_network(folder, config, device, dtype)
        return network, _find_layers(network, config, device)

    try:
        with without_compiler():
            return load()
    except (AttributeError, ImportError):
        return load()


def _load_network(folder: Path, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AttentionInterface, AutoModelForCausalLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise E_MODEL(f"{config.model_type} is not a causal language model")
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    _check_architecture(kind, config.model_type)
    AttentionInterface.register(ATTENTION_NAME, attend)
    try:
        network, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=ATTENTION_NAME,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise E_MODEL(f"{folder} cannot be loaded: {_first_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        raise E_MODEL(f"{folder} lacks {len(missing)} of the model's weights: {missing[0]}, ...")
    return network.to(device).eval()


def _check_architecture(kind: Any, model_type: str) -> None:
    """Raises E_MODEL for a class that keeps other state than keys and values, or hides them."""
    if getattr(kind, "_is_stateful", False):
        raise E_MODEL(f"{model_type} is a state-space model: it keeps a state that has no pages")
    if not getattr(kind, "_supports_attention_backend", False):
        raise E_MODEL(f"{model_type} does not call transformers' attention interface")
    parameters = inspect.signature(kind.forward).parameters
    for name in ("position_ids", "logits_to_keep"):
        if name not in parameters:
            raise E_MODEL(f"{model_type} takes no {name}: its tokens cannot be packed")


def _find_window(config: Any, wanted: int | None) -> int:
    """The largest context in tokens: the model's own, or less where the user wants less.

    Rotary scalings that change with the longest text in the batch would make a result depend on
    its neighbours, so those models end where the scaling begins.
    """
    window = getattr(config, "max_position_embeddings", None) or 2048
    rope = getattr(config, "rope_parameters", None) or {}
    scaling = str(rope.get("rope_type", "default"))
    if scaling in BATCH_BOUND_ROPE:
        window = rope.get("original_max_position_embeddings") or window
    return min(window, wanted or window)


@torch.inference_mode()
def _find_layers(network: Any, config: Any, device: torch.device) -> tuple[LayerShape, ...]:
    """Run one token and note what each layer's attention was given."""
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with probing() as found:
        network(input_ids=token, position_ids=token, use_cache=False)
    num_layers = config.num_hidden_layers
    if sorted(found) != list(range(num_layers)):
        raise E_MODEL(
            f"{type(network).__name__}: {len(found)} of {num_layers} layers call the attention"
            " interface; the others keep a state that has no pages"
        )
    return tuple(found[index] for index in range(num_layers))


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = f"{folder} has no usable tokenizer: {_first_line(error)}"
        raise E_MODEL(f"{reason}; fix: give a folder with a working tokenizer.json") from None
    if not tokenizer.is_fast:
        raise E_MODEL(f"{folder} has no tokenizer.json; fix: save its tokenizer in that form")
    return tokenizer
