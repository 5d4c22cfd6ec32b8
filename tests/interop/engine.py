"""llama.cpp's own engine, as the PyPI package xllamacpp brings it: a file loaded on the CPU, and its answers."""

import json
from pathlib import Path


def server(path: Path, n_ctx: int):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = n_ctx
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.check_tensors = True
    params.warmup = False
    params.fit_params = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def choice(server, request: dict) -> dict:
    """The first choice of a completion."""
    answer = server.handle_completions(request)
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    if "choices" not in answer:
        raise RuntimeError(f"llama.cpp answered {answer}")
    return answer["choices"][0]
