// Runs tokens through llama.cpp and writes what it computes, for llama_parity.py.
//
//   llama_driver MODEL.gguf text              stdin: text; ids, int32
//   llama_driver MODEL.gguf PREFILL ID ID ... logits, float32 [ids, vocabulary]
//   llama_driver MODEL.gguf draft ID ID ...   the draft head's logits after each of
//                                             these tokens; stdin: the main model's
//                                             states before them, float32 [ids, width]
//   llama_driver MODEL.gguf quantize FTYPE OUT.gguf   a number of enum llama_ftype
//
// The first PREFILL tokens are read at once, the others one by one. In fp32 wherever
// llama.cpp lets us choose, so that only rounding is left to differ.
#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

static void check(bool fine, const char * what) {
    if (!fine) {
        fprintf(stderr, "llama_driver: %s\n", what);
        exit(1);
    }
}

static void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static void write_out(const void * data, size_t size, size_t count) {
    check(data != nullptr && fwrite(data, size, count, stdout) == count, "cannot write");
}

static void tokenize(const llama_vocab * vocab, const std::string & text) {
    std::vector<llama_token> ids(text.size() + 1);
    int count = llama_tokenize(vocab, text.data(), text.size(), ids.data(), ids.size(),
                               false, true);
    check(count >= 0, "cannot tokenize");
    write_out(ids.data(), sizeof(llama_token), count);
}

static llama_context * context_for(llama_model * model, int tokens, bool draft) {
    llama_context_params options = llama_context_default_params();
    options.n_ctx = options.n_batch = options.n_ubatch = tokens;
    options.n_outputs_max = tokens;
    options.n_threads = options.n_threads_batch = 1;
    options.type_k = options.type_v = GGML_TYPE_F32;
    options.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    options.ctx_type = draft ? LLAMA_CONTEXT_TYPE_MTP : LLAMA_CONTEXT_TYPE_DEFAULT;
    llama_context * context = llama_init_from_model(model, options);
    check(context != nullptr, "cannot make a context");
    return context;
}

// Reads ids[at .. at + count), each with its state if `states` is given.
static void step(llama_context * context, std::vector<llama_token> & ids, int at,
                 int count, float * states, int width, int vocabulary) {
    std::vector<llama_pos> places(count);
    std::vector<int32_t> one(count, 1);
    std::vector<int8_t> wanted(count, 1);
    llama_seq_id first = 0;
    std::vector<llama_seq_id *> sequence(count, &first);
    for (int i = 0; i < count; i++) {
        places[i] = at + i;
    }
    llama_batch batch = {};
    batch.n_tokens = count;
    batch.token = ids.data() + at;
    batch.embd = states == nullptr ? nullptr : states + (size_t) at * width;
    batch.pos = places.data();
    batch.n_seq_id = one.data();
    batch.seq_id = sequence.data();
    batch.logits = wanted.data();
    check(llama_decode(context, batch) == 0, "cannot decode");
    for (int i = 0; i < count; i++) {
        write_out(llama_get_logits_ith(context, i), sizeof(float), vocabulary);
    }
}

static void quantize(const char * model, int type, const char * out) {
    llama_model_quantize_params options = llama_model_quantize_default_params();
    options.ftype = (llama_ftype) type;
    options.nthread = 1;
    options.allow_requantize = true;
    check(llama_model_quantize(model, out, &options) == 0, "cannot quantize");
}

int main(int argc, char ** argv) {
    check(argc > 2, "usage: llama_driver MODEL.gguf MODE ...; see its source");
    bool text = strcmp(argv[2], "text") == 0, draft = strcmp(argv[2], "draft") == 0;
    llama_log_set(quiet, nullptr);
    llama_backend_init();
    if (strcmp(argv[2], "quantize") == 0 && argc == 5) {
        quantize(argv[1], atoi(argv[3]), argv[4]);
        return 0;
    }
    llama_model_params options = llama_model_default_params();
    options.use_extra_bufts = false;  // no repacking into other formats
    options.load_mtp = draft;
    options.vocab_only = text;
    llama_model * model = llama_model_load_from_file(argv[1], options);
    check(model != nullptr, "cannot load the model");
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::string input;
    if (text || draft) {
        input.assign(std::istreambuf_iterator<char>(std::cin), {});
    }
    if (text) {
        tokenize(vocab, input);
        return 0;
    }
    std::vector<llama_token> ids;
    for (int i = 3; i < argc; i++) {
        ids.push_back(atoi(argv[i]));
    }
    int total = ids.size(), width = llama_model_n_embd(model);
    int first = draft ? total : atoi(argv[2]);
    check(0 < first && first <= total, "PREFILL is not 1 to the number of ids");
    std::vector<float> states(draft ? (size_t) total * width : 0);
    check(!draft || input.size() == states.size() * sizeof(float), "states missing");
    memcpy(states.data(), input.data(), draft ? input.size() : 0);

    llama_context * context = context_for(model, total, draft);
    for (int at = 0, count = first; at < total; at += count, count = 1) {
        step(context, ids, at, count, draft ? states.data() : nullptr, width,
             llama_vocab_n_tokens(vocab));
    }
    llama_free(context);
    llama_model_free(model);
    return 0;
}
