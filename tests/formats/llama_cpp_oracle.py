"""What llama.cpp makes of a GGUF file, as JSON: run by any Python that has llama-cpp-python.

Arguments: the file, and JSON {"tokens": [...], "texts": [...], "encoder": bool}. Prints {"rows": ..., "texts": ...}:
one row a token (logits, or an encoder's hidden states), and the tokens of each text.
"""

import ctypes
import json
import sys

import llama_cpp


def main(path: str, asked: dict) -> dict:
    encoder = asked["encoder"]
    # Keys and values in F32 (ggml type 0): the default of F16 would hide small differences.
    model = llama_cpp.Llama(
        path, n_ctx=128, n_batch=128, n_ubatch=128, n_threads=1, n_threads_batch=1, logits_all=not encoder,
        embedding=encoder, pooling_type=0 if encoder else -1, type_k=0, type_v=0, flash_attn=False, verbose=False,
    )  # fmt: skip
    tokens = asked["tokens"]
    if encoder:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
            batch.seq_id[place][0], batch.logits[place] = 0, 1
        context = model.ctx
        assert llama_cpp.llama_encode(context, batch) == 0
        width = model.n_embd()
        rows = [
            list(ctypes.cast(llama_cpp.llama_get_embeddings_ith(context, i), ctypes.POINTER(ctypes.c_float))[:width])
            for i in range(len(tokens))
        ]
    else:
        model.eval(tokens)
        rows = model.scores[: len(tokens)].tolist()
    texts = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
    return {"rows": rows, "texts": texts}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
